//! Reading members that clients spell in several ways.

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::{Map, Value};

/// `null` counts as absent.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Absent and `null` differ: an absent member is `None` (by its default), `null` is `Some(None)`.
#[expect(clippy::option_option, reason = "absent and null are different wishes")]
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// A document that may be `null`: that is kept, since `null` and absent differ in answers.
pub(crate) fn document<'de, D>(deserializer: D) -> Result<Option<Value>, D::Error>
where
    D: Deserializer<'de>,
{
    Value::deserialize(deserializer).map(Some)
}

/// An absent member keeps what is stored, `null` clears it: the type's default.
pub(crate) fn cleared<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    or_default(deserializer).map(Some)
}

/// An empty text counts as absent.
pub(crate) fn filled<'de, D>(deserializer: D) -> Result<Option<String>, D::Error>
where
    D: Deserializer<'de>,
{
    let text: Option<String> = Option::deserialize(deserializer)?;
    Ok(text.filter(|text| !text.is_empty()))
}

/// Id 0 counts as absent: fleetctl writes it for "none".
pub(crate) fn id<'de, D>(deserializer: D) -> Result<Option<i64>, D::Error>
where
    D: Deserializer<'de>,
{
    let id: Option<i64> = Option::deserialize(deserializer)?;
    Ok(id.filter(|id| *id != 0))
}

/// Names without the empty ones: an unused list arrives from fleetctl as `[""]`.
pub(crate) fn names<'de, D>(deserializer: D) -> Result<Vec<String>, D::Error>
where
    D: Deserializer<'de>,
{
    let names: Vec<Option<String>> = or_default(deserializer)?;
    let names = names.into_iter().flatten();
    Ok(names.filter(|name| !name.is_empty()).collect())
}

/// An object in which members under new names are given their old ones. Where both are there the old one counts: a
/// client that knows both writes the same twice, and serde's aliases would refuse it.
pub(crate) fn old_spelling<'de, D>(
    deserializer: D,
    pairs: &[(&str, &str)],
) -> Result<Value, D::Error>
where
    D: Deserializer<'de>,
{
    let mut members = Option::<Map<String, Value>>::deserialize(deserializer)
        .map_err(D::Error::custom)?
        .unwrap_or_default();
    for (new, old) in pairs {
        if let Some(value) = members.shift_remove(*new) {
            members.entry(*old).or_insert(value);
        }
    }
    Ok(Value::Object(members))
}

/// Makes a type whose derive is `remote = "Self"` readable under the spellings of 2026 as well.
macro_rules! respelled {
    ($name:ty: $($new:literal => $old:literal),+) => {
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let members = $crate::reading::old_spelling(deserializer, &[$(($new, $old)),+])?;
                Self::deserialize(members).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use respelled;
