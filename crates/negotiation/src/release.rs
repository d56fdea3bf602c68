//! Releases of our programs.

use std::fmt;
use std::str::FromStr;

/// A release: major, minor and patch, compared in that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release {
    /// Raised when something that was promised ends.
    pub major: u16,
    /// Raised by each release with something new.
    pub minor: u16,
    /// Raised by repairs.
    pub patch: u16,
}

/// The text is not a release such as `0.1.0`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a release such as 0.1.0")]
pub struct ParseReleaseError(String);

impl Release {
    /// A release by its numbers.
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// The release that this program was built as.
    pub fn current() -> Self {
        env!("CARGO_PKG_VERSION")
            .parse()
            .expect("the workspace's version is a release")
    }
}

impl FromStr for Release {
    type Err = ParseReleaseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseReleaseError(text.chars().take(32).collect());
        // What follows a `-` or `+` names a build of the same release.
        let numbers = text.split(['-', '+']).next().unwrap_or_default();
        let mut parts = numbers.split('.').map(str::parse);
        let mut next = || parts.next().and_then(Result::ok).ok_or_else(wrong);
        let release = Self::new(next()?, next()?, next()?);
        if parts.next().is_some() {
            Err(wrong())
        } else {
            Ok(release)
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_and_ordered_by_number() {
        let order = ["0.1.0", "0.2.0", "0.10.0", "1.0.0-rc.1", "1.0.1+build"];
        let releases: Vec<Release> = order.iter().map(|text| text.parse().unwrap()).collect();
        assert!(releases.is_sorted());
        for text in ["", "1", "1.2", "1.2.3.4", "a.b.c", "1.2.99999", "v1.2.3"] {
            assert!(text.parse::<Release>().is_err(), "{text}");
        }
        assert_eq!(Release::current().to_string(), env!("CARGO_PKG_VERSION"));
    }
}
