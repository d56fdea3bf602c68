//! Hosts and labels in the shape of Fleet's user API, and how its lists are asked for.

use std::collections::HashMap;

use axum::http::StatusCode;
use muster_clock::Timestamp;
use muster_http::{Listing, OrderDirection, Problem};
use muster_identity::{HostId, Principal, TeamFilter, TeamId};
use muster_wire_fleet::host::{DeviceMapping, Host, HostMdm, HostSoftware, HostStatus, HostUser};
use muster_wire_fleet::label::{Label, LabelType, MembershipType};

use crate::operators::{HostDetail, HostQuery, Hosts, OperatorError, Presence, presence};
use crate::record::{HostRecord, LabelMembership, LabelRecord};

/// Rows of a list when the client does not say: as good as all.
const ALL_ROWS: u32 = 1_000_000;

/// What Fleet's clients may sort by, and what that is here.
const SORTS: &[(&str, &str)] = &[
    ("id", "id"),
    ("hostname", "hostname"),
    ("display_name", "display_name"),
    ("display_text", "display_name"),
    ("computer_name", "computer_name"),
    ("created_at", "created_at"),
    ("updated_at", "updated_at"),
    ("detail_updated_at", "updated_at"),
    ("seen_time", "seen_at"),
    ("status", "seen_at"),
    ("last_enrolled_at", "enrolled_at"),
    ("team_name", "team_id"),
    ("team_id", "team_id"),
    ("platform", "platform"),
    ("os_version", "os_version"),
    ("osquery_version", "osquery_version"),
    ("uuid", "uuid"),
    ("hardware_serial", "hardware_serial"),
    ("hardware_model", "hardware_model"),
    ("primary_ip", "primary_ip"),
    ("public_ip", "public_ip"),
    ("memory", "memory_bytes"),
    // Nothing has issues yet: any order is right.
    ("issues", "id"),
];

/// The parameters of a list of hosts.
pub(super) struct Wishes(pub(super) HashMap<String, String>);

impl Wishes {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name).map(|value| value.trim());
        value.filter(|value| !value.is_empty())
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.text(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| Problem::bad_request(format!("non-int {name} value")))
            })
            .transpose()
    }

    pub(super) fn is_on(&self, name: &str) -> bool {
        self.text(name)
            .is_some_and(|value| matches!(value, "1" | "t" | "true" | "True" | "TRUE"))
    }

    /// The team that is asked for, in either spelling.
    pub(super) fn team(&self) -> Result<Option<i64>, Problem> {
        let old = self.number("team_id")?;
        Ok(if old.is_some() {
            old
        } else {
            self.number("fleet_id")?
        })
    }

    pub(super) fn listing(&self) -> Result<Listing, Problem> {
        let limit: Option<u32> = self.number("per_page")?;
        if limit == Some(0) {
            return Err(Problem::bad_request("invalid per_page value"));
        }
        let limit = limit.unwrap_or(ALL_ROWS).min(ALL_ROWS);
        let page: u64 = self.number("page")?.unwrap_or(0);
        let key = self.text("order_key").unwrap_or("id");
        // Newer clients name the table as well.
        let key = key.rsplit('.').next().unwrap_or(key);
        let sort = SORTS.iter().find(|(name, _)| *name == key);
        let sort = sort.ok_or_else(|| {
            let known: Vec<&str> = SORTS.iter().map(|(name, _)| *name).collect();
            Problem::invalid("order_key", format!("must be one of {}", known.join(", ")))
        })?;
        let descends = self
            .text("order_direction")
            .is_some_and(|direction| direction.eq_ignore_ascii_case("desc"));
        Ok(Listing {
            limit,
            offset: page
                .saturating_mul(u64::from(limit))
                .min(i64::MAX.cast_unsigned()),
            sort: sort.1,
            direction: if descends {
                OrderDirection::Descending
            } else {
                OrderDirection::Ascending
            },
            search: self.text("query").map(str::to_owned),
        })
    }

    /// The filters; a team that does not exist, or may not be seen, is refused.
    pub(super) async fn filter(
        &self,
        hosts: &Hosts,
        principal: &Principal,
    ) -> Result<HostQuery, Problem> {
        let status = self.text("status");
        if let Some(status) = status
            && !["new", "online", "offline", "missing", "mia"].contains(&status)
        {
            return Err(Problem::bad_request(format!("Invalid status: {status}")));
        }
        if self.text("policy_response").is_some() && self.text("policy_id").is_none() {
            return Err(Problem::bad_request(
                "Missing policy_id (it must be present when policy_response is specified)",
            ));
        }
        let team_id = self.team()?;
        check_team(hosts, principal, team_id).await?;
        let after_id = match (self.text("after"), self.text("order_key")) {
            (None, _) => None,
            (Some(_), None | Some("id" | "h.id")) => self.number("after")?,
            (Some(_), Some(_)) => {
                return Err(Problem::bad_request("after goes with order_key=id only"));
            }
        };
        let low_disk_gb: Option<i64> = self.number("low_disk_space")?;
        if low_disk_gb.is_some_and(|gigabytes| !(1..=100).contains(&gigabytes)) {
            return Err(Problem::bad_request(
                "invalid low_disk_space threshold, must be between 1 and 100",
            ));
        }
        let os_version = match (self.text("os_name"), self.text("os_version")) {
            (Some(name), Some(version)) => Some(format!("{name} {version}")),
            (None, None) => None,
            _ => {
                return Err(Problem::bad_request(
                    "os_name and os_version go together only",
                ));
            }
        };
        let version = self.number("software_version_id")?;
        Ok(HostQuery {
            status: status.map(str::to_owned),
            team_id,
            low_disk_gb,
            os_version,
            after_id,
            software_version_id: match version {
                Some(id) => Some(id),
                None => self.number("software_id")?,
            },
            software_title_id: self.number("software_title_id")?,
            platform: self.text("platform").map(str::to_owned),
            ..HostQuery::default()
        })
    }
}

/// 400 for a team that does not exist or may not be seen; 0 means hosts without one.
pub(super) async fn check_team(
    hosts: &Hosts,
    principal: &Principal,
    team: Option<i64>,
) -> Result<(), Problem> {
    let Some(team) = team.filter(|team| *team != 0) else {
        return Ok(());
    };
    let invalid = || Problem::bad_request("team is invalid");
    if !principal.visible_teams().admits(Some(TeamId(team))) {
        return Err(invalid());
    }
    match hosts.identity().teams.find(TeamId(team)).await {
        Ok(_) => Ok(()),
        Err(muster_identity::IdentityError::NotFound { .. }) => Err(invalid()),
        Err(error) => Err(error.into()),
    }
}

/// As clients read that something is not there.
pub(super) fn not_found(kind: &str, id: &str) -> Problem {
    let text = format!("{kind} {id} was not found in the datastore");
    Problem::new(StatusCode::NOT_FOUND, "not_found", text)
}

/// A service's error in Fleet's words.
pub(super) fn told(error: OperatorError, id: &str) -> Problem {
    match error {
        OperatorError::UnknownHost(_) => not_found("Host", id),
        OperatorError::UnknownLabel(_) => not_found("Label", id),
        other => other.into(),
    }
}

/// An id in a path. What is no number names nothing.
pub(super) fn host_id(text: &str) -> Result<HostId, Problem> {
    let id = text.parse().map(HostId);
    id.map_err(|_| not_found("Host", text))
}

/// A name decoded once more, since fleetctl encodes names twice; none when that makes no difference.
pub(super) fn decoded_again(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            let is_hexadecimal = digits.iter().all(u8::is_ascii_hexdigit);
            is_hexadecimal.then(|| u8::from_str_radix(text, 16).ok())?
        });
        match digits {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    let decoded = String::from_utf8(bytes).ok()?;
    (decoded != name).then_some(decoded)
}

/// Names of teams, by id.
pub(super) type TeamNames = HashMap<TeamId, String>;

/// The names of all teams, in one statement.
pub(super) async fn team_names(hosts: &Hosts) -> Result<TeamNames, Problem> {
    let teams = hosts.identity().teams.list(&TeamFilter::All).await?;
    Ok(teams.into_iter().map(|team| (team.id, team.name)).collect())
}

/// A host as it stands in lists.
pub(super) fn listed(record: &HostRecord, teams: &TeamNames, now: Timestamp) -> Host {
    let facts = &record.facts;
    let seconds = |value: Option<i64>| {
        value
            .and_then(|seconds| seconds.try_into().ok())
            .unwrap_or(0)
    };
    let never = muster_wire_fleet::time::NEVER;
    let uptime = facts.last_restarted_at.map_or(0, |started| {
        i64::try_from(now.since(started).as_nanos()).unwrap_or(i64::MAX)
    });
    Host {
        created_at: record.created_at,
        updated_at: record.updated_at,
        software_updated_at: record.software_updated_at.unwrap_or(record.created_at),
        id: record.id.0,
        detail_updated_at: record.detail_updated_at.unwrap_or(never),
        label_updated_at: record.label_updated_at.unwrap_or(never),
        policy_updated_at: record.policy_updated_at.unwrap_or(never),
        last_enrolled_at: record.osquery_enrolled_at.unwrap_or(never),
        seen_time: record.seen_at.unwrap_or(record.created_at),
        refetch_requested: record.refetch_requested,
        hostname: facts.hostname.clone(),
        uuid: facts.uuid.clone(),
        platform: facts.platform.clone(),
        osquery_version: facts.osquery_version.clone(),
        os_version: facts.os_version.clone(),
        build: facts.build.clone(),
        platform_like: facts.platform_like.clone(),
        code_name: facts.code_name.clone(),
        uptime,
        memory: facts.memory_bytes.unwrap_or(0),
        cpu_type: facts.cpu_type.clone(),
        cpu_subtype: facts.cpu_subtype.clone(),
        cpu_brand: facts.cpu_brand.clone(),
        cpu_physical_cores: facts.cpu_physical_cores.unwrap_or(0),
        cpu_logical_cores: facts.cpu_logical_cores.unwrap_or(0),
        hardware_vendor: facts.hardware_vendor.clone(),
        hardware_model: facts.hardware_model.clone(),
        hardware_version: facts.hardware_version.clone(),
        hardware_serial: facts.hardware_serial.clone(),
        computer_name: facts.computer_name.clone(),
        public_ip: facts.public_ip.clone(),
        primary_ip: facts.primary_ip.clone(),
        primary_mac: facts.primary_mac.clone(),
        distributed_interval: seconds(facts.distributed_interval_seconds),
        config_tls_refresh: seconds(facts.config_interval_seconds),
        logger_tls_period: seconds(facts.logger_interval_seconds),
        team_id: record.team_id.map(|team| team.0),
        team_name: record.team_id.and_then(|team| teams.get(&team).cloned()),
        gigs_disk_space_available: facts.disk_available_gb.unwrap_or(0.0),
        percent_disk_space_available: facts.disk_available_percent.unwrap_or(0.0),
        gigs_total_disk_space: facts.disk_total_gb.unwrap_or(0.0),
        issues: muster_wire_fleet::host::HostIssues {
            critical_vulnerabilities_count: Some(0),
            ..Default::default()
        },
        last_restarted_at: facts
            .last_restarted_at
            .unwrap_or(muster_wire_fleet::time::ZERO),
        // A host that is missing is offline, too; only filters tell them apart.
        status: match presence(record, now) {
            Presence::Online => HostStatus::Online,
            Presence::Offline | Presence::Missing => HostStatus::Offline,
        },
        display_text: facts.hostname.clone(),
        display_name: record.display_name(),
        ..Host::default()
    }
}

/// A host with everything that is known about it.
pub(super) fn whole(
    detail: HostDetail,
    software: Option<Vec<HostSoftware>>,
    teams: &TeamNames,
    now: Timestamp,
) -> Host {
    let record = &detail.host;
    let facts = &record.facts;
    let filled = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    Host {
        software,
        orbit_version: filled(&facts.orbit_version),
        fleet_desktop_version: filled(&facts.desktop_version),
        scripts_enabled: facts.scripts_enabled,
        pack_stats: Some(Vec::new()),
        users: Some(detail.users.iter().map(user).collect()),
        mdm: HostMdm::single(),
        policies: Some(Vec::new()),
        labels: Some(detail.labels.iter().map(label).collect()),
        packs: Some(Vec::new()),
        batteries: Some(serde_json::Value::Null),
        ..listed(record, teams, now)
    }
}

fn user(user: &crate::record::HostUser) -> HostUser {
    HostUser {
        uid: user.uid.parse().unwrap_or(0),
        username: user.username.clone(),
        kind: user.kind.clone(),
        groupname: user.groupname.clone(),
        shell: user.shell.clone(),
    }
}

/// The people who use a host.
pub(super) fn device_mapping(detail: &HostDetail) -> Vec<DeviceMapping> {
    let people = detail.end_users.iter();
    people
        .map(|person| DeviceMapping {
            email: person.email.clone(),
            source: person.source.clone(),
        })
        .collect()
}

/// What is installed on a host.
pub(super) async fn installed(hosts: &Hosts, id: HostId) -> Result<Vec<HostSoftware>, Problem> {
    let versions = hosts.software().of_host(id).await?;
    let shown = versions.into_iter().map(|version| HostSoftware {
        id: version.id,
        name: version.name,
        version: version.version,
        bundle_identifier: version.bundle_identifier,
        source: version.source,
        extension_id: version.extension_id,
        browser: version.browser,
        release: version.release,
        vendor: version.vendor,
        arch: version.arch,
        ..HostSoftware::default()
    });
    Ok(shown.collect())
}

/// A label as it stands in a host.
pub(super) fn label(record: &LabelRecord) -> Label {
    Label {
        created_at: record.created_at,
        updated_at: record.updated_at,
        id: record.id.0,
        name: record.name.clone(),
        description: record.description.clone(),
        query: record.query.clone(),
        platform: record.platform.clone(),
        label_type: label_type(record),
        label_membership_type: membership(record),
        ..Label::default()
    }
}

pub(super) fn label_type(record: &LabelRecord) -> LabelType {
    if record.builtin {
        LabelType::Builtin
    } else {
        LabelType::Regular
    }
}

/// The label that every host is in counts as dynamic.
pub(super) fn membership(record: &LabelRecord) -> MembershipType {
    match record.membership {
        LabelMembership::Manual => MembershipType::Manual,
        LabelMembership::Dynamic | LabelMembership::All => MembershipType::Dynamic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_were_encoded_twice_are_decoded_and_others_left_alone() {
        for (name, decoded) in [
            ("seed%20label", Some("seed label")),
            ("gr%C3%BCn", Some("grün")),
            ("seed label", None),
            ("100%", None),
            ("50%zz", None),
            ("%+1", None),
            ("%ff", None),
        ] {
            assert_eq!(decoded_again(name).as_deref(), decoded, "{name}");
        }
    }
}
