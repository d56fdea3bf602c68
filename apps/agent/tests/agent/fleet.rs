//! The agent against a Fleet server of several years, which answers as one was recorded.
//!
//! The agent runs in this process, so that it can ask more often than it would by itself. Nothing else of it differs from
//! the program. What it may send is decided in [`server`]: what Fleet's own clients send and nothing of Muster's but
//! `User-Agent` and, in the header that is there for it, the names of what it can do.

mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_agent::config::{Intervals, RunArgs, Settings};
use muster_agent::session::Session;
use muster_clock::{SeededRandomness, SystemClock};
use serde_json::{Value, json};
use tokio::sync::watch;

use server::{Era, Fleet, Instead, Seen, count};

const ERAS: [Era; 3] = [Era::OsqueryOnly, Era::Autumn2022, Era::January2025];
const ORBIT: &str = "orbit/config";
const READ: &str = "distributed/read";
const WRITE: &str = "distributed/write";

/// An agent that runs; it ends when the value goes.
struct Agent {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

fn settings(server: &str, secret: &str, folder: &Path) -> Settings {
    std::fs::write(folder.join("secret"), secret).unwrap();
    let arguments = RunArgs {
        server: Some(server.to_owned()),
        enrollment_token_file: Some(folder.join("secret")),
        data_dir: Some(folder.join("data")),
        ..RunArgs::default()
    };
    let mut settings = arguments.settings(None).unwrap();
    settings.intervals = Intervals {
        distributed: Duration::from_millis(300),
        config: Duration::from_secs(1),
        orbit: Duration::from_millis(500),
    };
    settings
}

impl Agent {
    fn start(fleet: &Fleet, folder: &Path) -> Self {
        Self::with(settings(&fleet.url, server::SECRET, folder))
    }

    fn with(settings: Settings) -> Self {
        let randomness = Arc::new(SeededRandomness::new(1));
        let session = Session::new(settings, Arc::new(SystemClock), randomness).unwrap();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move { session.run(stopped).await.unwrap() });
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

/// How often each family enrolled.
fn enrolled(seen: &[Seen]) -> (usize, usize) {
    (count(seen, "orbit/enroll"), count(seen, "osquery/enroll"))
}

/// A Fleet server with an agent that has told its details.
async fn with_agent(era: Era) -> (Arc<Fleet>, Agent, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let fleet = Fleet::start(era).await;
    let agent = Agent::start(&fleet, folder.path());
    fleet.more(WRITE, 1).await;
    fleet.more(READ, 1).await;
    (fleet, agent, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_server_of_each_era_has_its_details_and_live_queries_answered() {
    for era in ERAS {
        let (fleet, agent, _folder) = with_agent(era).await;
        let name = fleet.ask(14, "SELECT name FROM processes WHERE pid = 1");
        let result = fleet.result(&name).await;
        let init = std::fs::read_to_string("/proc/1/comm").unwrap();
        assert_eq!(result["rows"], json!([{ "name": init.trim() }]), "{era:?}");
        assert_eq!(
            (&result["status"], &result["message"]),
            (&json!(0), &Value::Null)
        );
        let seen = fleet.more(READ, 2).await;
        let orbit = usize::from(era != Era::OsqueryOnly);
        assert_eq!(enrolled(&seen), (1, 1), "{era:?}");
        assert_eq!(count(&seen, ORBIT) > 0, orbit == 1, "{era:?}");
        agent.stop().await;
        fleet.has_seen_fleets_protocols_only();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_checks_in_at_the_interval_that_the_configuration_says() {
    let (fleet, agent, _folder) = with_agent(Era::January2025).await;
    // An operator writes another interval: as the recorded team's options, and as a text.
    for interval in [json!(3), json!("2")] {
        let options = json!({ "distributed_interval": interval });
        fleet.set_config(json!({ "options": options }));
        fleet.more("osquery/config", 2).await;
        let seen = fleet.more(READ, 4).await;
        let reads: Vec<_> = seen
            .iter()
            .filter(|seen| seen.path.ends_with(READ))
            .collect();
        let wanted = interval.as_u64().unwrap_or(2) as f64;
        for pair in reads[reads.len() - 3..].windows(2) {
            let gap = (pair[1].at - pair[0].at).as_secs_f64();
            let is_right = gap > wanted * 0.9 && gap < wanted + 1.5;
            assert!(is_right, "{gap:.2} s where {wanted} were configured");
        }
    }
    let flags = fleet.ask(
        1,
        "SELECT value FROM osquery_flags WHERE name IN ('config_refresh', 'distributed_interval') ORDER BY name",
    );
    // By these Fleet tells who is online: what is configured, and what the agent does by itself.
    assert_eq!(
        fleet.result(&flags).await["rows"],
        json!([{ "value": "1" }, { "value": "2" }])
    );
    agent.stop().await;
    fleet.has_seen_fleets_protocols_only();
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations_of_all_shapes_leave_it_online() {
    let (fleet, agent, _folder) = with_agent(Era::January2025).await;
    for config in [
        json!({}),
        json!({ "options": null, "packs": null, "schedule": null }),
        json!({ "options": { "distributed_interval": 1, "distributed_plugin": "tls", "unknown": [1, { "a": null }] } }),
        json!({ "options": { "distributed_interval": "soon", "config_refresh": -1 }, "file_paths": { "x": ["/etc/%%"] } }),
        json!({ "options": { "distributed_interval": 1 }, "packs": { "Global": { "queries": { "q": {
            "query": "SELECT 1", "interval": 1, "platform": "", "version": "", "snapshot": true } } } } }),
    ] {
        fleet.set_config(config);
        fleet.more("osquery/config", 1).await;
        fleet.more(READ, 1).await;
    }
    let name = fleet.ask(7, "SELECT 7 AS seven");
    assert_eq!(fleet.result(&name).await["rows"], json!([{ "seven": "7" }]));
    assert_eq!(enrolled(&fleet.seen()), (1, 1));
    agent.stop().await;
    // Nothing of the schedule is logged: the agent does not run schedules, and says nothing that it does not know.
    fleet.has_seen_fleets_protocols_only();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_orbits_configuration_says_it_goes_on() {
    let (fleet, agent, _folder) = with_agent(Era::January2025).await;
    for config in [
        json!({ "notifications": {} }),
        json!({ "command_line_startup_flags": { "verbose": true, "logger_min_status": 1 }, "notifications": {} }),
        json!({ "command_line_startup_flags": null, "notifications": {} }),
        json!({ "command_line_startup_flags": {}, "notifications": {} }),
        json!({ "notifications": { "pending_script_execution_ids": ["8508039b-b4f0-4c4a-822d-5340fce29755"] } }),
        json!({ "notifications": { "pending_software_installer_ids": ["1"], "run_setup_experience": true, "new": 7 } }),
        json!({ "script_execution_timeout": "300", "extensions": { "hello": { "platform": "linux" } }, "nudge_config": null,
            "notifications": null, "update_channels": [], "websocket": { "enabled": true }, "later": { "a": [1] } }),
        json!({}),
    ] {
        fleet.set_orbit_config(config.clone());
        fleet.more(ORBIT, 2).await;
        let seen = fleet.more(READ, 1).await;
        assert_eq!(enrolled(&seen), (1, 1), "{config}");
    }
    let error = fleet.ask(1, "SELECT last_recorded_error FROM orbit_info");
    assert_eq!(
        fleet.result(&error).await["rows"],
        json!([{ "last_recorded_error": "" }])
    );
    agent.stop().await;
    fleet.has_seen_fleets_protocols_only();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_detail_is_answered_also_where_no_table_is_there_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = Fleet::start(Era::January2025).await;
    let agent = Agent::start(&fleet, folder.path());
    let detail = async |name: &str| fleet.result(&format!("fleet_detail_query_{name}")).await;
    for (name, message) in [
        (
            "google_chrome_profiles",
            "no such table: google_chrome_profiles",
        ),
        ("kubequery_info", "no such table: kubernetes_info"),
        (
            "software_vscode_extensions",
            "no such table: vscode_extensions",
        ),
        (
            "disk_encryption_linux",
            "no such table: no_such_table_anywhere",
        ),
        ("disk_space_unix", "near \"SELEC\": syntax error"),
    ] {
        let result = detail(name).await;
        assert_eq!(
            (&result["status"], &result["rows"]),
            (&json!(1), &json!([])),
            "{name}"
        );
        let said = result["message"].as_str().unwrap();
        assert!(said.contains(message), "{name}: {said}");
    }
    for name in [
        "os_version",
        "osquery_info",
        "system_info",
        "uptime",
        "users",
        "orbit_info",
    ] {
        let result = detail(name).await;
        assert_eq!(result["status"], 0, "{name}: {result}");
        assert!(!result["rows"].as_array().unwrap().is_empty(), "{name}");
    }
    // The host is not asked again for what it answered, failures included, and labels and policies are answered, too.
    assert_eq!(
        fleet.result("fleet_policy_query_1").await["rows"],
        json!([{ "one": "1" }])
    );
    assert_eq!(fleet.result("fleet_label_query_18").await["status"], 0);
    let before = count(&fleet.seen(), WRITE);
    let seen = fleet.more(READ, 2).await;
    assert_eq!(count(&seen, WRITE), before);
    agent.stop().await;
    fleet.has_seen_fleets_protocols_only();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_whose_discovery_gives_no_row_is_left_out_and_the_others_are_answered() {
    let (fleet, agent, _folder) = with_agent(Era::January2025).await;
    let plugin =
        "SELECT 1 FROM osquery_registry WHERE active = true AND registry = 'table' AND name = ";
    fleet.ask_if(1, "SELECT * FROM no_such", &format!("{plugin}'no_such'"));
    fleet.ask_if(2, "SELECT 2 AS two", "SELECT * FROM no_such");
    let there = fleet.ask_if(3, "SELECT 3 AS three", &format!("{plugin}'orbit_info'"));
    assert_eq!(
        fleet.result(&there).await["rows"],
        json!([{ "three": "3" }])
    );
    fleet.more(READ, 2).await;
    let named = |name: &str| {
        let writes = fleet.seen();
        writes
            .iter()
            .any(|seen| seen.path.ends_with(WRITE) && !seen.body["queries"][name].is_null())
    };
    assert!(!named("fleet_distributed_query_1") && !named("fleet_distributed_query_2"));
    agent.stop().await;
    fleet.has_seen_fleets_protocols_only();
}

#[tokio::test(flavor = "multi_thread")]
async fn orbits_refused_key_is_replaced_and_osquerys_stays() {
    for era in [Era::Autumn2022, Era::January2025] {
        let (fleet, agent, _folder) = with_agent(era).await;
        let (orbit, osquery) = (fleet.key("orbit"), fleet.key("osquery"));
        fleet.instead(ORBIT, 1, Instead::Case("orbit key refused"));
        fleet
            .until("to enroll again", |seen| enrolled(seen) == (2, 1))
            .await;
        let seen = fleet.more(ORBIT, 1).await;
        assert_ne!(fleet.key("orbit"), orbit);
        assert_eq!(fleet.key("osquery"), osquery);
        assert_eq!(seen.last().unwrap().status, 200);
        agent.stop().await;
        fleet.has_seen_fleets_protocols_only();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_keys_is_enrolled_with_again_once() {
    for era in ERAS {
        let (fleet, agent, folder) = with_agent(era).await;
        fleet.lose_keys();
        let orbit = if era == Era::OsqueryOnly { 1 } else { 2 };
        fleet
            .until("to enroll again", |seen| enrolled(seen) == (orbit, 2))
            .await;
        // It is a new host for this server: it asks for the details, and gets them.
        fleet.more(WRITE, 1).await;
        let seen = fleet.more(READ, 2).await;
        assert_eq!(enrolled(&seen), (orbit, 2), "{era:?}");
        let kept = std::fs::read_to_string(folder.path().join("data/keys.json")).unwrap();
        assert!(kept.contains(&fleet.key("osquery")), "{era:?}");
        agent.stop().await;
        fleet.has_seen_fleets_protocols_only();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_results_makes_it_enroll_and_the_server_asks_anew() {
    let (fleet, agent, _folder) = with_agent(Era::January2025).await;
    fleet.instead(WRITE, 1, Instead::Case("osquery key refused"));
    let name = fleet.ask(5, "SELECT 5 AS five");
    fleet
        .until("to enroll again", |seen| enrolled(seen) == (1, 2))
        .await;
    assert_eq!(fleet.result(&name).await["rows"], json!([{ "five": "5" }]));
    agent.stop().await;
    fleet.has_seen_fleets_protocols_only();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_the_server_or_a_proxy_makes_it_enroll_again() {
    let faults = [
        Instead::Case("write, answered with a fault"),
        Instead::Json(500, json!({ "error": "database is away", "uuid": "" })),
        // No server says so; a key must not hang on that.
        Instead::Json(
            500,
            json!({ "error": "database is away", "node_invalid": true }),
        ),
        Instead::Json(
            503,
            json!({ "message": "boom", "errors": [{ "name": "base", "reason": "boom" }] }),
        ),
        Instead::Html(502),
        Instead::Html(504),
        Instead::Html(401),
        Instead::Html(403),
        Instead::Html(200),
        Instead::Case("unknown path"),
        Instead::Case("malformed"),
        Instead::Cut,
    ];
    let in_era = async |era: Era| {
        let (fleet, agent, _folder) = with_agent(era).await;
        for fault in &faults {
            let paths = match era {
                Era::OsqueryOnly => vec!["osquery/config", READ],
                _ => vec![ORBIT, "osquery/config", READ],
            };
            for path in &paths {
                fleet.instead(path, 1, fault.clone());
            }
            let asked = |seen: &[Seen], path: &str| count(seen, path);
            let before: Vec<_> = paths
                .iter()
                .map(|path| asked(&fleet.seen(), path))
                .collect();
            fleet
                .until(&format!("to go on after {fault:?}"), |seen| {
                    let mut each = paths.iter().zip(&before);
                    each.all(|(path, before)| asked(seen, path) >= before + 2)
                })
                .await;
        }
        let name = fleet.ask(3, "SELECT 3 AS three");
        assert_eq!(fleet.result(&name).await["rows"], json!([{ "three": "3" }]));
        assert_eq!(enrolled(&fleet.seen()), (1, 1), "{era:?}");
        agent.stop().await;
        fleet.has_seen_fleets_protocols_only();
    };
    tokio::join!(in_era(Era::OsqueryOnly), in_era(Era::January2025));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_limit_asks_for_is_waited_for() {
    let (fleet, agent, _folder) = with_agent(Era::January2025).await;
    fleet.instead(READ, 1, Instead::Case("limit"));
    let seen = fleet.more(READ, 2).await;
    let reads: Vec<_> = seen
        .iter()
        .filter(|seen| seen.path.ends_with(READ))
        .collect();
    let [.., limited, next] = &reads[..] else {
        panic!("{reads:?}")
    };
    assert_eq!((limited.status, next.status), (429, 200));
    let waited = next.at - limited.at;
    assert!(
        waited >= Duration::from_secs(3),
        "{waited:?} after `Retry-After: 3`"
    );
    agent.stop().await;
    fleet.has_seen_fleets_protocols_only();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orbit_api_that_is_out_of_order_does_not_keep_it_from_checking_in() {
    // Configuration that fails for ever: check-ins keep their interval.
    let (fleet, agent, _folder) = with_agent(Era::January2025).await;
    fleet.set_config(json!({ "options": { "distributed_interval": 1 } }));
    fleet.more("osquery/config", 1).await;
    let boom = json!({ "message": "boom", "errors": [] });
    fleet.instead(ORBIT, usize::MAX, Instead::Json(500, boom));
    fleet.more(ORBIT, 2).await;
    let seen = fleet.more(READ, 5).await;
    let reads: Vec<_> = seen
        .iter()
        .filter(|seen| seen.path.ends_with(READ))
        .collect();
    let span = reads[reads.len() - 1].at - reads[reads.len() - 5].at;
    assert!(
        span < Duration::from_millis(5_500),
        "{span:?} for four times a second"
    );
    let name = fleet.ask(3, "SELECT 3 AS three");
    fleet.result(&name).await;
    fleet.heal();
    fleet
        .until("orbit's configuration", |seen| {
            seen.iter()
                .any(|seen| seen.path.ends_with(ORBIT) && seen.status == 200)
        })
        .await;
    agent.stop().await;
    fleet.has_seen_fleets_protocols_only();
    // An enrollment that fails for ever, and a proxy that lets osquery's paths through only.
    for fault in [Instead::Html(502), Instead::Html(403), Instead::Html(401)] {
        let (fleet, folder) = (
            Fleet::start(Era::January2025).await,
            tempfile::tempdir().unwrap(),
        );
        fleet.instead("orbit/enroll", usize::MAX, fault.clone());
        let name = fleet.ask(3, "SELECT 3 AS three");
        let agent = Agent::start(&fleet, folder.path());
        assert_eq!(
            fleet.result(&name).await["rows"],
            json!([{ "three": "3" }]),
            "{fault:?}"
        );
        fleet.heal();
        fleet
            .until("to enroll by orbit, too", |seen| count(seen, ORBIT) > 0)
            .await;
        assert_eq!(count(&fleet.seen(), "osquery/enroll"), 1, "{fault:?}");
        agent.stop().await;
        fleet.has_seen_fleets_protocols_only();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_secret_an_enrolled_agent_goes_on_by_osquerys_api() {
    let (fleet, agent, folder) = with_agent(Era::January2025).await;
    std::fs::remove_file(folder.path().join("secret")).unwrap();
    fleet.instead(ORBIT, 1, Instead::Case("orbit key refused"));
    fleet
        .until("a refusal", |seen| {
            seen.iter().any(|seen| seen.status == 401)
        })
        .await;
    let name = fleet.ask(3, "SELECT 3 AS three");
    assert_eq!(fleet.result(&name).await["rows"], json!([{ "three": "3" }]));
    std::fs::write(folder.path().join("secret"), server::SECRET).unwrap();
    fleet
        .until("to enroll by orbit again", |seen| enrolled(seen) == (2, 1))
        .await;
    agent.stop().await;
    fleet.has_seen_fleets_protocols_only();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_musters_is_asked_of_a_server_unless_its_header_says_so() {
    let (fleet, agent, _folder) = with_agent(Era::January2025).await;
    for header in [
        "",
        "orbit_endpoints, token_rotation, end_user_email",
        "orbit_endpoints,muster_notify_not,notify,MUSTER_NOTIFY",
        "orbit_endpoints",
    ] {
        fleet.set_header(header);
        fleet.more(ORBIT, 2).await;
        let seen = fleet.more(READ, 1).await;
        assert_eq!(enrolled(&seen), (1, 1), "{header:?}");
    }
    fleet.has_seen_fleets_protocols_only();
    // The proof that the server would have seen it.
    fleet.set_header("orbit_endpoints, muster_notify");
    fleet.more("orbit/muster_notify", 1).await;
    assert_eq!(
        fleet.violations()[0],
        "GET /api/fleet/orbit/muster_notify: the server does not have this"
    );
    // And once the server is rolled back, it is not asked any more.
    fleet.set_header("orbit_endpoints");
    fleet.more(ORBIT, 2).await;
    let before = count(&fleet.seen(), "muster_notify");
    fleet.more(ORBIT, 6).await;
    assert_eq!(count(&fleet.seen(), "muster_notify"), before);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_wait_while_the_server_cannot_take_them_and_it_goes_on_asking() {
    let (fleet, agent, _folder) = with_agent(Era::January2025).await;
    fleet.instead(WRITE, usize::MAX, Instead::Html(502));
    let name = fleet.ask(9, "SELECT 9 AS nine");
    fleet.more(WRITE, 2).await;
    fleet.more(READ, 3).await;
    fleet.heal();
    assert_eq!(fleet.result(&name).await["rows"], json!([{ "nine": "9" }]));
    // A proxy's limit: what is too large is given up and the server told so, the rest arrives.
    let small = fleet.ask(10, "SELECT 10 AS ten");
    let large = fleet.ask(11, "SELECT 11 AS eleven");
    fleet.instead(WRITE, 2, Instead::Html(413));
    let results = (fleet.result(&small).await, fleet.result(&large).await);
    let failed = [&results.0, &results.1]
        .into_iter()
        .filter(|result| result["status"] == 1);
    let failed: Vec<_> = failed.collect();
    assert_eq!(failed.len(), 1, "{results:?}");
    assert!(
        failed[0]["message"].as_str().unwrap().contains("413"),
        "{failed:?}"
    );
    assert_eq!(enrolled(&fleet.seen()), (1, 1));
    agent.stop().await;
    fleet.has_seen_fleets_protocols_only();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_not_tried_over_and_over() {
    let in_era = async |era: Era| {
        let (fleet, folder) = (Fleet::start(era).await, tempfile::tempdir().unwrap());
        let agent = Agent::with(settings(&fleet.url, "wrong", folder.path()));
        let seen = fleet
            .until("to try twice", |seen| enrolled(seen).1 == 2)
            .await;
        let tries: Vec<_> = seen
            .iter()
            .filter(|seen| seen.path.ends_with("osquery/enroll"))
            .collect();
        let waited = tries[1].at - tries[0].at;
        assert!(waited >= Duration::from_secs(5), "{era:?}: {waited:?}");
        assert_eq!(enrolled(&seen).0, 1, "{era:?}");
        assert_eq!(count(&seen, READ), 0);
        agent.stop().await;
        fleet.has_seen_fleets_protocols_only();
    };
    let [first, second, third] = ERAS.map(in_era);
    tokio::join!(first, second, third);
}

/// Processor time that a process has used.
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse().unwrap())
        .collect();
    // Linux counts in hundredths here on every machine that there is.
    Duration::from_millis(10 * fields.iter().sum::<u64>())
}

#[tokio::test(flavor = "multi_thread")]
async fn between_check_ins_it_sleeps_also_where_there_is_no_orbit_api() {
    for era in [Era::OsqueryOnly, Era::January2025] {
        let (fleet, folder) = (Fleet::start(era).await, tempfile::tempdir().unwrap());
        fleet.set_config(json!({ "options": { "distributed_interval": 1 } }));
        std::fs::write(folder.path().join("secret"), server::SECRET).unwrap();
        let mut program = crate::program();
        program
            .args(["run", "--server", &fleet.url, "--log-level", "error"])
            .arg("--enrollment-token-file")
            .arg(folder.path().join("secret"))
            .arg("--data-dir")
            .arg(folder.path().join("data"));
        let mut child = program.spawn().unwrap();
        fleet.more(WRITE, 1).await;
        fleet.more(READ, 1).await;
        let (before, begun) = (cpu_time(child.id()), std::time::Instant::now());
        fleet.more(READ, 4).await;
        let (used, span) = (cpu_time(child.id()).saturating_sub(before), begun.elapsed());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(span >= Duration::from_secs(3), "{span:?}");
        assert!(
            used < span / 4,
            "{era:?}: {used:?} of {span:?} for four check-ins"
        );
        fleet.has_seen_fleets_protocols_only();
    }
}
