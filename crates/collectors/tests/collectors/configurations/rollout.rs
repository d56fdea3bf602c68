//! From an assignment to a collector that runs it, and what becomes of versions that fail.

use muster_bus::Bus as _;
use muster_clock::Clock as _;
use muster_store::testing::on_both_databases;
use muster_wire_opamp::AgentCapabilities;
use serde_json::{Value, json};

use super::{
    APPLIED, APPLYING, Agent, AgentRemoteConfig, FAILED, Site, body_of, components, good,
    supervisor,
};
use crate::{described, message, row, until};

on_both_databases! {
    async fn a_version_reaches_a_collector_and_counts_as_run_after_a_healthy_while(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 7).await;
        assert_eq!(agent.poll().await.remote_config, None);
        let id = site.create("gateway", good(1)).await;
        let assignment = site.assign(id, "service.name=otelcol, host.name in (box-7,box-8)", json!({})).await;
        let config = agent.receive().await;
        assert_eq!(body_of(&config), good(1)["otelcol.yaml"]["body"].as_str().unwrap());
        let version = site.ok("GET", "/collector-configs/1/versions/1", Value::Null).await;
        assert_eq!(data_encoding::HEXLOWER.encode(&config.config_hash), version["hash"].as_str().unwrap());
        site.until_stage(1, "sent").await;
        agent.report(&config, APPLYING, "").await;
        site.until_stage(1, "applying").await;
        agent.report(&config, APPLIED, "").await;
        let state = site.until_stage(1, "soaking").await;
        assert_eq!((&state["state"], &state["version"], &state["assignment_id"]), (&json!("applying"), &json!(1),
            &json!(assignment)));
        site.fixture.wait(31);
        agent.is_heard().await;
        let state = site.until_state(1, "in_sync").await;
        assert_eq!((&state["configuration_name"], &state["last_good_version"]), (&json!("gateway"), &json!(1)));
        assert_eq!(state["assignments"][0]["selector"], "host.name in (box-7, box-8), service.name=otelcol");
        assert_eq!(agent.poll().await.remote_config, None, "it is not sent twice");
        let detail = site.ok("GET", "/collector-configs/1", Value::Null).await;
        assert_eq!(detail["states"], json!({ "in_sync": 1 }));
        let events = site.fixture.look(1).await["events"].to_string();
        assert!(events.contains("config_assigned") && events.contains("config_in_sync"), "{events}");
    }

    async fn a_version_that_failed_is_told_with_the_agents_words_and_not_sent_again_until_it_changes(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 7).await;
        let id = site.create("gateway", good(1)).await;
        site.assign(id, "*", json!({})).await;
        let config = agent.receive().await;
        agent.report(&config, APPLYING, "").await;
        // As a supervisor does: applied, and a moment later it was not.
        agent.report(&config, APPLIED, "").await;
        agent.report(&config, FAILED, "cannot start pipelines: address in use").await;
        let state = site.until_state(1, "failed").await;
        assert_eq!(state["message"], "cannot start pipelines: address in use");
        site.fixture.wait(600);
        for _ in 0..5 {
            assert_eq!(agent.poll().await.remote_config, None);
        }
        let page = site.ok("GET", "/collector-configs/1/status?state=failed", Value::Null).await;
        assert_eq!((&page["total"], &page["items"][0]["host_name"]), (&json!(1), &json!("box-7")));
        let page = site.ok("GET", "/collector-config-states?state=in_sync", Value::Null).await;
        assert_eq!(page["total"], 0);
        site.push(id, good(2)).await;
        let config = agent.takes_it_well(1).await;
        assert!(body_of(&config).contains("timeout: 2s"));
    }

    async fn a_failed_version_is_taken_back_by_one_step(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 7).await;
        let id = site.create("gateway", good(1)).await;
        let assignment = site.assign(id, "*", json!({})).await;
        agent.takes_it_well(1).await;
        site.push(id, good(2)).await;
        let config = agent.receive().await;
        agent.report(&config, FAILED, "broken").await;
        site.until_state(1, "failed").await;
        let all = site.ok("POST", &format!("/collector-configs/{id}/rollback"), json!({})).await;
        assert_eq!((&all["items"][0]["version"], &all["items"][0]["rolled_back_reason"]), (&json!(1), &json!("by Ann")));
        let config = agent.receive().await;
        assert!(body_of(&config).contains("timeout: 1s"));
        agent.report(&config, APPLIED, "").await;
        site.until_state(1, "in_sync").await;
        // There is nothing before the first.
        let path = format!("/collector-config-assignments/{assignment}/rollback");
        assert_eq!(site.call("POST", &path, json!({})).await.0, 409);
        // The version that failed there is not sent once more.
        site.ok("PATCH", &format!("/collector-config-assignments/{assignment}"), json!({ "version": 2 })).await;
        assert_eq!(site.until_state(1, "failed").await["message"], "broken");
        assert_eq!(agent.poll().await.remote_config, None);
    }

    async fn a_collector_goes_back_by_itself_when_that_is_asked_for(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 7).await;
        let mut other = Agent::enroll(&site, 8).await;
        let id = site.create("gateway", good(1)).await;
        site.assign(id, "*", json!({ "auto_rollback": "collector" })).await;
        agent.takes_it_well(1).await;
        site.push(id, good(2)).await;
        let config = agent.receive().await;
        agent.report(&config, FAILED, "broken").await;
        let config = agent.receive().await;
        assert!(body_of(&config).contains("timeout: 1s"));
        agent.report(&config, APPLIED, "").await;
        let state = site.until_state(1, "failed").await;
        assert_eq!((&state["version"], &state["runs_instead"], &state["message"]), (&json!(2), &json!(1), &json!("broken")));
        assert!(body_of(&other.receive().await).contains("timeout: 2s"), "the other one is not concerned");
    }

    async fn all_go_back_when_a_version_failed_on_as_many_as_is_said(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agents = Vec::new();
        for uid in 1..=4 {
            agents.push(Agent::enroll(&site, uid).await);
        }
        let id = site.create("gateway", good(1)).await;
        let how = json!({ "auto_rollback": "assignment", "failures_until_rollback": 2, "follows_newest": true });
        let assignment = site.assign(id, "*", how).await;
        for (collector, agent) in (1..).zip(&mut agents) {
            agent.takes_it_well(collector).await;
        }
        let made = site.ok("POST", &format!("/collector-configs/{id}/versions"), json!({ "files": good(2) })).await;
        assert_eq!(made["assignments_moved"], 1);
        let path = format!("/collector-config-assignments/{assignment}");
        for (failures, agent) in (1..).zip(&mut agents[..2]) {
            let config = agent.receive().await;
            agent.report(&config, FAILED, "broken").await;
            // After the second one all go back at once.
            if failures == 1 {
                site.until_state(failures, "failed").await;
                assert_eq!(site.ok("GET", &path, Value::Null).await["version"], 2);
            }
        }
        for agent in &mut agents[..2] {
            assert!(body_of(&agent.receive().await).contains("timeout: 1s"));
        }
        for collector in 3..=4 {
            site.until_state(collector, "in_sync").await;
        }
        let assignment = site.ok("GET", &path, Value::Null).await;
        assert_eq!((&assignment["version"], &assignment["follows_newest"]), (&json!(1), &json!(false)));
        assert_eq!(assignment["rolled_back_reason"], "version 2 failed on 2 collectors");
    }

    async fn a_collector_that_stays_ill_with_a_new_version_failed(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 7).await;
        let id = site.create("gateway", good(1)).await;
        site.assign(id, "*", json!({ "soak_seconds": 10 })).await;
        let config = agent.receive().await;
        agent.feel(false, "exporter debug: no such host").await;
        agent.report(&config, APPLIED, "").await;
        site.until_stage(1, "soaking").await;
        site.fixture.wait(71);
        let state = site.until_state(1, "failed").await;
        assert_eq!(state["message"], "applied, but the collector is not healthy: exporter debug: no such host");
        agent.feel(true, "").await;
        site.until_stage(1, "soaking").await;
        site.fixture.wait(11);
        agent.is_heard().await;
        site.until_state(1, "in_sync").await;
    }

    async fn a_paused_assignment_sends_nothing_until_it_goes_on(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 7).await;
        let id = site.create("gateway", good(1)).await;
        let assignment = site.assign(id, "*", json!({ "paused": true })).await;
        let state = site.until_state(1, "applying").await;
        assert_eq!((&state["stage"], &state["message"]), (&json!("waiting"), &json!("the assignment is paused")));
        for _ in 0..5 {
            assert_eq!(agent.poll().await.remote_config, None);
        }
        site.ok("PATCH", &format!("/collector-config-assignments/{assignment}"), json!({ "paused": false })).await;
        agent.takes_it_well(1).await;
    }

    async fn what_a_collector_cannot_run_is_not_sent_to_it_and_it_is_told_why(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut able = Agent::with(&site, 1, supervisor() | AgentCapabilities::REPORTS_AVAILABLE_COMPONENTS.bits()).await;
        let mut unable = Agent::with(&site, 2, supervisor() | AgentCapabilities::REPORTS_AVAILABLE_COMPONENTS.bits()).await;
        let mut deaf = Agent::with(&site, 3, AgentCapabilities::REPORTS_HEALTH.bits()).await;
        for (agent, receivers) in [(&mut able, ["otlp", "nop"]), (&mut unable, ["otlq", "nop"])] {
            let mut said = message(agent.uid, 0, agent.capabilities);
            said.available_components = Some(components(&receivers));
            agent.say(said).await;
        }
        let id = site.create("gateway", good(1)).await;
        site.assign(id, "*", json!({})).await;
        able.receive().await;
        let state = site.until_state(2, "cannot").await;
        assert_eq!(state["message"], "there is no receiver of type `otlp` among the 2 that the collector has; did you mean \
            `otlq`?");
        let state = site.until_state(3, "cannot").await;
        assert!(state["message"].as_str().unwrap().starts_with("it does not accept remote configuration"), "{state}");
        assert_eq!(unable.poll().await.remote_config, None);
        assert_eq!(deaf.poll().await.remote_config, None);
        let checked = site.ok("POST", "/collector-configs/validate", json!({ "files": good(1), "collector_id": 2 })).await;
        assert_eq!((&checked["valid"], &checked["findings"][0]["line"]), (&json!(false), &json!(2)), "{checked}");
        // An update brings the component.
        let mut said = message(2, 0, unable.capabilities);
        said.available_components = Some(components(&["otlp"]));
        unable.say(said).await;
        unable.receive().await;
    }

    async fn a_collector_that_nothing_is_for_any_more_keeps_what_it_runs(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 7).await;
        let id = site.create("gateway", good(1)).await;
        let assignment = site.assign(id, "os.type=linux", json!({})).await;
        agent.takes_it_well(1).await;
        site.ok("DELETE", &format!("/collector-config-assignments/{assignment}"), Value::Null).await;
        site.until_state(1, "unmanaged").await;
        assert_eq!(agent.poll().await.remote_config, None, "an empty one would stop it");
        // Its attributes change, and another assignment is for it.
        let other = site.create("other", good(9)).await;
        site.assign(other, "os.type=windows", json!({})).await;
        let mut said = described(7, 0, agent.capabilities);
        said.agent_description.as_mut().unwrap().non_identifying_attributes[1] =
            muster_wire_opamp::proto::KeyValue::text("os.type", "windows");
        agent.say(said).await;
        assert!(body_of(&agent.receive().await).contains("timeout: 9s"));
    }

    async fn what_an_agent_reported_survives_a_restart_of_the_server(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 7).await;
        let id = site.create("gateway", good(1)).await;
        site.assign(id, "*", json!({})).await;
        agent.takes_it_well(1).await;
        site.fixture.collectors.flush().await.unwrap();
        let restarted = site.another(&db, 9).await;
        let mut agent = Agent { site: &restarted, ..agent };
        for _ in 0..3 {
            assert_eq!(agent.poll().await.remote_config, None, "it has it");
        }
        assert_eq!(restarted.config_of(1).await["state"], "in_sync");
        restarted.push(id, good(2)).await;
        assert!(body_of(&agent.receive().await).contains("timeout: 2s"));
    }

    async fn an_agent_that_is_given_another_uid_is_not_sent_again_what_it_has(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 7).await;
        let id = site.create("gateway", good(1)).await;
        site.assign(id, "*", json!({})).await;
        agent.takes_it_well(1).await;
        let mut said = message(7, 0, agent.capabilities);
        said.flags = 1;
        let uid = agent.say(said).await.agent_identification.expect("another uid").new_instance_uid;
        for _ in 0..3 {
            // It goes on under the new one, and repeats nothing of what it said about configurations.
            let mut said = described(7, 0, agent.capabilities);
            said.instance_uid = uid.clone();
            assert_eq!(agent.say(said).await.remote_config, None);
        }
        assert_eq!(site.fixture.list("").await.len(), 1);
        assert_eq!(site.config_of(1).await["state"], "in_sync");
    }

    async fn a_collector_on_a_socket_of_another_server_is_sent_its_configuration_at_once(db: TestDatabase) {
        let here = Site::new(&db).await;
        let there = here.another(&db, 2).await;
        let token = here.fixture.token(muster_identity::KnownAgents::Adopt).await;
        let address = there.fixture.serve().await;
        let mut socket = crate::socket::open(address, &token).await.unwrap();
        crate::socket::ask(&mut socket, &described(7, 0, supervisor())).await;
        there.until_state(1, "unmanaged").await;
        let id = here.create("gateway", good(1)).await;
        here.assign(id, "*", json!({})).await;
        let pushed = crate::socket::hear(&mut socket).await.expect("a message").0;
        assert!(body_of(&pushed.remote_config.unwrap()).contains("timeout: 1s"));
        here.until_stage(1, "sent").await;
    }

    async fn the_largest_version_fits_into_a_message_and_a_larger_one_is_refused_when_it_is_made(db: TestDatabase) {
        const MOST: usize = 512 * 1024;
        let site = Site::new(&db).await;
        // Names and types count, too.
        let beside = 3 * ("a.yaml".len() + "text/yaml".len());
        let files = |bytes: usize| {
            let first = good(1)["otelcol.yaml"]["body"].as_str().unwrap().to_owned();
            let padded = |start: &str, bytes: usize| format!("{start}#{}\n", "x".repeat(bytes - start.len() - 2));
            json!({
                "a.yaml": { "body": padded(&first, 200_000) },
                "b.yaml": { "body": padded("", 200_000) },
                "c.yaml": { "body": padded("", bytes - beside - 400_000) },
            })
        };
        let id = site.create("gateway", files(MOST)).await;
        let path = format!("/collector-configs/{id}/versions");
        let (status, problem) = site.call("POST", &path, json!({ "files": files(MOST + 1) })).await;
        assert_eq!(status, 422);
        let told = problem["message"].as_str().unwrap();
        assert!(told.contains("all files come to 524289 bytes; at most 524288 are allowed"), "{told}");
        let whole = |config: &AgentRemoteConfig| -> usize {
            config.config.as_ref().unwrap().config_map.values().map(|object| object.body.len()).sum()
        };
        let mut polls = Agent::with(&site, 7, supervisor() | crate::SETTINGS).await;
        let token = polls.secret.clone();
        let mut socket = crate::socket::open(site.fixture.serve().await, &token).await.unwrap();
        crate::socket::ask(&mut socket, &described(8, 0, supervisor())).await;
        site.until_state(2, "unmanaged").await;
        site.assign(id, "*", json!({})).await;
        assert_eq!(whole(&polls.receive().await), MOST - beside);
        let pushed = crate::socket::hear(&mut socket).await.expect("a message").0;
        assert_eq!(whole(&pushed.remote_config.unwrap()), MOST - beside);
    }

    async fn what_would_change_is_told_before_it_is_assigned(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 7).await;
        let id = site.create("gateway", good(1)).await;
        site.ok("POST", &format!("/collector-configs/{id}/versions"), json!({ "files": good(5) })).await;
        let runs = "receivers: {otlp: {protocols: {grpc: {endpoint: 'localhost:4317'}}}}\n\
            processors: {batch: {timeout: 1s, send_batch_size: 8192}}\n\
            exporters: {debug: {verbosity: Basic}}\nextensions: {opamp: {ppid: 17}}\n\
            service: {extensions: [opamp], pipelines: {logs: {receivers: [otlp], processors: [batch], exporters: [debug]}}}\n";
        agent.runs(runs).await;
        let same = site.ok("GET", "/collectors/1/config/diff?configuration_id=1&version=1", Value::Null).await;
        assert_eq!(same["changes"], json!([]));
        let wish = json!({ "configuration_id": id, "selector": "host.name=box-7" });
        let page = site.ok("POST", "/collector-configs/preview", wish).await;
        let change = json!({ "path": "processors::batch::timeout", "change": "changed", "before": "1s", "after": "5s" });
        assert_eq!((&page["total"], &page["items"][0]["effect"], &page["items"][0]["changes"]), (&json!(1), &json!("sent"),
            &json!([change])));
        assert_eq!(site.call("GET", "/collectors/1/config/diff", Value::Null).await.0, 409, "nothing is assigned");
        site.assign(id, "*", json!({})).await;
        let diff = site.ok("GET", "/collectors/1/config/diff", Value::Null).await;
        assert_eq!((&diff["version"], &diff["changes"]), (&json!(2), &json!([change])));
    }

    async fn a_collector_that_is_gone_after_it_applied_a_version_does_not_run_it_well(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 7).await;
        Agent::enroll(&site, 8).await;
        let id = site.create("gateway", good(1)).await;
        site.assign(id, "host.name=box-7", json!({})).await;
        agent.takes_it_well(1).await;
        // The second version takes its network away, a moment after it was applied.
        site.push(id, good(2)).await;
        let config = agent.receive().await;
        agent.report(&config, APPLYING, "").await;
        agent.feel(false, "starting").await;
        agent.feel(true, "").await;
        agent.report(&config, APPLIED, "").await;
        site.until_stage(1, "soaking").await;
        site.fixture.collectors.flush().await.unwrap();
        site.fixture.wait(3_600);
        // Both are looked at together: once the second is assigned something, the first was looked at as well.
        let other = site.create("other", good(3)).await;
        site.assign(other, "host.name=box-8", json!({})).await;
        site.until_state(2, "applying").await;
        let state = site.config_of(1).await;
        assert_eq!((&state["stage"], &state["last_good_version"]), (&json!("soaking"), &json!(1)), "{state}");
        // It comes back, and is watched from then on.
        agent.is_heard().await;
        site.fixture.wait(31);
        agent.is_heard().await;
        assert_eq!(site.until_state(1, "in_sync").await["last_good_version"], 2);
    }

    async fn of_the_time_before_it_came_back_nothing_counts(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 7).await;
        let id = site.create("gateway", good(1)).await;
        site.assign(id, "*", json!({})).await;
        let config = agent.receive().await;
        agent.report(&config, APPLIED, "").await;
        site.until_stage(1, "soaking").await;
        site.fixture.collectors.flush().await.unwrap();
        // It is silent for more than three intervals.
        site.fixture.wait(100);
        agent.is_heard().await;
        let heard = site.fixture.clock.now();
        let is_looked_at_anew = || async {
            let body = row(&db, "SELECT look_when_heard FROM collectors_config_states").await;
            body == Some(heard.plus(std::time::Duration::from_secs(30)).as_micros())
        };
        until("its time begins anew", is_looked_at_anew).await;
        assert_eq!(site.config_of(1).await["stage"], "soaking");
        site.fixture.wait(31);
        agent.is_heard().await;
        site.until_state(1, "in_sync").await;
    }

    async fn all_go_back_to_what_failed_nowhere(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agents = Vec::new();
        for uid in 1..=4 {
            agents.push(Agent::enroll(&site, uid).await);
        }
        let id = site.create("gateway", good(1)).await;
        let how = json!({ "auto_rollback": "assignment", "failures_until_rollback": 3 });
        let assignment = site.assign(id, "*", how).await;
        for (collector, agent) in (1..).zip(&mut agents) {
            agent.takes_it_well(collector).await;
        }
        // The second fails on two, which is not enough, and runs well on the third.
        site.push(id, good(2)).await;
        for (collector, agent) in (1..).zip(&mut agents[..2]) {
            let config = agent.receive().await;
            agent.report(&config, FAILED, "broken").await;
            site.until_state(collector, "failed").await;
        }
        agents[2].takes_it_well(3).await;
        site.push(id, good(3)).await;
        for agent in &mut agents[..3] {
            let config = agent.receive().await;
            agent.report(&config, FAILED, "broken as well").await;
        }
        let path = format!("/collector-config-assignments/{assignment}");
        let is_back = || async { site.ok("GET", &path, Value::Null).await["version"] != 3 };
        until("it goes back", is_back).await;
        let assignment = site.ok("GET", &path, Value::Null).await;
        assert_eq!((&assignment["version"], &assignment["rolled_back_reason"]), (&json!(1),
            &json!("version 3 failed on 3 collectors")));
    }

    async fn a_version_that_nobody_ran_well_is_not_gone_back_to(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 7).await;
        let id = site.create("gateway", good(1)).await;
        let assignment = site.assign(id, "*", json!({})).await;
        agent.takes_it_well(1).await;
        site.push(id, good(2)).await;
        site.push(id, good(3)).await;
        let path = format!("/collector-config-assignments/{assignment}");
        assert_eq!(site.ok("GET", &path, Value::Null).await["previous_version"], 1);
        let back = site.ok("POST", &format!("{path}/rollback"), json!({})).await;
        assert_eq!((&back["from_version"], &back["version"]), (&json!(3), &json!(1)));
    }

    async fn of_two_who_want_the_same_step_back_one_takes_it(db: TestDatabase) {
        let site = Site::new(&db).await;
        let id = site.create("gateway", good(1)).await;
        for seconds in 2..=3 {
            site.push(id, good(seconds)).await;
        }
        let first = site.assign(id, "a=b", json!({})).await;
        let second = site.assign(id, "a=c", json!({})).await;
        let path = format!("/collector-config-assignments/{first}");
        let body = json!({ "from_version": 3 });
        let back = site.ok("POST", &format!("{path}/rollback"), body.clone()).await;
        assert_eq!((&back["from_version"], &back["version"]), (&json!(3), &json!(2)));
        let (status, problem) = site.call("POST", &format!("{path}/rollback"), body).await;
        assert_eq!(status, 409);
        assert_eq!(problem["message"], format!("assignment {first} is on version 2 now, and not on 3; nothing was taken back"));
        assert_eq!(site.ok("GET", &path, Value::Null).await["version"], 2);
        // All of a configuration, as they were seen.
        let all = format!("/collector-configs/{id}/rollback");
        let seen = json!({ "from_versions": { first.to_string(): 3, second.to_string(): 3 } });
        assert_eq!(site.call("POST", &all, seen).await.0, 409);
        let path = format!("/collector-config-assignments/{second}");
        assert_eq!(site.ok("GET", &path, Value::Null).await["version"], 3, "none of them moved");
        let seen = json!({ "from_versions": { second.to_string(): 3 } });
        let back = site.ok("POST", &all, seen).await;
        assert_eq!((&back["total"], &back["items"][0]["id"]), (&json!(1), &json!(second)));
        assert_eq!(site.call("POST", &all, json!({ "from_versions": {} })).await.0, 422);
        assert_eq!(site.call("POST", &all, json!({ "from_versions": { "99": 1 } })).await.0, 404);
    }

    async fn other_servers_are_told_of_many_collectors_at_once(db: TestDatabase) {
        const COLLECTORS: u8 = 40;
        let site = Site::new(&db).await;
        let mut agents = Vec::new();
        for uid in 1..=COLLECTORS {
            agents.push(Agent::enroll(&site, uid).await);
        }
        let mut hints = site.fixture.bus.subscribe();
        let there = site.another(&db, 2).await;
        let id = site.create("gateway", good(1)).await;
        site.assign(id, "*", json!({})).await;
        // Whoever asks the other server has what the first one found out.
        for agent in agents {
            let mut agent = Agent { site: &there, ..agent };
            agent.receive().await;
        }
        site.fixture.bus.publish(muster_bus::Hint::new(muster_bus::Topic::new("test.end"), "")).await.unwrap();
        let mut told = 0;
        while let Some(muster_bus::Received::Hint(hint)) = hints.next().await {
            match hint.topic.name() {
                "collectors.config_sends" => told += 1,
                "test.end" => break,
                _ => {}
            }
        }
        assert!((1..=10).contains(&told), "{told} hints about {COLLECTORS} collectors");
    }
}
