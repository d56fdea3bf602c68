//! Names of components and pipelines: a type, or a type and a name.

use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory as _};

/// The longest type of a component, in bytes.
const MAX_TYPE_BYTES: usize = 63;
/// The longest name that tells components of one type apart, in characters.
const MAX_COMPONENT_NAME_CHARACTERS: usize = 1_024;

/// The type in a name such as `otlp/internal`; none when it is no name of a component.
pub(super) fn type_of(id: &str) -> Option<&str> {
    let (type_name, name) = match id.split_once('/') {
        Some((type_name, name)) => (type_name, Some(name)),
        None => (id, None),
    };
    let (type_name, name) = (type_name.trim(), name.map(str::trim));
    let is_type = type_name.len() <= MAX_TYPE_BYTES
        && type_name.starts_with(|c: char| c.is_ascii_alphabetic())
        && type_name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let is_name = name.is_none_or(|name| {
        !name.is_empty()
            && name.chars().count() <= MAX_COMPONENT_NAME_CHARACTERS
            && name.chars().all(is_name_character)
    });
    (is_type && is_name).then_some(type_name)
}

/// Neither a separator nor a symbol nor what cannot be seen: as collectors have it, characters of later editions of Unicode
/// may stand in a name.
fn is_name_character(c: char) -> bool {
    let is_other = matches!(
        c.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::PrivateUse
            | GeneralCategory::Surrogate
    );
    let group = c.general_category_group();
    !is_other
        && !matches!(
            group,
            GeneralCategoryGroup::Separator | GeneralCategoryGroup::Symbol
        )
}

/// A name of a component or pipeline as collectors compare it: spaces around type and name do not count.
pub(super) fn id_of(key: &str) -> String {
    match key.split_once('/') {
        Some((type_name, name)) => format!("{}/{}", type_name.trim(), name.trim()),
        None => key.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `otelcol validate` of version 0.158 said of a receiver `nop/NAME`.
    #[test]
    fn names_are_those_that_a_real_collector_takes() {
        for name in ["a-b.c_d:e/f@#%&*()!?;", "ä東", " a ", "1"] {
            assert_eq!(type_of(&format!("nop/{name}")), Some("nop"), "{name}");
        }
        for name in [
            "",
            " ",
            "a b",
            "a+b",
            "a=b",
            "a<b",
            "a~b",
            "a`b",
            "a^b",
            "a|b",
            "a$b",
            "€",
            "a\u{200b}b",
        ] {
            assert_eq!(type_of(&format!("nop/{name}")), None, "{name}");
        }
        assert_eq!(id_of(" otlp / x"), "otlp/x");
        assert_eq!(type_of(" otlp / x"), Some("otlp"));
    }
}
