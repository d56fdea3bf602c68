//! Hosts, in lists and one by one, and what is done to them.

use muster_clock::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::label::{Label, LabelSummary};
use crate::reading::{document, filled, id, or_default, present, respelled};
use crate::time::NEVER;

/// A host. Written by servers, read by clients.
///
/// The optional members without `null` are those of the single form, or of lists that were asked to hold them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// When it enrolled first.
    pub created_at: Timestamp,
    /// When its record last changed.
    pub updated_at: Timestamp,
    /// What is installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software: Option<Vec<HostSoftware>>,
    /// When its software was last reported.
    pub software_updated_at: Timestamp,
    /// Its number.
    pub id: i64,
    /// When its details were last reported, or never.
    pub detail_updated_at: Timestamp,
    /// When its labels were last reported, or never.
    pub label_updated_at: Timestamp,
    /// When its policies were last reported, or never.
    pub policy_updated_at: Timestamp,
    /// When its osquery last enrolled, or never.
    pub last_enrolled_at: Timestamp,
    /// When it was last seen.
    pub seen_time: Timestamp,
    /// Its details are asked for at the next check-in.
    pub refetch_requested: bool,
    /// Its name.
    pub hostname: String,
    /// The hardware's UUID.
    pub uuid: String,
    /// `ubuntu`, `darwin`, `windows`, …
    pub platform: String,
    /// osquery's release.
    pub osquery_version: String,
    /// Orbit's release; `null` in lists.
    pub orbit_version: Option<String>,
    /// The desktop app's release; `null` in lists.
    pub fleet_desktop_version: Option<String>,
    /// Whether it runs scripts; `null` in lists.
    pub scripts_enabled: Option<bool>,
    /// The system's name and release: `Ubuntu 22.04.3 LTS`.
    pub os_version: String,
    /// The system's build.
    pub build: String,
    /// The family of the platform.
    pub platform_like: String,
    /// The system's code name.
    pub code_name: String,
    /// How long it has been up, in nanoseconds.
    pub uptime: i64,
    /// Its memory, in bytes.
    pub memory: i64,
    /// The processor's type.
    pub cpu_type: String,
    /// The processor's subtype.
    pub cpu_subtype: String,
    /// The processor's name.
    pub cpu_brand: String,
    /// How many cores it has.
    pub cpu_physical_cores: i64,
    /// How many cores programs see.
    pub cpu_logical_cores: i64,
    /// Who made the machine.
    pub hardware_vendor: String,
    /// The machine's model.
    pub hardware_model: String,
    /// The machine's version.
    pub hardware_version: String,
    /// The machine's serial number.
    pub hardware_serial: String,
    /// The name that the user gave the machine.
    pub computer_name: String,
    /// The address that the server saw.
    pub public_ip: String,
    /// The address of its first interface.
    pub primary_ip: String,
    /// The hardware address of its first interface.
    pub primary_mac: String,
    /// How often it asks for queries, in seconds.
    pub distributed_interval: u64,
    /// How often it asks for its configuration, in seconds.
    pub config_tls_refresh: u64,
    /// How often it sends logs, in seconds.
    pub logger_tls_period: u64,
    /// Its team.
    pub team_id: Option<i64>,
    /// What its scheduled queries cost; `null` in lists.
    pub pack_stats: Option<Vec<Value>>,
    /// The name of its team.
    pub team_name: Option<String>,
    /// Results of the operator's additional queries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub additional: Option<Value>,
    /// Its users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<HostUser>>,
    /// Free disk space, in gigabytes.
    pub gigs_disk_space_available: f64,
    /// Free disk space, in percent.
    pub percent_disk_space_available: f64,
    /// Disk space, in gigabytes.
    pub gigs_total_disk_space: f64,
    /// Whether its disk is encrypted; left out while it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_encryption_enabled: Option<bool>,
    /// What is wrong with it.
    #[serde(deserialize_with = "or_default")]
    pub issues: HostIssues,
    /// Who uses it, in lists that were asked to hold it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_mapping: Option<Vec<DeviceMapping>>,
    /// Device management.
    #[serde(deserialize_with = "or_default")]
    pub mdm: HostMdm,
    /// Until when only the most needed details are asked for.
    pub refetch_critical_queries_until: Option<Timestamp>,
    /// When it was last started.
    pub last_restarted_at: Timestamp,
    /// What its policies say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policies: Option<Vec<HostPolicy>>,
    /// Its labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<Label>>,
    /// Its packs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packs: Option<Vec<Value>>,
    /// Its batteries; in the single form `null` when it has none.
    #[serde(deserialize_with = "document", skip_serializing_if = "Option::is_none")]
    pub batteries: Option<Value>,
    /// Who uses it, in the single form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_users: Option<Vec<Value>>,
    /// Whether it checks in.
    pub status: HostStatus,
    /// Its name.
    pub display_text: String,
    /// The name that people see: that given by the user, else its name.
    pub display_name: String,
}

impl Default for Host {
    /// A host of which nothing is known, with the times that mean never.
    fn default() -> Self {
        Self {
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
            software: None,
            software_updated_at: NEVER,
            id: 0,
            detail_updated_at: NEVER,
            label_updated_at: NEVER,
            policy_updated_at: NEVER,
            last_enrolled_at: NEVER,
            seen_time: Timestamp::EPOCH,
            refetch_requested: false,
            hostname: String::new(),
            uuid: String::new(),
            platform: String::new(),
            osquery_version: String::new(),
            orbit_version: None,
            fleet_desktop_version: None,
            scripts_enabled: None,
            os_version: String::new(),
            build: String::new(),
            platform_like: String::new(),
            code_name: String::new(),
            uptime: 0,
            memory: 0,
            cpu_type: String::new(),
            cpu_subtype: String::new(),
            cpu_brand: String::new(),
            cpu_physical_cores: 0,
            cpu_logical_cores: 0,
            hardware_vendor: String::new(),
            hardware_model: String::new(),
            hardware_version: String::new(),
            hardware_serial: String::new(),
            computer_name: String::new(),
            public_ip: String::new(),
            primary_ip: String::new(),
            primary_mac: String::new(),
            distributed_interval: 0,
            config_tls_refresh: 0,
            logger_tls_period: 0,
            team_id: None,
            pack_stats: None,
            team_name: None,
            additional: None,
            users: None,
            gigs_disk_space_available: 0.0,
            percent_disk_space_available: 0.0,
            gigs_total_disk_space: 0.0,
            disk_encryption_enabled: None,
            issues: HostIssues::default(),
            device_mapping: None,
            mdm: HostMdm::default(),
            refetch_critical_queries_until: None,
            last_restarted_at: NEVER,
            policies: None,
            labels: None,
            packs: None,
            batteries: None,
            end_users: None,
            status: HostStatus::Offline,
            display_text: String::new(),
            display_name: String::new(),
        }
    }
}

/// Whether a host checks in. Written by servers, read by clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostStatus {
    /// It asks as often as it should.
    Online,
    /// It does not.
    #[default]
    Offline,
    /// It has not for 30 days.
    Missing,
}

/// Something that is installed on a host. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostSoftware {
    /// The number of this software in this version.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// macOS's id of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bundle_identifier: String,
    /// Which table it comes from: `deb_packages`.
    pub source: String,
    /// The browser's id of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub extension_id: String,
    /// The browser that it extends.
    pub browser: String,
    /// The release of a package.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub release: String,
    /// Who made it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    /// The processor that it is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub arch: String,
    /// How lists of vulnerabilities name it.
    pub generated_cpe: String,
    /// Its known vulnerabilities.
    pub vulnerabilities: Option<Vec<Value>>,
    /// When it was last used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_opened_at: Option<Timestamp>,
    /// Where it lies.
    pub installed_paths: Option<Vec<String>>,
    /// Who signed it.
    pub signature_information: Option<Vec<Value>>,
}

/// A user of a host. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostUser {
    /// The system's number of the user.
    pub uid: i64,
    /// The login name.
    pub username: String,
    /// What kind of user, as the system says.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name of the user's first group.
    pub groupname: String,
    /// The login shell.
    pub shell: String,
}

/// What is wrong with a host. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostIssues {
    /// How many policies it fails.
    pub failing_policies_count: u64,
    /// How many critical vulnerabilities it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical_vulnerabilities_count: Option<u64>,
    /// The sum.
    pub total_issues_count: u64,
}

/// How a host is managed. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostMdm {
    /// How it came under management.
    pub enrollment_status: Option<String>,
    /// Its assigned profile failed.
    pub dep_profile_error: bool,
    /// Who manages it.
    pub server_url: Option<String>,
    /// The name of who manages it.
    pub name: String,
    /// Its disk's key is kept.
    pub encryption_key_available: bool,
    /// Its profiles; in the single form, `null` when there are none.
    #[serde(deserialize_with = "document", skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Value>,
    /// `locked` or `unlocked`, in the single form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_status: Option<String>,
    /// What is being done to it, in the single form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_action: Option<String>,
    /// This server manages it.
    pub connected_to_fleet: bool,
}

impl HostMdm {
    /// Of a host that nobody manages, with the members of the single form.
    pub fn single() -> Self {
        Self {
            profiles: Some(Value::Null),
            device_status: Some("unlocked".to_owned()),
            pending_action: Some(String::new()),
            ..Self::default()
        }
    }
}

/// What a policy says of a host. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostPolicy {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its SQL; a row means that the host passes.
    pub query: String,
    /// It matters much.
    pub critical: bool,
    /// Its description.
    pub description: String,
    /// Who made it.
    pub author_id: Option<i64>,
    /// Who made it: the name.
    pub author_name: String,
    /// Who made it: the address.
    pub author_email: String,
    /// The team that it belongs to.
    pub team_id: Option<i64>,
    /// What to do about it.
    pub resolution: Option<String>,
    /// A list of platforms with commas.
    pub platform: String,
    /// Failures are put into calendars.
    pub calendar_events_enabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// `pass`, `fail`, or empty when it never ran or failed to run.
    pub response: String,
}

/// Who uses a host. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceMapping {
    /// The user's e-mail address.
    pub email: String,
    /// Where it comes from: `custom` is an operator's or an agent's word.
    pub source: String,
}

/// `GET …/hosts/{id}/device_mapping`. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceMappingAnswer {
    /// The host.
    pub host_id: i64,
    /// Who uses it.
    #[serde(deserialize_with = "or_default")]
    pub device_mapping: Vec<DeviceMapping>,
}

/// `PUT …/hosts/{id}/device_mapping`. Written by clients, read by servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SetDeviceMapping {
    /// The person's address; empty: nobody is known.
    #[serde(deserialize_with = "or_default")]
    pub email: String,
}

/// One host. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostAnswer {
    /// The host.
    pub host: Host,
}

/// `GET …/hosts`. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostsAnswer {
    /// The hosts of this page.
    pub hosts: Vec<Host>,
}

/// `POST …/hosts/transfer`. Written by clients, read by servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, remote = "Self")]
pub struct TransferRequest {
    /// To which team; `null` or absent: to none.
    #[serde(deserialize_with = "id")]
    pub team_id: Option<i64>,
    /// Which hosts.
    #[serde(deserialize_with = "or_default")]
    pub hosts: Vec<i64>,
}
respelled!(TransferRequest: "fleet_id" => "team_id");

/// `POST …/hosts/transfer/filter`. Written by clients, read by servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, remote = "Self")]
pub struct TransferByFilterRequest {
    /// To which team; `null` or absent: to none.
    #[serde(deserialize_with = "id")]
    pub team_id: Option<i64>,
    /// Which hosts; absent is refused, `{}` means all.
    pub filters: Option<HostFilter>,
}
respelled!(TransferByFilterRequest: "fleet_id" => "team_id");

/// Hosts by what they have in common. Written by clients, read by servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, remote = "Self")]
pub struct HostFilter {
    /// Text to search for; fleetctl up to 2024 writes an empty one, which counts as absent.
    #[serde(deserialize_with = "filled")]
    pub query: Option<String>,
    /// `new`, `online`, `offline` or `missing`.
    #[serde(deserialize_with = "filled")]
    pub status: Option<String>,
    /// Those that bear a label.
    #[serde(deserialize_with = "id")]
    pub label_id: Option<i64>,
    /// Those of a team: 0 and `null` mean those without one, absent means all.
    #[serde(deserialize_with = "present")]
    pub team_id: Option<Option<i64>>,
}
respelled!(HostFilter: "fleet_id" => "team_id");

/// `POST …/hosts/delete`. Written by clients, read by servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DeleteHostsRequest {
    /// By number.
    #[serde(deserialize_with = "or_default")]
    pub ids: Vec<i64>,
    /// By what they have in common; `{}` means all.
    pub filters: Option<HostFilter>,
}

/// `GET …/host_summary`. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostSummary {
    /// The team that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team_id: Option<i64>,
    /// All hosts.
    pub totals_hosts_count: u64,
    /// Those online.
    pub online_count: u64,
    /// Those offline.
    pub offline_count: u64,
    /// Those away for 30 days, under its old name.
    pub mia_count: u64,
    /// Those away for 30 days.
    pub missing_30_days_count: u64,
    /// Those that enrolled within a day.
    pub new_count: u64,
    /// Those with Linux.
    pub all_linux_count: u64,
    /// Those short of disk space, when that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_disk_space_count: Option<u64>,
    /// The labels that are always there.
    pub builtin_labels: Vec<LabelSummary>,
    /// How many there are of each platform.
    #[serde(deserialize_with = "or_default")]
    pub platforms: Vec<PlatformCount>,
}

/// How many hosts have a platform. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlatformCount {
    /// `ubuntu`, `darwin`, `windows`, …
    pub platform: String,
    /// How many.
    pub hosts_count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_read_in_either_spelling() {
        for (text, team) in [
            (r#"{"team_id":6,"hosts":[1]}"#, Some(6)),
            (r#"{"fleet_id":6,"hosts":[1]}"#, Some(6)),
            (r#"{"fleet_id":6,"team_id":6,"hosts":[1]}"#, Some(6)),
            (r#"{"team_id":null,"hosts":[1]}"#, None),
            (r#"{"hosts":[1]}"#, None),
        ] {
            let request: TransferRequest = serde_json::from_str(text).unwrap();
            assert_eq!((request.team_id, request.hosts), (team, vec![1]), "{text}");
        }
    }

    #[test]
    fn an_empty_search_text_counts_as_absent_and_a_missing_filter_is_not_an_empty_one() {
        let read = |text: &str| serde_json::from_str::<TransferByFilterRequest>(text).unwrap();
        let filter =
            read(r#"{"team_id":2,"filters":{"query":"","status":"online","label_id":18}}"#)
                .filters
                .unwrap();
        assert_eq!((filter.query, filter.label_id), (None, Some(18)));
        assert_eq!(filter.status.as_deref(), Some("online"));
        assert_eq!(filter.team_id, None);
        assert_eq!(read("{}").filters, None);
        assert_eq!(
            read(r#"{"filters":{}}"#).filters,
            Some(HostFilter::default())
        );
        let of_none = read(r#"{"filters":{"fleet_id":null}}"#).filters.unwrap();
        assert_eq!(of_none.team_id, Some(None));
    }
}
