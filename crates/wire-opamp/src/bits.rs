//! Sets of bits: what peers can do, and flags. Bits of later releases are kept.

use std::fmt;
use std::ops::BitOr;

use serde::{Serialize, Serializer};

macro_rules! bits {
    (
        $(#[$documentation:meta])*
        $set:ident {
            $($(#[$bit_documentation:meta])* $bit:ident = $value:literal, $name:literal;)+
        }
    ) => {
        $(#[$documentation])*
        ///
        /// Shown and serialized as names, lowest bit first; a bit that this release does not know is shown as a
        /// hexadecimal number.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $set(u64);

        impl $set {
            $($(#[$bit_documentation])* pub const $bit: Self = Self($value);)+

            /// No bit.
            pub const NONE: Self = Self(0);

            /// All bits that this release knows, with their names, lowest first.
            pub const KNOWN: &[(Self, &str)] = &[$((Self::$bit, $name)),+];

            /// The set as it came over the wire.
            pub const fn from_bits(bits: u64) -> Self {
                Self(bits)
            }

            /// The set as it goes over the wire.
            pub const fn bits(self) -> u64 {
                self.0
            }

            /// Whether no bit is in it.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Whether all bits of `others` are in it.
            pub const fn contains(self, others: Self) -> bool {
                self.0 & others.0 == others.0
            }

            /// The bits of both.
            pub const fn union(self, others: Self) -> Self {
                Self(self.0 | others.0)
            }

            /// The bits that are not in `others`.
            pub const fn without(self, others: Self) -> Self {
                Self(self.0 & !others.0)
            }

            /// The bits that this release does not know.
            pub const fn unknown(self) -> Self {
                Self(self.0 & !(0 $(| $value)+))
            }

            /// Its bits one by one, lowest first.
            pub fn iter(self) -> impl Iterator<Item = Self> {
                (0..u64::BITS)
                    .map(|position| Self(1 << position))
                    .filter(move |bit| self.contains(*bit))
            }

            /// What its bits are called, lowest first.
            pub fn names(self) -> impl Iterator<Item = String> {
                self.iter().map(|bit| match bit.name() {
                    Some(name) => name.to_owned(),
                    None => format!("{:#x}", bit.0),
                })
            }

            /// The name, when the set is a single bit that this release knows.
            pub fn name(self) -> Option<&'static str> {
                let known = Self::KNOWN.iter().find(|(bit, _)| *bit == self);
                known.map(|(_, name)| *name)
            }

            /// The bit that is called `name`, which may also be a hexadecimal number such as `0x10000`.
            pub fn named(name: &str) -> Option<Self> {
                if let Some((bit, _)) = Self::KNOWN.iter().find(|(_, known)| *known == name) {
                    return Some(*bit);
                }
                let digits = name.strip_prefix("0x")?;
                let bit = u64::from_str_radix(digits, 16).ok()?;
                bit.is_power_of_two().then_some(Self(bit))
            }
        }

        impl BitOr for $set {
            type Output = Self;

            fn bitor(self, others: Self) -> Self {
                self.union(others)
            }
        }

        impl fmt::Display for $set {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (index, name) in self.names().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(out, "{separator}{name}")?;
                }
                Ok(())
            }
        }

        impl Serialize for $set {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.names())
            }
        }
    };
}

bits! {
    /// What an agent can do, in every message of it.
    AgentCapabilities {
        /// Reports its status. Every agent has to say so.
        REPORTS_STATUS = 0x1, "reports_status";
        /// May be offered a configuration.
        ACCEPTS_REMOTE_CONFIG = 0x2, "accepts_remote_config";
        /// Reports the configuration that it runs with.
        REPORTS_EFFECTIVE_CONFIG = 0x4, "reports_effective_config";
        /// May be offered packages.
        ACCEPTS_PACKAGES = 0x8, "accepts_packages";
        /// Reports its packages.
        REPORTS_PACKAGE_STATUSES = 0x10, "reports_package_statuses";
        /// May be told where to send its own traces.
        REPORTS_OWN_TRACES = 0x20, "reports_own_traces";
        /// May be told where to send its own metrics.
        REPORTS_OWN_METRICS = 0x40, "reports_own_metrics";
        /// May be told where to send its own logs.
        REPORTS_OWN_LOGS = 0x80, "reports_own_logs";
        /// May be offered settings of its OpAMP connection, and so an access key of its own.
        ACCEPTS_OPAMP_CONNECTION_SETTINGS = 0x100, "accepts_opamp_connection_settings";
        /// May be offered settings of other connections.
        ACCEPTS_OTHER_CONNECTION_SETTINGS = 0x200, "accepts_other_connection_settings";
        /// May be told to restart.
        ACCEPTS_RESTART_COMMAND = 0x400, "accepts_restart_command";
        /// Reports its health.
        REPORTS_HEALTH = 0x800, "reports_health";
        /// Reports what became of an offered configuration.
        REPORTS_REMOTE_CONFIG = 0x1000, "reports_remote_config";
        /// Sends at an interval, so that its silence means something.
        REPORTS_HEARTBEAT = 0x2000, "reports_heartbeat";
        /// Reports which components it could run.
        REPORTS_AVAILABLE_COMPONENTS = 0x4000, "reports_available_components";
        /// Reports what became of offered connection settings.
        REPORTS_CONNECTION_SETTINGS_STATUS = 0x8000, "reports_connection_settings_status";
    }
}

bits! {
    /// What a server can do, in its first answer at least. Nothing in a later one means "as before".
    ServerCapabilities {
        /// Takes status reports. Every server has to say so.
        ACCEPTS_STATUS = 0x1, "accepts_status";
        /// Offers configurations.
        OFFERS_REMOTE_CONFIG = 0x2, "offers_remote_config";
        /// Takes the configurations that agents run with.
        ACCEPTS_EFFECTIVE_CONFIG = 0x4, "accepts_effective_config";
        /// Offers packages.
        OFFERS_PACKAGES = 0x8, "offers_packages";
        /// Takes reports on packages.
        ACCEPTS_PACKAGES_STATUS = 0x10, "accepts_packages_status";
        /// Offers connection settings.
        OFFERS_CONNECTION_SETTINGS = 0x20, "offers_connection_settings";
        /// Answers requests for certificates.
        ACCEPTS_CONNECTION_SETTINGS_REQUEST = 0x40, "accepts_connection_settings_request";
    }
}

bits! {
    /// Flags of an agent's message.
    AgentFlags {
        /// The uid is a makeshift; the server is asked for a lasting one.
        REQUEST_INSTANCE_UID = 0x1, "request_instance_uid";
    }
}

bits! {
    /// Flags of a server's message.
    ServerFlags {
        /// The server missed something: say everything again.
        REPORT_FULL_STATE = 0x1, "report_full_state";
        /// The server does not know the hash of the components: list them.
        REPORT_AVAILABLE_COMPONENTS = 0x2, "report_available_components";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;

    #[test]
    fn bits_are_shown_by_name_and_those_of_later_releases_as_numbers() {
        let set = AgentCapabilities::from_bits(0x8000_0000_0001_0103);
        assert_eq!(
            set.to_string(),
            "reports_status, accepts_remote_config, accepts_opamp_connection_settings, 0x10000, 0x8000000000000000"
        );
        assert_eq!(
            serde_json::to_string(&set).unwrap(),
            r#"["reports_status","accepts_remote_config","accepts_opamp_connection_settings","0x10000","0x8000000000000000"]"#
        );
        assert_eq!(set.bits(), 0x8000_0000_0001_0103);
        assert_eq!(set.unknown().bits(), 0x8000_0000_0001_0000);
        assert_eq!(ServerFlags::NONE.to_string(), "");
        assert_eq!(serde_json::to_string(&ServerFlags::NONE).unwrap(), "[]");
    }

    #[test]
    fn what_the_python_client_declares_is_read() {
        let set = AgentCapabilities::from_bits(0x3007);
        assert!(
            set.contains(AgentCapabilities::REPORTS_STATUS | AgentCapabilities::REPORTS_HEARTBEAT)
        );
        assert!(!set.contains(AgentCapabilities::ACCEPTS_OPAMP_CONNECTION_SETTINGS));
        assert!(!set.contains(
            AgentCapabilities::REPORTS_STATUS
                | AgentCapabilities::ACCEPTS_OPAMP_CONNECTION_SETTINGS
        ));
        assert_eq!(
            set.without(AgentCapabilities::REPORTS_HEARTBEAT).bits(),
            0x1007
        );
    }

    #[test]
    fn names_lead_back_to_bits() {
        for set in [0, 1, 0x3007, u64::MAX, 1 << 40].map(AgentCapabilities::from_bits) {
            let again = set
                .names()
                .map(|name| AgentCapabilities::named(&name).expect("a bit"))
                .fold(AgentCapabilities::NONE, AgentCapabilities::union);
            assert_eq!(again, set);
        }
        for name in [
            "",
            "reports",
            "0x",
            "0x0",
            "0x3",
            "3",
            "0x10000000000000000",
        ] {
            assert_eq!(AgentCapabilities::named(name), None, "{name}");
        }
    }

    /// The schema's name of a value, without the enum's and in lower case with underscores.
    fn snake(name: &str, of: &str) -> String {
        let name = name
            .strip_prefix(of)
            .and_then(|name| name.strip_prefix('_'));
        // The one name of several capitals.
        let name = name.expect("the enum's name").replace("OpAMP", "Opamp");
        let mut snake = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() && !snake.is_empty() {
                snake.push('_');
            }
            snake.extend(letter.to_lowercase());
        }
        snake
    }

    #[test]
    fn bits_and_names_are_those_of_the_schema() {
        macro_rules! compare {
            ($set:ident, $schema:ident, $prefix:literal) => {
                let of_schema: Vec<(u64, String)> = (0..31)
                    .filter_map(|position| proto::$schema::try_from(1 << position).ok())
                    .map(|bit| (bit as u64, snake(bit.as_str_name(), $prefix)))
                    .collect();
                let ours: Vec<(u64, String)> = $set::KNOWN
                    .iter()
                    .map(|(bit, name)| (bit.bits(), (*name).to_owned()))
                    .collect();
                assert_eq!(ours, of_schema);
            };
        }
        compare!(AgentCapabilities, AgentCapabilities, "AgentCapabilities");
        compare!(ServerCapabilities, ServerCapabilities, "ServerCapabilities");
        compare!(AgentFlags, AgentToServerFlags, "AgentToServerFlags");
        compare!(ServerFlags, ServerToAgentFlags, "ServerToAgentFlags");
    }
}
