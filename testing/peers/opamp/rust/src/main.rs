//! An agent on otel-opamp-rs, for tests: prints one JSON line for everything that happens to it.
//!
//! The library shows its secret in a header `api-key` over plain HTTP and nowhere over WebSocket, names itself by a ULID,
//! asks every 30 seconds, and takes no connection settings. It tells refusals to its log alone.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use otel_opamp_rs::api::{Api, ApiCallbacks, ApiClientError, ConnectionSettings};
use otel_opamp_rs::opamp::spec::{
    AgentConfigFile, AgentConfigMap, AgentToServer, EffectiveConfig, RemoteConfigStatus,
    RemoteConfigStatuses, ServerToAgent,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The release of the library, which it does not tell itself.
const RELEASE: &str = "0.0.14";
/// ReportsStatus, AcceptsRemoteConfig, ReportsEffectiveConfig, ReportsHealth, ReportsRemoteConfig.
const CAPABILITIES: u64 = 0x1807;
/// How long is waited between two turns of the library.
const TURN: Duration = Duration::from_millis(100);
const USAGE: &str = "usage: opamp-agent-rs --url URL --key SECRET --name SERVICE [--on-config apply|fail|ignore]";

fn say(event: &str, mut about: Value) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    about["event"] = event.into();
    about["at"] = now.as_secs_f64().into();
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{about}").and_then(|()| out.flush());
}

/// The library tells its log alone what was answered.
struct Log;

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("otel_opamp_rs")
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        if text == "Request successful" {
            say("connected", json!({}));
            say("answer", json!({}));
        } else if text.starts_with("Request failure") || text.starts_with("Request send failure") {
            say("connect_failed", json!({ "error": text }));
        } else if record.level() <= log::Level::Warn {
            say("log", json!({ "text": text }));
        }
    }

    fn flush(&self) {}
}

struct Agent {
    uid: String,
    on_config: String,
}

type Answer = Result<Option<AgentToServer>, ApiClientError>;

impl ApiCallbacks for Agent {
    fn get_configuration(&mut self) -> Result<Option<AgentConfigMap>, ApiClientError> {
        let file = AgentConfigFile {
            body: b"receivers: {nop: {}}\n".to_vec(),
            content_type: "text/yaml".to_owned(),
        };
        let config_map = [("built-in".to_owned(), file)].into();
        Ok(Some(AgentConfigMap { config_map }))
    }

    fn get_features(&mut self) -> (u64, u64) {
        (CAPABILITIES, 0)
    }

    fn on_loop(&mut self) -> Answer {
        Ok(None)
    }

    fn on_error(&mut self, inbound: &ServerToAgent) {
        let error = inbound.error_response.as_ref().map(|error| error.error_message.as_str());
        say("server_error", json!({ "error": error }));
    }

    fn on_health_check(&mut self, _: &ServerToAgent) -> Answer {
        Ok(None)
    }

    fn on_command(&mut self, _: &ServerToAgent) -> Answer {
        say("command", json!({}));
        Ok(None)
    }

    fn on_agent_remote_config(&mut self, inbound: &ServerToAgent) -> Answer {
        let Some(received) = &inbound.remote_config else {
            return Ok(None);
        };
        let config = received.config.clone().unwrap_or_default();
        let mut files: Vec<&String> = config.config_map.keys().collect();
        files.sort();
        let hash: String = received.config_hash.iter().map(|byte| format!("{byte:02x}")).collect();
        say("config", json!({ "hash": hash, "files": files }));
        if self.on_config == "ignore" {
            return Ok(None);
        }
        let applies = self.on_config == "apply";
        let status = if applies {
            RemoteConfigStatuses::Applied
        } else {
            RemoteConfigStatuses::Failed
        };
        let message = if applies { "" } else { "this agent was told to fail" };
        Ok(Some(AgentToServer {
            instance_uid: self.uid.clone(),
            effective_config: applies.then_some(EffectiveConfig {
                config_map: Some(config),
            }),
            remote_config_status: Some(RemoteConfigStatus {
                last_remote_config_hash: received.config_hash.clone(),
                status: status.into(),
                error_message: message.to_owned(),
            }),
            ..AgentToServer::default()
        }))
    }

    fn on_connection_settings_offers(&mut self, _: &ServerToAgent) -> Answer {
        Ok(None)
    }

    fn on_packages_available(&mut self, _: &ServerToAgent) -> Answer {
        Ok(None)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut url, mut key, mut name) = (String::new(), String::new(), String::new());
    let mut on_config = "apply".to_owned();
    while let Some(flag) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        match flag.as_str() {
            "--url" => url = value,
            "--key" => key = value,
            "--name" => name = value,
            "--on-config" if ["apply", "fail", "ignore"].contains(&value.as_str()) => on_config = value,
            _ => url.clear(),
        }
    }
    if url.is_empty() || name.is_empty() {
        eprintln!("{USAGE}");
        std::process::exit(2);
    }
    // The library puts path and endpoint together itself.
    let path = "/v1/opamp";
    let endpoint = url.trim_end_matches(path).to_owned();
    let _ = log::set_logger(&Log);
    log::set_max_level(log::LevelFilter::Debug);
    let credential: String = Sha256::digest(key.as_bytes())[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    let settings = ConnectionSettings {
        server_endpoint: endpoint,
        api_key: key,
        listen_path: path.to_owned(),
        name,
        version: RELEASE.to_owned(),
        ..ConnectionSettings::default()
    };
    let uid = settings.instance_id.clone();
    say("started", json!({ "release": RELEASE, "uid": uid }));
    say("connecting", json!({ "over": "http", "url": url, "credential": credential }));
    let mut api = Api::new(settings, Box::new(Agent { uid, on_config }));
    let running = async {
        loop {
            api.poll().await;
            tokio::time::sleep(TURN).await;
        }
    };
    tokio::select! {
        () = running => {}
        _ = tokio::signal::ctrl_c() => say("stopped", json!({})),
    }
}
