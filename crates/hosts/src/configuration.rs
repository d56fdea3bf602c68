//! What configuration a host gets: osquery's, and orbit's.
//!
//! The agent options of a host's team replace the organisation's, and an override for its platform replaces `config`;
//! nothing merges, as Fleet has it. Scheduled queries are added as `packs`. All hosts of a team and platform get the same
//! bytes, which are made once per version of options and schedule and then handed out from memory, with the database
//! away too.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use muster_identity::{HostId, TeamId};
use muster_wire_fleet::orbit;
use muster_wire_osquery::ETAG_UNCHANGED;
use serde_json::{Map, Value};

use crate::agents::{Agents, beside};
use crate::error::HostsError;
use crate::source::ScheduleSource;
use crate::state::{HostProfile, HostState};
use crate::store;

/// Agent options of a team or of the organisation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AgentOptions {
    /// osquery's configuration.
    pub config: Value,
    /// Configurations in its place, by platform.
    pub overrides: HashMap<String, Value>,
    /// osquery's flags, set by orbit.
    pub command_line_flags: Option<Value>,
    /// osquery extensions, by name.
    pub extensions: Option<Value>,
    /// Which channel of each program the host follows.
    pub update_channels: Option<Value>,
    /// How long a script may run, in seconds.
    pub script_execution_timeout: Option<u64>,
}

/// Where agent options and the organisation's names come from. Memory only.
pub trait OptionsSource: Send + Sync + 'static {
    /// The options of the organisation.
    fn global(&self) -> Arc<AgentOptions>;
    /// The options of a team, if it has any of its own.
    fn of_team(&self, team: TeamId) -> Option<Arc<AgentOptions>>;
    /// Changes whenever one of the others may answer differently.
    fn version(&self) -> u64;
    /// What the desktop app shows of the organisation: the member `org_info` of its summary.
    fn organisation(&self) -> Value;
    /// Where users of hosts learn what is collected; none when the organisation has no page of its own.
    fn transparency_url(&self) -> Option<String>;
    /// Whether what is installed on hosts is collected, as the configuration says.
    fn collects_software(&self) -> bool;
}

/// How often a host asks, in seconds, as its configuration says; what it leaves out stays as it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Intervals {
    distributed: Option<i64>,
    config: Option<i64>,
    logger: Option<i64>,
}

/// A configuration as bytes.
#[derive(Debug)]
struct Prepared {
    /// For agents that know nothing of etags.
    plain: Bytes,
    /// The same with its etag.
    tagged: Bytes,
    /// SHA-256 of the plain bytes in lower-case hexadecimal.
    etag: String,
    intervals: Intervals,
}

/// Team, and the platform when there is an override for it.
type Key = (Option<TeamId>, Option<String>);

#[derive(Default)]
struct Cached {
    versions: (u64, u64),
    by_key: HashMap<Key, Arc<Prepared>>,
}

/// Prepared configurations.
pub(crate) struct Configurations {
    options: Arc<dyn OptionsSource>,
    schedule: Arc<dyn ScheduleSource>,
    cached: RwLock<Cached>,
}

impl Configurations {
    pub(crate) fn new(options: Arc<dyn OptionsSource>, schedule: Arc<dyn ScheduleSource>) -> Self {
        Self {
            options,
            schedule,
            cached: RwLock::default(),
        }
    }

    fn options_of(&self, team: Option<TeamId>) -> Arc<AgentOptions> {
        let own = team.and_then(|team| self.options.of_team(team));
        own.unwrap_or_else(|| self.options.global())
    }

    fn prepared(&self, profile: &HostProfile) -> Arc<Prepared> {
        let options = self.options_of(profile.team_id);
        let platform = Some(profile.platform.clone())
            .filter(|platform| options.overrides.contains_key(platform));
        let key = (profile.team_id, platform);
        // Versions first: when something changes while it is read, what was made counts as old.
        let versions = (self.options.version(), self.schedule.version());
        {
            let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
            if cached.versions == versions
                && let Some(prepared) = cached.by_key.get(&key)
            {
                return Arc::clone(prepared);
            }
        }
        let config = match &key.1 {
            Some(platform) => &options.overrides[platform],
            None => &options.config,
        };
        let packs = self.schedule.packs(profile.team_id);
        let prepared = Arc::new(Prepared::new(config, packs.as_deref()));
        let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
        if cached.versions != versions {
            cached.by_key.clear();
            cached.versions = versions;
        }
        cached.by_key.insert(key, Arc::clone(&prepared));
        prepared
    }

    /// The `org_info` member of the desktop app's summary.
    pub(crate) fn organisation(&self) -> Value {
        self.options.organisation()
    }

    /// Where the organisation says what is collected.
    pub(crate) fn transparency_url(&self) -> Option<String> {
        self.options.transparency_url()
    }

    /// Whether what is installed is collected.
    pub(crate) fn collects_software(&self) -> bool {
        self.options.collects_software()
    }

    /// Orbit's configuration. `said_capabilities`: whether this request said anything about its abilities.
    fn orbit(
        &self,
        profile: &HostProfile,
        is_in_label: &dyn Fn(&str) -> bool,
        said_capabilities: bool,
    ) -> orbit::Config {
        let options = self.options_of(profile.team_id);
        let own = options.script_execution_timeout;
        let timeout = own.filter(|timeout| *timeout > 0);
        let timeout = timeout.or_else(|| self.options.global().script_execution_timeout);
        let filled = |value: &Option<Value>| {
            value
                .clone()
                .filter(|value| value.as_object().is_some_and(|object| !object.is_empty()))
        };
        // An empty object clears the flags. Orbit of 2022, which says nothing about its abilities, would restart at
        // every poll for as long as it gets one.
        let flags = options.command_line_flags.clone().filter(|flags| {
            let flags = flags.as_object();
            flags.is_some_and(|flags| !flags.is_empty() || said_capabilities)
        });
        let extensions = options.extensions.as_ref().and_then(Value::as_object);
        let extensions =
            extensions.map(|extensions| extensions_for(extensions, profile, is_in_label));
        orbit::Config {
            script_execution_timeout: timeout.filter(|timeout| *timeout > 0),
            command_line_startup_flags: flags,
            extensions: filled(&extensions.map(Value::Object)),
            notifications: orbit::Notifications::default(),
            update_channels: filled(&options.update_channels),
        }
    }
}

/// The extensions for a host: of its platform, and of labels that it is in, all of them. The labels themselves are not
/// told.
fn extensions_for(
    extensions: &Map<String, Value>,
    profile: &HostProfile,
    is_in_label: &dyn Fn(&str) -> bool,
) -> Map<String, Value> {
    let mut fitting = Map::new();
    for (name, extension) in extensions {
        let Value::Object(extension) = extension else {
            continue;
        };
        let platform = extension
            .get("platform")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let fits = match platform {
            "macos" | "darwin" => profile.platform == "darwin",
            "linux" | "linux-arm64" => profile.is_linux(),
            "windows" | "windows-arm64" => profile.platform == "windows",
            _ => false,
        };
        let labels = extension.get("labels").and_then(Value::as_array);
        let labelled = labels.is_none_or(|labels| {
            labels
                .iter()
                .all(|label| label.as_str().is_some_and(is_in_label))
        });
        if fits && labelled {
            let mut extension = extension.clone();
            extension.shift_remove("labels");
            fitting.insert(name.clone(), Value::Object(extension));
        }
    }
    fitting
}

impl Prepared {
    fn new(config: &Value, packs: Option<&Value>) -> Self {
        let mut config = match config {
            Value::Object(config) => config.clone(),
            _ => Map::new(),
        };
        if let Some(Value::Object(scheduled)) = packs
            && !scheduled.is_empty()
        {
            // Packs that stand in the options themselves stay beside those of scheduled queries.
            let packs = config
                .entry("packs")
                .or_insert_with(|| Value::Object(Map::new()));
            if !packs.is_object() {
                *packs = Value::Object(Map::new());
            }
            if let Value::Object(packs) = packs {
                packs.extend(
                    scheduled
                        .iter()
                        .map(|(name, pack)| (name.clone(), pack.clone())),
                );
            }
        }
        // An etag is said only to agents that ask for it, and only ours.
        config.shift_remove("etag");
        let intervals = Intervals::read(&config);
        let plain: Bytes = serde_json::to_vec(&config)
            .expect("values can be written")
            .into();
        let etag = hexadecimal(digest(&SHA256, &plain).as_ref());
        config.insert("etag".to_owned(), etag.clone().into());
        let tagged = serde_json::to_vec(&config)
            .expect("values can be written")
            .into();
        Self {
            plain,
            tagged,
            etag,
            intervals,
        }
    }

    /// The four cases of the etag protocol.
    fn answer(&self, etag: Option<&str>) -> Bytes {
        match etag {
            None => self.plain.clone(),
            Some(etag) if etag == self.etag => format!("{{\"etag\":\"{ETAG_UNCHANGED}\"}}").into(),
            Some(_) => self.tagged.clone(),
        }
    }
}

impl Intervals {
    fn read(config: &Map<String, Value>) -> Self {
        let options = config.get("options");
        let seconds = |names: &[&str]| {
            let value = names.iter().find_map(|name| options?.get(name))?;
            let seconds = match value {
                Value::String(text) => text.trim().parse().ok(),
                value => value.as_i64(),
            };
            seconds.filter(|seconds| *seconds > 0)
        };
        Self {
            distributed: seconds(&["distributed_interval"]),
            config: seconds(&["config_refresh", "config_tls_refresh"]),
            logger: seconds(&["logger_tls_period"]),
        }
    }

    /// What is known of a host, with these; none when nothing differs.
    fn differing(self, profile: &HostProfile) -> Option<HostProfile> {
        let mut new = profile.clone();
        let pairs = [
            (self.distributed, &mut new.distributed_interval_seconds),
            (self.config, &mut new.config_interval_seconds),
            (self.logger, &mut new.logger_interval_seconds),
        ];
        for (said, known) in pairs {
            *known = said.or(*known);
        }
        (new != *profile).then_some(new)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

impl Agents {
    /// The configuration of a host's osquery. `etag` is what the host says that it has.
    pub async fn osquery_config(
        &self,
        host: HostId,
        etag: Option<&str>,
    ) -> Result<Bytes, HostsError> {
        self.seen(host);
        let state = self.0.check_in.host(host).await?;
        let profile = state.profile();
        let prepared = self.0.configurations.prepared(&profile);
        if let Some(changed) = prepared.intervals.differing(&profile) {
            self.keep_intervals(&state, changed).await;
        }
        Ok(prepared.answer(etag))
    }

    /// The intervals decide when a host counts as offline. That they could not be kept is no reason to withhold the
    /// configuration: the next request tries again.
    async fn keep_intervals(&self, state: &HostState, profile: HostProfile) {
        let mut db = &self.0.database;
        let saving = store::host::save_intervals(&mut db, state.id(), &profile, self.now());
        if beside("intervals", state.id(), saving).await.is_some() {
            state.set_profile(profile);
        }
    }

    /// The configuration of a host's orbit.
    pub async fn orbit_config(
        &self,
        host: HostId,
        said_capabilities: bool,
    ) -> Result<orbit::Config, HostsError> {
        self.seen(host);
        let state = self.0.check_in.host(host).await?;
        let profile = state.profile();
        let is_in_label = |name: &str| self.0.check_in.is_in_label(&profile, name);
        let configurations = &self.0.configurations;
        Ok(configurations.orbit(&profile, &is_in_label, said_capabilities))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_etag_is_the_hash_of_the_plain_body_and_is_said_only_to_those_who_ask() {
        let prepared = Prepared::new(&json!({"options": {"x": 1}, "etag": "mine"}), None);
        assert_eq!(prepared.answer(None), r#"{"options":{"x":1}}"#);
        let etag = hexadecimal(digest(&SHA256, &prepared.plain).as_ref());
        assert_eq!(etag.len(), 64);
        let full = format!(r#"{{"options":{{"x":1}},"etag":"{etag}"}}"#);
        assert_eq!(prepared.answer(Some("")), full);
        assert_eq!(prepared.answer(Some("stale")), full);
        assert_eq!(prepared.answer(Some(ETAG_UNCHANGED)), full);
        assert_eq!(prepared.answer(Some(&etag)), r#"{"etag":"ok"}"#);
    }

    #[test]
    fn scheduled_packs_stand_beside_those_of_the_options() {
        let packs = json!({"Global": {"queries": {}}});
        let body = |config: Value, packs: Option<&Value>| -> Value {
            serde_json::from_slice(&Prepared::new(&config, packs).plain).unwrap()
        };
        assert_eq!(
            body(json!({"packs": {"own": {}}}), Some(&packs)),
            json!({"packs": {"own": {}, "Global": {"queries": {}}}})
        );
        assert_eq!(
            body(json!({"packs": 5}), Some(&packs)),
            json!({ "packs": packs })
        );
        assert_eq!(body(json!({}), None), json!({}));
        assert_eq!(body(json!({}), Some(&json!({}))), json!({}));
        assert_eq!(body(json!("not an object"), None), json!({}));
    }

    #[test]
    fn intervals_are_read_as_numbers_or_texts() {
        let config = json!({"options": {"distributed_interval": "20", "config_tls_refresh": 60, "logger_tls_period": 0}});
        let Value::Object(config) = config else {
            unreachable!()
        };
        let intervals = Intervals::read(&config);
        let expected = Intervals {
            distributed: Some(20),
            config: Some(60),
            logger: None,
        };
        assert_eq!(intervals, expected);
        let known = HostProfile {
            distributed_interval_seconds: Some(20),
            config_interval_seconds: Some(60),
            logger_interval_seconds: Some(10),
            ..HostProfile::default()
        };
        assert_eq!(intervals.differing(&known), None);
        assert!(intervals.differing(&HostProfile::default()).is_some());
    }

    #[test]
    fn extensions_go_to_hosts_of_the_platform_that_are_in_all_their_labels() {
        let extensions = json!({
            "a": {"platform": "linux", "channel": "stable", "labels": ["x", "y"]},
            "b": {"platform": "linux", "channel": "edge"},
            "c": {"platform": "macos", "channel": "stable"},
            "d": "nonsense"
        });
        let Value::Object(extensions) = extensions else {
            unreachable!()
        };
        let profile = HostProfile {
            platform: "ubuntu".to_owned(),
            ..HostProfile::default()
        };
        let fitting = |in_labels: &[&str]| {
            let found = extensions_for(&extensions, &profile, &|name| in_labels.contains(&name));
            Value::Object(found)
        };
        let b = json!({"platform": "linux", "channel": "edge"});
        assert_eq!(fitting(&["x"]), json!({ "b": b }));
        assert_eq!(
            fitting(&["x", "y"]),
            json!({"a": {"platform": "linux", "channel": "stable"}, "b": b})
        );
    }
}
