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
    /// Which processes of Fleet say it, and since about when.
    pub fleet: &'static str,
    /// What a peer that says it can do.
    pub meaning: &'static str,
    /// What the other side does when it is not said.
    pub absence: &'static str,
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

const V0_1: Option<Release> = Some(Release::new(0, 1, 0));

registry! {
    /// The orbit API is there.
    OrbitEndpoints {
        name: "orbit_endpoints",
        family: Family::Orbit,
        server_since: V0_1,
        agent_since: None,
        fleet: "server, 2022",
        meaning: "The server has the orbit API.",
        absence: "orbit runs osqueryd only and asks for nothing itself.",
    }
    /// Device tokens run out and are renewed.
    TokenRotation {
        name: "token_rotation",
        family: Family::Orbit,
        server_since: V0_1,
        agent_since: None,
        fleet: "server, 2022",
        meaning: "Device tokens are valid for an hour; the agent makes and registers new ones.",
        absence: "The agent keeps one device token for ever.",
    }
    /// The user of a host can be told by e-mail address.
    EndUserEmail {
        name: "end_user_email",
        family: Family::Orbit,
        server_since: V0_1,
        agent_since: None,
        fleet: "server, 2023",
        meaning: "The server takes the address of the person who uses the host (device_mapping).",
        absence: "The agent does not send it.",
    }
    /// Our notification socket.
    Notify {
        name: "muster_notify",
        family: Family::Orbit,
        server_since: V0_1,
        agent_since: V0_1,
        fleet: "never",
        meaning: "The server offers, and the agent uses, a socket that says only \"ask now\".",
        absence: "The agent asks at its interval; live queries then start up to that interval later.",
    }
    /// FileVault keys by way of Escrow Buddy.
    EscrowBuddy {
        name: "escrow_buddy",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet: "server and orbit, 2024",
        meaning: "FileVault keys are escrowed with Escrow Buddy.",
        absence: "Keys of macOS hosts are not escrowed by the agent.",
    }
    /// LUKS passphrases of Linux hosts.
    LinuxDiskEncryptionEscrow {
        name: "linux_disk_encryption_escrow",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet: "server, 2024",
        meaning: "The server takes LUKS keys of Linux hosts.",
        absence: "The agent does not ask users for a passphrase.",
    }
    /// LUKS recovery keys.
    LuksRecoveryKeyEscrow {
        name: "luks_recovery_key_escrow",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet: "server, 2026",
        meaning: "The newer form of linux_disk_encryption_escrow.",
        absence: "The older form is used, if that is said.",
    }
    /// Steps at a machine's first start.
    SetupExperience {
        name: "setup_experience",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet: "server and orbit, 2024",
        meaning: "Software and scripts are run while a new machine is set up.",
        absence: "The agent goes to work at once.",
    }
    /// The same in a browser.
    WebSetupExperience {
        name: "web_setup_experience",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet: "server, 2025",
        meaning: "The steps of setup_experience are shown in a browser.",
        absence: "They are not shown.",
    }
    /// The same in a browser, on macOS.
    MacosWebSetupExperience {
        name: "macos_web_setup_experience",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet: "server, 2026",
        meaning: "As web_setup_experience, on macOS.",
        absence: "They are not shown.",
    }
    /// People sign in when a machine enrolls.
    EndUserAuth {
        name: "end_user_auth",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet: "orbit, 2025",
        meaning: "The agent can have its user sign in before it enrolls.",
        absence: "The enrollment token alone decides.",
    }
    /// Windows MDM syncs on request.
    WindowsMdmSync {
        name: "windows_mdm_sync",
        family: Family::Orbit,
        server_since: None,
        agent_since: None,
        fleet: "orbit on Windows, 2026",
        meaning: "The agent can start an MDM sync.",
        absence: "The server waits for the next one.",
    }
    /// Errors of the desktop app are sent to the server.
    ErrorReporting {
        name: "error_reporting",
        family: Family::Device,
        server_since: None,
        agent_since: None,
        fleet: "server, switched on by its operator",
        meaning: "The desktop app may send its errors.",
        absence: "It keeps them in its log.",
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
}
