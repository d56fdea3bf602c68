//! What is kept about a host, as both sides of this crate use it. Not a wire format: `http` makes those from it.

use muster_clock::Timestamp;
use muster_identity::{EnrollmentTokenId, HostId, TeamId};

/// How the key that a host is matched by came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentifierSource {
    /// osquery enrolled with it.
    Osquery,
    /// Orbit announced that osquery will enroll with it.
    Orbit,
    /// Orbit named only the hardware UUID; osquery may still bring another.
    HardwareUuid,
}

impl IdentifierSource {
    /// The text in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Osquery => "osquery",
            Self::Orbit => "orbit",
            Self::HardwareUuid => "hardware_uuid",
        }
    }

    /// From the text in the database; what a newer release wrote counts as osquery's, which nothing overwrites.
    pub fn from_text(text: &str) -> Self {
        match text {
            "orbit" => Self::Orbit,
            "hardware_uuid" => Self::HardwareUuid,
            _ => Self::Osquery,
        }
    }
}

/// Everything in `hosts_hosts` about one host, and when it was last seen.
#[derive(Debug, Clone, PartialEq)]
pub struct HostRecord {
    /// Its id; never used twice.
    pub id: HostId,
    /// The key that it is matched by at enrollment, in lower case.
    pub identifier: String,
    /// Where that key comes from.
    pub identifier_from: IdentifierSource,
    /// When it first enrolled.
    pub created_at: Timestamp,
    /// When anything about it last changed.
    pub updated_at: Timestamp,
    /// Its team.
    pub team_id: Option<TeamId>,
    /// The enrollment token that it last used.
    pub enrollment_token_id: Option<EnrollmentTokenId>,
    /// When it last enrolled, by any protocol.
    pub enrolled_at: Timestamp,
    /// When osquery last enrolled.
    pub osquery_enrolled_at: Option<Timestamp>,
    /// When orbit last enrolled.
    pub orbit_enrolled_at: Option<Timestamp>,
    /// When an agent of it was last heard.
    pub seen_at: Option<Timestamp>,
    /// What it says about itself.
    pub facts: HostFacts,
    /// When its details last arrived; none before the first time.
    pub detail_updated_at: Option<Timestamp>,
    /// When its dynamic labels were last evaluated.
    pub label_updated_at: Option<Timestamp>,
    /// When its policies were last evaluated.
    pub policy_updated_at: Option<Timestamp>,
    /// When its software inventory last arrived.
    pub software_updated_at: Option<Timestamp>,
    /// Whether an operator wants its details now.
    pub refetch_requested: bool,
}

impl HostRecord {
    /// What people call it.
    pub fn display_name(&self) -> String {
        self.facts.display_name(&self.identifier)
    }
}

/// What a host says about itself. A text that was never learned is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostFacts {
    /// Network name.
    pub hostname: String,
    /// The name that its user gave it.
    pub computer_name: String,
    /// Hardware UUID, as reported.
    pub uuid: String,
    /// Serial number of the machine.
    pub hardware_serial: String,
    /// Maker of the machine.
    pub hardware_vendor: String,
    /// Model of the machine.
    pub hardware_model: String,
    /// Version of the model.
    pub hardware_version: String,
    /// osquery's platform: `ubuntu`, `rhel`, `darwin`, `windows`, …
    pub platform: String,
    /// osquery's family of the platform: `debian`, `darwin`, …
    pub platform_like: String,
    /// Name of the operating system alone.
    pub os_name: String,
    /// Name and version of the operating system: `Ubuntu 22.04.3 LTS`.
    pub os_version: String,
    /// Build of the operating system.
    pub build: String,
    /// Code name of the release.
    pub code_name: String,
    /// Architecture of the operating system.
    pub arch: String,
    /// Version of the running kernel.
    pub kernel_version: String,
    /// Version of osquery.
    pub osquery_version: String,
    /// Version of orbit.
    pub orbit_version: String,
    /// Version of the desktop app.
    pub desktop_version: String,
    /// Whether its orbit runs scripts.
    pub scripts_enabled: Option<bool>,
    /// Kind of processor.
    pub cpu_type: String,
    /// Sort of that kind.
    pub cpu_subtype: String,
    /// What the processor calls itself.
    pub cpu_brand: String,
    /// Cores.
    pub cpu_physical_cores: Option<i64>,
    /// Threads.
    pub cpu_logical_cores: Option<i64>,
    /// Memory in bytes.
    pub memory_bytes: Option<i64>,
    /// Address on the interface that leads out.
    pub primary_ip: String,
    /// Hardware address of that interface.
    pub primary_mac: String,
    /// Address that its requests come from.
    pub public_ip: String,
    /// Free space of the root file system in gigabytes (10^9 bytes).
    pub disk_available_gb: Option<f64>,
    /// The same in percent.
    pub disk_available_percent: Option<f64>,
    /// Size of the root file system in gigabytes.
    pub disk_total_gb: Option<f64>,
    /// Seconds between its reads of distributed queries.
    pub distributed_interval_seconds: Option<i64>,
    /// Seconds between its reads of configuration.
    pub config_interval_seconds: Option<i64>,
    /// Seconds between its log batches.
    pub logger_interval_seconds: Option<i64>,
    /// When it was last started.
    pub last_restarted_at: Option<Timestamp>,
}

impl HostFacts {
    /// What people call the host: the computer's name, else the host name, else model and serial number, else the
    /// identifier.
    pub fn display_name(&self, identifier: &str) -> String {
        if !self.computer_name.is_empty() {
            self.computer_name.clone()
        } else if !self.hostname.is_empty() {
            self.hostname.clone()
        } else if !self.hardware_model.is_empty() && !self.hardware_serial.is_empty() {
            format!("{} ({})", self.hardware_model, self.hardware_serial)
        } else {
            identifier.to_owned()
        }
    }
}

/// An account on a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostUser {
    /// Numeric id as text; Windows has other forms.
    pub uid: String,
    /// Login name.
    pub username: String,
    /// `local`, `roaming`, … where the platform tells.
    pub kind: String,
    /// Name of the primary group.
    pub groupname: String,
    /// Login shell.
    pub shell: String,
}

/// A person who uses a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEndUser {
    /// Who says so: `custom` for what orbit or an operator set.
    pub source: String,
    /// The e-mail address.
    pub email: String,
}

/// What a program on a host last said about its abilities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCapabilities {
    /// Which program: `orbit`, `desktop`, `muster-agent`.
    pub process: String,
    /// Names of its capabilities, sorted; empty when it says nothing.
    pub names: Vec<String>,
    /// Its version, as far as it says.
    pub version: String,
    /// When the names last changed, or when this program took the place of another one.
    pub changed_at: Timestamp,
}

/// Something that happened to a host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostEvent {
    /// When.
    pub at: Timestamp,
    /// What: `enrolled`, `capabilities_changed`, …
    pub kind: String,
    /// Particulars; members depend on the kind.
    pub details: serde_json::Value,
}

/// Who decides which hosts are in a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelMembership {
    /// Its query, run on the hosts.
    Dynamic,
    /// Operators.
    Manual,
    /// Nobody: every enrolled host is in it.
    All,
}

impl LabelMembership {
    /// The text in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dynamic => "dynamic",
            Self::Manual => "manual",
            Self::All => "all",
        }
    }

    /// From the text in the database; what a newer release wrote is left to operators.
    pub fn from_text(text: &str) -> Self {
        match text {
            "dynamic" => Self::Dynamic,
            "all" => Self::All,
            _ => Self::Manual,
        }
    }
}

/// A label as it stands in `hosts_labels`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelRecord {
    /// Its id.
    pub id: LabelId,
    /// Its name; unique.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The query whose rows make a host a member; empty unless dynamic.
    pub query: String,
    /// Platforms that the query is sent to, separated by commas; empty means all.
    pub platform: String,
    /// Whether every installation has it.
    pub builtin: bool,
    /// Who decides about membership.
    pub membership: LabelMembership,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last edited.
    pub updated_at: Timestamp,
    /// When the query or the platform last changed.
    pub query_changed_at: Timestamp,
}

/// The id of a label.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct LabelId(pub i64);

impl std::fmt::Display for LabelId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl From<LabelId> for muster_store::Value {
    fn from(id: LabelId) -> Self {
        Self::from(id.0)
    }
}
