//! The registry: each capability is declared here, once.

use crate::{CapabilitySet, Release};

/// Which process says that it has a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    /// `muster-server`, or a Fleet server.
    Server,
    /// `muster-agent`, or orbit.
    Agent,
}

/// On whose exchanges a capability is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// orbit's API, under a fixed path without a version.
    Orbit,
    /// The device API that Fleet Desktop and the My device page use.
    Device,
}

impl Family {
    /// The name that people know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Orbit => "orbit",
            Self::Device => "device",
        }
    }
}

impl Sender {
    /// The name that people know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }
}

/// What is known of a capability.
#[derive(Debug, Clone, Copy)]
pub struct Declaration {
    /// Its name on the wire.
    pub name: &'static str,
    /// On whose exchanges it is said.
    pub family: Family,
    /// Since which release of ours the server says it; `None`: known, but not something our server can do.
    pub server_since: Option<Release>,
    /// Since which release of ours the agent says it.
    pub agent_since: Option<Release>,
    /// Since about when Fleet's server says it.
    pub fleet_server: Option<&'static str>,
    /// Which orbits say it, and since about when. Fleet Desktop, fleetctl and osqueryd never say anything.
    pub orbit: Option<&'static str>,
    /// Whether orbit ends itself, to be started again, when a server begins or ceases to say it.
    pub restarts_orbit: bool,
    /// What a peer that says it can do.
    pub meaning: &'static str,
    /// What the other side does when it is not said.
    pub absence: &'static str,
    /// What users of Muster have by it; `None`: nothing that Muster offers depends on it.
    pub feature: Option<Feature>,
}

/// What users have when every process that takes part says a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// What people call it.
    pub name: &'static str,
    /// What is different while it is dark.
    pub dark: &'static str,
}

macro_rules! registry {
    ($($(#[$meta:meta])* $variant:ident { $($field:ident: $value:expr,)* })*) => {
        /// Something that a peer can do and says so.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Capability { $($(#[$meta])* $variant,)* }

        impl Capability {
            /// All that are known, in the order in which they are written.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// What is known of it.
            pub const fn declaration(self) -> Declaration {
                match self { $(Self::$variant => Declaration { $($field: $value),* },)* }
            }
        }
    };
}

/// What our own agent calls itself.
const OWN_AGENT: &str = "muster-agent";

const V0_1: Option<Release> = Some(Release::new(0, 1, 0));

registry! {
    /// The orbit API is there.
    OrbitEndpoints {
        name: "orbit_endpoints",
        family: Family::Orbit,
        server_since: V0_1,
        agent_since: None,
        fleet_server: Some("2022"),
        orbit: None,
        restarts_orbit: true,
        meaning: "The server has the orbit API.",
        absence: "orbit runs osqueryd only and asks for nothing itself.",
        feature: Some(Feature {
            name: "orbit's API",
            dark: "orbit and muster-agent cannot enroll by it: no configuration and no device tokens by them",
        }),
    }
    /// Device tokens run out and are renewed.
    TokenRotation {
        name: "token_rotation",
        family: Family::Orbit,
        server_since: V0_1,
        agent_since: None,
        fleet_server: Some("2022"),
        orbit: None,
        restarts_orbit: true,
        meaning: "Device tokens are valid for an hour; the agent makes and registers new ones.",
        absence: "The agent keeps one device token for ever.",
        feature: Some(Feature {
            name: "device tokens that run out",
            dark: "the token in the address of a My device page is good for ever",
        }),
    }
    /// The user of a host can be told by e-mail address.
    EndUserEmail {
        name: "end_user_email",
        family: Family::Orbit,
        server_since: V0_1,
        agent_since: None,
        fleet_server: Some("2023"),
        orbit: None,
        restarts_orbit: true,
        meaning: "The server takes the address of the person who uses the host (device_mapping).",
        absence: "The agent does not send it.",
        feature: Some(Feature {
            name: "users told by orbit",
            dark: "orbit does not tell who uses the host; an operator can",
        }),
    }
    /// Our notification socket.
    Notify {
        name: "muster_notify",
        family: Family::Orbit,
        server_since: V0_1,
        agent_since: V0_1,
        fleet_server: None,
        orbit: None,
        restarts_orbit: false,
        meaning: "The server offers, and the agent uses, a socket that says only \"ask now\".",
        absence: "The agent asks at its interval; live queries then start up to that interval later.",
        feature: Some(Feature {
            name: "live queries at once",
            dark: "live queries begin when the host asks next, up to its interval later",
        }),
    }
    /// FileVault keys by way of Escrow Buddy.
    EscrowBuddy {
        name: "escrow_buddy",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet_server: Some("2024"),
        orbit: Some("August 2024"),
        restarts_orbit: false,
        meaning: "FileVault keys are escrowed with Escrow Buddy.",
        absence: "Keys of macOS hosts are not escrowed by the agent.",
        feature: None,
    }
    /// LUKS passphrases of Linux hosts.
    LinuxDiskEncryptionEscrow {
        name: "linux_disk_encryption_escrow",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet_server: Some("2024"),
        orbit: None,
        restarts_orbit: false,
        meaning: "The server takes LUKS keys of Linux hosts.",
        absence: "The agent does not ask users for a passphrase.",
        feature: None,
    }
    /// LUKS recovery keys.
    LuksRecoveryKeyEscrow {
        name: "luks_recovery_key_escrow",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet_server: Some("2026"),
        orbit: None,
        restarts_orbit: false,
        meaning: "The newer form of linux_disk_encryption_escrow.",
        absence: "The older form is used, if that is said.",
        feature: None,
    }
    /// Steps at a machine's first start.
    SetupExperience {
        name: "setup_experience",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet_server: Some("2024"),
        orbit: Some("August 2024"),
        restarts_orbit: false,
        meaning: "Software and scripts are run while a new machine is set up.",
        absence: "The agent goes to work at once.",
        feature: None,
    }
    /// The same in a browser.
    WebSetupExperience {
        name: "web_setup_experience",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet_server: Some("2025"),
        orbit: None,
        restarts_orbit: false,
        meaning: "The steps of setup_experience are shown in a browser.",
        absence: "They are not shown.",
        feature: None,
    }
    /// The same in a browser, on macOS.
    MacosWebSetupExperience {
        name: "macos_web_setup_experience",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet_server: Some("2026"),
        orbit: None,
        restarts_orbit: false,
        meaning: "As web_setup_experience, on macOS.",
        absence: "They are not shown.",
        feature: None,
    }
    /// People sign in when a machine enrolls.
    EndUserAuth {
        name: "end_user_auth",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet_server: None,
        orbit: Some("2025, but on macOS"),
        restarts_orbit: false,
        meaning: "The agent can have its user sign in before it enrolls.",
        absence: "The enrollment token alone decides.",
        feature: None,
    }
    /// Windows MDM syncs on request.
    WindowsMdmSync {
        name: "windows_mdm_sync",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet_server: None,
        orbit: Some("2026, on Windows"),
        restarts_orbit: false,
        meaning: "The agent can start an MDM sync.",
        absence: "The server waits for the next one.",
        feature: None,
    }
    /// Errors of the desktop app are sent to the server.
    ErrorReporting {
        name: "error_reporting",
        family: Family::Device,
        server_since: None,
        agent_since: None,
        fleet_server: Some("when its operator switched it on"),
        orbit: None,
        restarts_orbit: false,
        meaning: "The desktop app may send its errors.",
        absence: "It keeps them in its log.",
        feature: None,
    }
}

impl Capability {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        self.declaration().name
    }

    /// The capability of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|capability| capability.name() == name)
    }

    /// What users have by it.
    pub const fn feature(self) -> Option<Feature> {
        self.declaration().feature
    }

    /// The capabilities that something which Muster offers depends on.
    pub fn features() -> impl Iterator<Item = (Self, Feature)> {
        let all = Self::ALL.iter().copied();
        all.filter_map(|capability| Some((capability, capability.feature()?)))
    }

    /// What to do for a process of that kind to say it; none when no process of ours does.
    pub fn remedy(self, sender: Sender) -> Option<String> {
        let since = self.since(sender)?;
        Some(match sender {
            Sender::Server => format!("update the server to {since} or later"),
            Sender::Agent => format!("run muster-agent {since} or later on the host"),
        })
    }

    /// What to do about a server that does not have it.
    pub fn remedy_for_server(self, release: &str) -> String {
        match (self.since(Sender::Server), release.parse::<Release>()) {
            (Some(since), Ok(release)) if release >= since => {
                "start the server without the keys that take it away: without_capability, emulate"
                    .to_owned()
            }
            (Some(since), _) => format!("update the server to {since} or later"),
            (None, _) => "no release of the server has it".to_owned(),
        }
    }

    /// What to do about a program on a host that does not say it: `muster-agent` or one of Fleet's, of a version as far as
    /// that is known.
    pub fn remedy_for_agent(self, process: &str, version: &str) -> String {
        let Some(since) = self.since(Sender::Agent) else {
            return "no release of muster-agent has it".to_owned();
        };
        match (process, self.declaration().orbit) {
            (OWN_AGENT, _)
                if version
                    .parse()
                    .is_ok_and(|version: Release| version >= since) =>
            {
                "restart muster-agent: its release has it, but it does not say so".to_owned()
            }
            (OWN_AGENT, _) => format!("update muster-agent to {since} or later"),
            ("orbit", Some(era)) => format!("update orbit to one of {era} or later"),
            _ => format!("run muster-agent {since} or later in place of {process}"),
        }
    }

    /// Since which release of ours a process says it.
    pub const fn since(self, sender: Sender) -> Option<Release> {
        let declaration = self.declaration();
        match sender {
            Sender::Server => declaration.server_since,
            Sender::Agent => declaration.agent_since,
        }
    }
}

impl CapabilitySet {
    /// What a process of a release says on a family's exchanges.
    pub fn of(release: Release, sender: Sender, family: Family) -> Self {
        Capability::ALL
            .iter()
            .copied()
            .filter(|capability| capability.declaration().family == family)
            .filter(|capability| {
                capability
                    .since(sender)
                    .is_some_and(|since| since <= release)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_name_is_declared_once_and_can_be_written() {
        let names: HashSet<_> = Capability::ALL
            .iter()
            .map(|capability| capability.name())
            .collect();
        assert_eq!(names.len(), Capability::ALL.len());
        for capability in Capability::ALL {
            let declaration = capability.declaration();
            let allowed = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(declaration.name.bytes().all(allowed), "{declaration:?}");
            assert!(!declaration.meaning.is_empty() && !declaration.absence.is_empty());
            // A feature is dark because of a process of ours, or of an agent that could be one of ours.
            let is_ours = declaration.server_since.is_some() || declaration.agent_since.is_some();
            assert_eq!(declaration.feature.is_some(), is_ours, "{declaration:?}");
            assert_eq!(Capability::by_name(declaration.name), Some(*capability));
        }
    }

    #[test]
    fn a_release_before_the_first_says_nothing_and_the_first_says_what_it_can() {
        let before = CapabilitySet::of(Release::new(0, 0, 9), Sender::Server, Family::Orbit);
        assert!(before.is_empty());
        let first = CapabilitySet::of(Release::new(0, 1, 0), Sender::Server, Family::Orbit);
        let header = first.to_header_value();
        assert_eq!(
            header,
            "orbit_endpoints,token_rotation,end_user_email,muster_notify"
        );
        let agent = CapabilitySet::of(Release::new(0, 1, 0), Sender::Agent, Family::Orbit);
        assert_eq!(agent.to_header_value(), "muster_notify");
        assert!(CapabilitySet::of(Release::current(), Sender::Server, Family::Device).is_empty());
    }
    #[test]
    fn what_to_do_depends_on_who_does_not_say_it() {
        let said = |process, version| Capability::Notify.remedy_for_agent(process, version);
        assert_eq!(
            said("orbit", "1.38.0"),
            "run muster-agent 0.1.0 or later in place of orbit"
        );
        assert_eq!(
            said("osquery", "5.10.2"),
            "run muster-agent 0.1.0 or later in place of osquery"
        );
        assert_eq!(
            said("muster-agent", "0.0.7"),
            "update muster-agent to 0.1.0 or later"
        );
        assert!(said("muster-agent", "0.2.0").starts_with("restart muster-agent"));
        assert!(said("muster-agent", "").starts_with("update muster-agent"));
        let server = |release| Capability::TokenRotation.remedy_for_server(release);
        assert_eq!(server("0.0.9"), "update the server to 0.1.0 or later");
        assert!(server("0.1.0").contains("without_capability"));
    }
}
