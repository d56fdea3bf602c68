//! One piece of software as a host reports it.

use aws_lc_rs::digest::{Context, SHA256};

/// The most pieces of software that are kept per host; what exceeds them is left out and logged.
pub const MAX_ENTRIES_PER_HOST: usize = 20_000;
/// The longest name and version in characters; the rest is cut off.
const MAX_NAME_CHARACTERS: usize = 255;
/// The longest of the other texts in characters; the rest is cut off.
const MAX_OTHER_CHARACTERS: usize = 255;

/// One piece of software on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SoftwareEntry {
    /// What it is called.
    pub name: String,
    /// Its version, as its package manager writes it.
    pub version: String,
    /// Which inventory it comes from: `deb_packages`, `rpm_packages`, `python_packages`, `npm_packages`, …
    pub source: String,
    /// The browser that an extension belongs to.
    pub browser: String,
    /// The id of an extension.
    pub extension_id: String,
    /// The identifier of a macOS bundle.
    pub bundle_identifier: String,
    /// The release of a package, where that is apart from the version (rpm).
    pub release: String,
    /// Who made it.
    pub vendor: String,
    /// Its architecture.
    pub arch: String,
}

impl SoftwareEntry {
    /// With texts cut to their limits; none when it has no name or no source.
    pub(crate) fn normalized(mut self) -> Option<Self> {
        for text in [&mut self.name, &mut self.version] {
            cut(text, MAX_NAME_CHARACTERS);
        }
        for text in [
            &mut self.source,
            &mut self.browser,
            &mut self.extension_id,
            &mut self.bundle_identifier,
            &mut self.release,
            &mut self.vendor,
            &mut self.arch,
        ] {
            cut(text, MAX_OTHER_CHARACTERS);
        }
        (!self.name.is_empty() && !self.source.is_empty()).then_some(self)
    }

    /// What tells it apart from every other piece of software. The length before each text keeps ("ab", "c") and
    /// ("a", "bc") apart.
    pub(crate) fn checksum(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        for text in [
            &self.name,
            &self.version,
            &self.source,
            &self.browser,
            &self.extension_id,
            &self.bundle_identifier,
            &self.release,
            &self.vendor,
            &self.arch,
        ] {
            context.update(&(text.len() as u64).to_le_bytes());
            context.update(text.as_bytes());
        }
        context
            .finish()
            .as_ref()
            .try_into()
            .expect("SHA-256 has 32 bytes")
    }
}

/// Trims, takes out what databases refuse (NUL), and cuts.
fn cut(text: &mut String, characters: usize) {
    if text.contains('\0') {
        text.retain(|character| character != '\0');
    }
    let trimmed = text.trim();
    if trimmed.len() != text.len() {
        *text = trimmed.to_owned();
    }
    if let Some((end, _)) = text.char_indices().nth(characters) {
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_characters_and_nameless_software_is_left_out() {
        let long = SoftwareEntry {
            name: format!(" {} ", "é".repeat(300)),
            source: "deb\0_packages".to_owned(),
            ..SoftwareEntry::default()
        };
        let entry = long.normalized().unwrap();
        assert_eq!(entry.name.chars().count(), 255);
        assert_eq!(entry.source, "deb_packages");
        assert_eq!(SoftwareEntry::default().normalized(), None);
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let entry = |name: &str, version: &str| SoftwareEntry {
            name: name.to_owned(),
            version: version.to_owned(),
            ..SoftwareEntry::default()
        };
        assert_ne!(entry("ab", "c").checksum(), entry("a", "bc").checksum());
        assert_eq!(entry("a", "b").checksum(), entry("a", "b").checksum());
    }
}
