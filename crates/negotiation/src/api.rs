//! API families and their versions.

use std::fmt;

/// Where the version of an API family comes from.
#[derive(Debug, Clone, Copy)]
pub struct ApiFamily {
    /// The name that people know.
    pub name: &'static str,
    /// Where its paths begin.
    pub root: &'static str,
    /// Where the version comes from.
    pub version_from: &'static str,
    /// The versions that are served.
    pub served: &'static [&'static str],
    /// The oldest version that is still needed, by whom.
    pub oldest_needed: &'static str,
}

/// Every API family that the server serves.
pub const FAMILIES: &[ApiFamily] = &[
    ApiFamily {
        name: "osquery",
        root: "/api/osquery and /api/v1/osquery",
        version_from: "none: both roots mean the same for ever",
        served: &["both roots"],
        oldest_needed: "/api/v1/osquery: every orbit configures it",
    },
    ApiFamily {
        name: "orbit",
        root: "/api/fleet/orbit",
        version_from: "none: capabilities in X-Fleet-Capabilities",
        served: &["one"],
        oldest_needed: "orbit of 2022, which sends two keys at enrollment and no capabilities",
    },
    ApiFamily {
        name: "device",
        root: "/api/{version}/fleet/device",
        version_from: "path",
        served: &["v1", "2022-04", "latest"],
        oldest_needed: "latest: Fleet Desktop asks for it",
    },
    ApiFamily {
        name: "Fleet user API",
        root: "/api/{version}/fleet",
        version_from: "path",
        served: &["v1", "2022-04", "latest"],
        oldest_needed: "v1: scripts and `fleetctl api`",
    },
    ApiFamily {
        name: "Muster",
        root: "/api/muster",
        version_from: "header Muster-Api-Version; absent means the oldest served",
        served: &["1"],
        oldest_needed: "1: the muster CLI of release 0.1.0",
    },
];

/// A version of Fleet's user and device APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FleetVersion {
    /// `v1`: everything, with the old spellings of a few routes.
    V1,
    /// `2022-04`: without the routes that ended with v1.
    V2022_04,
    /// `latest`: the newest.
    Latest,
}

impl FleetVersion {
    /// All that are served.
    pub const ALL: [Self; 3] = [Self::V1, Self::V2022_04, Self::Latest];

    /// As it stands in paths.
    pub fn segment(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2022_04 => "2022-04",
            Self::Latest => "latest",
        }
    }

    /// The version of that name.
    pub fn parse(segment: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.segment() == segment)
    }

    /// Whether a route (its path below `/api/{version}/fleet`) exists in this version. `/global/…` and `/sso` ended with v1;
    /// the former's successors `/policies…` and `/schedule…` came after it.
    pub fn serves(self, route: &str) -> bool {
        let under = |prefix: &str| {
            route
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match self {
            Self::V1 => !under("/policies") && !under("/schedule") && !under("/packs/schedule"),
            Self::V2022_04 | Self::Latest => !under("/global") && !under("/sso"),
        }
    }
}

/// A version of our own API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NativeVersion(u32);

impl NativeVersion {
    /// Release 0.1.0.
    pub const V1: Self = Self(1);
    /// The oldest that is served: what a client gets that asks for none.
    pub const OLDEST: Self = Self::V1;
    /// The newest that is served.
    pub const NEWEST: Self = Self::V1;

    /// Decides which version answers, from the value of the header.
    pub fn negotiate(asked: Option<&str>) -> Result<Self, UnsupportedVersion> {
        let Some(asked) = asked.map(str::trim).filter(|asked| !asked.is_empty()) else {
            return Ok(Self::OLDEST);
        };
        match asked.parse() {
            Ok(number) if (Self::OLDEST.0..=Self::NEWEST.0).contains(&number) => Ok(Self(number)),
            _ => Err(UnsupportedVersion {
                asked: asked.chars().take(32).collect(),
            }),
        }
    }
}

impl fmt::Display for NativeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The version that was asked for is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "API version {asked:?} is not served here; versions {} to {} are. Leave the header out for the oldest",
    NativeVersion::OLDEST,
    NativeVersion::NEWEST
)]
pub struct UnsupportedVersion {
    asked: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wish_means_the_oldest_and_a_strange_wish_is_told_what_is_served() {
        for asked in [None, Some(""), Some(" "), Some("1"), Some(" 1 ")] {
            assert_eq!(NativeVersion::negotiate(asked), Ok(NativeVersion::V1));
        }
        for asked in ["0", "2", "-1", "1.0", "latest", "99999999999999"] {
            let error = NativeVersion::negotiate(Some(asked)).unwrap_err();
            assert!(error.to_string().contains("versions 1 to 1"), "{error}");
        }
    }

    #[test]
    fn a_few_routes_exist_only_before_or_after_their_rename() {
        assert!(
            FleetVersion::V1.serves("/global/policies/7") && !FleetVersion::V1.serves("/policies")
        );
        assert!(
            FleetVersion::Latest.serves("/policies/7")
                && !FleetVersion::Latest.serves("/global/policies")
        );
        assert!(FleetVersion::V1.serves("/hosts") && FleetVersion::Latest.serves("/globals"));
        assert_eq!(FleetVersion::parse("2022-04"), Some(FleetVersion::V2022_04));
        assert_eq!(FleetVersion::parse("v2"), None);
    }
}
