//! What a version of a configuration is made of: files by name, and the hash over them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The most files of one version.
pub const MAX_FILES: usize = 16;
/// The largest file, in bytes.
pub const MAX_FILE_BYTES: usize = 256 * 1024;
/// The most that all files of one version come to, in bytes: with everything beside it this fits into one message.
pub const MAX_VERSION_BYTES: usize = 512 * 1024;
/// The longest name of a file, in bytes.
pub(crate) const MAX_FILE_NAME_BYTES: usize = 255;
/// The longest content type, in bytes.
pub(crate) const MAX_CONTENT_TYPE_BYTES: usize = 100;
/// How many versions of a configuration are kept, those that somebody should run beside.
pub const MAX_VERSIONS_KEPT: usize = 100;
/// How many configurations one team may have, and how many there may be without a team.
pub(crate) const MAX_CONFIGURATIONS: usize = 1_000;
/// The longest name of a configuration, in characters.
pub(crate) const MAX_NAME_CHARACTERS: usize = 255;
/// The longest description or note, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 4 * 1024;

/// The type of files that say nothing else.
pub(crate) const DEFAULT_CONTENT_TYPE: &str = "text/yaml";

/// A file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its content.
    pub body: String,
    /// Its type, such as `text/yaml`.
    #[serde(default = "default_content_type")]
    pub content_type: String,
}

fn default_content_type() -> String {
    DEFAULT_CONTENT_TYPE.to_owned()
}

/// The files of a version by name; one may have the empty name, which agents merge last.
pub type Files = BTreeMap<String, File>;

/// What a configuration is for, and so how it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CollectorConfigKind)]
pub enum Kind {
    /// An OpenTelemetry collector: sections of components, and pipelines that refer to them.
    Collector,
    /// Another agent, such as an SDK: YAML or JSON, whatever is in it.
    Other,
}

impl Kind {
    /// The text in the database and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Collector => "collector",
            Self::Other => "other",
        }
    }

    /// From the database; what a newer release wrote is looked at least closely.
    pub(crate) fn from_text(text: &str) -> Self {
        match text {
            "collector" => Self::Collector,
            _ => Self::Other,
        }
    }
}

/// The hash of a version as hexadecimal digits: SHA-256 over names, content types and bodies, each after its length, so that no
/// two different sets of files have the same.
pub fn hash(files: &Files) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for (name, file) in files {
        for part in [
            name.as_bytes(),
            file.content_type.as_bytes(),
            file.body.as_bytes(),
        ] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
    }
    data_encoding::HEXLOWER.encode(context.finish().as_ref())
}

/// Why files are refused before anybody looks into them: the file, and what would be right.
pub(crate) fn check_limits(files: &Files) -> Result<(), String> {
    if files.is_empty() {
        return Err(
            "has no files; some agents stop when they are given none, so give at least one".into(),
        );
    }
    if files.len() > MAX_FILES {
        return Err(format!(
            "has {} files; at most {MAX_FILES} are allowed",
            files.len()
        ));
    }
    let mut total = 0;
    for (name, file) in files {
        let shown = display_name(name);
        if name.len() > MAX_FILE_NAME_BYTES
            || name.chars().any(char::is_control)
            || name != name.trim()
        {
            return Err(format!(
                "the name of the file {shown} must be at most {MAX_FILE_NAME_BYTES} bytes, without control characters, and \
                 not begin or end with a space"
            ));
        }
        if file.content_type.len() > MAX_CONTENT_TYPE_BYTES
            || !file
                .content_type
                .bytes()
                .all(|b| b.is_ascii_graphic() || b == b' ')
        {
            return Err(format!(
                "the content type of the file {shown} must look like text/yaml"
            ));
        }
        if file.body.len() > MAX_FILE_BYTES {
            return Err(format!(
                "the file {shown} has {} bytes; at most {MAX_FILE_BYTES} are allowed",
                file.body.len()
            ));
        }
        if let Some(at) = file.body.find('\0') {
            let line = file.body[..at].matches('\n').count() + 1;
            return Err(format!(
                "the file {shown} has a zero byte in line {line}; is it text?"
            ));
        }
        total += name.len() + file.content_type.len() + file.body.len();
    }
    if total > MAX_VERSION_BYTES {
        return Err(format!(
            "all files come to {total} bytes; at most {MAX_VERSION_BYTES} are allowed"
        ));
    }
    Ok(())
}

/// The name of a file for messages: the empty one cannot be seen.
pub(crate) fn display_name(name: &str) -> String {
    if name.is_empty() {
        "(unnamed)".to_owned()
    } else {
        super::yaml::shown(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(body: &str) -> File {
        File {
            body: body.to_owned(),
            content_type: DEFAULT_CONTENT_TYPE.to_owned(),
        }
    }

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(name, body)| ((*name).to_owned(), file(body)))
            .collect()
    }

    #[test]
    fn the_hash_is_sha_256_over_lengths_and_parts() {
        // Computed by: printf '\0\0\0\0\0\0\0\1a\0\0\0\0\0\0\0\11text/yaml\0\0\0\0\0\0\0\4x: 1' | sha256sum
        assert_eq!(
            hash(&files(&[("a", "x: 1")])),
            "6576868154fe3fe759f17e3f37380994e46dc7bbadaf0aa848d6c925beeb2532"
        );
    }

    #[test]
    fn names_bodies_and_types_cannot_be_shifted_into_one_another() {
        let one = hash(&files(&[("ab", "c")]));
        assert_ne!(one, hash(&files(&[("a", "bc")])));
        assert_ne!(one, hash(&files(&[("ab", "c"), ("", "")])));
        let mut typed = files(&[("ab", "c")]);
        typed.get_mut("ab").unwrap().content_type = "application/json".into();
        assert_ne!(one, hash(&typed));
    }

    #[test]
    fn limits_say_what_would_be_right() {
        let large = "x".repeat(MAX_FILE_BYTES + 1);
        let half = "x".repeat(MAX_FILE_BYTES - 100);
        let many: Files = (0..=MAX_FILES)
            .map(|n| (n.to_string(), file("a: 1")))
            .collect();
        let cases = [
            Files::new(),
            many,
            files(&[("big.yaml", &large)]),
            files(&[("a", &half), ("b", &half), ("c", &half)]),
            files(&[("", "a: 1\nb: \0")]),
            files(&[("a\nb", "")]),
            files(&[(" a", "")]),
        ];
        let lines: Vec<String> = cases
            .iter()
            .map(|files| check_limits(files).unwrap_err())
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
        assert_eq!(
            check_limits(&files(&[("", "a: 1"), ("b.yaml", "")])),
            Ok(())
        );
    }

    proptest! {
        #[test]
        fn different_files_have_different_hashes(a in proptest::collection::btree_map("[ab]{0,3}", "[ab]{0,3}", 0..4),
            b in proptest::collection::btree_map("[ab]{0,3}", "[ab]{0,3}", 0..4)) {
            let of = |map: &BTreeMap<String, String>| -> Files { map.iter().map(|(name, body)| (name.clone(), file(body)))
                .collect() };
            prop_assert_eq!(hash(&of(&a)) == hash(&of(&b)), a == b);
        }
    }
}
