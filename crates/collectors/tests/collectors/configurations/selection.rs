//! Which collectors an assignment is for.

use muster_collectors::configurations::Selector;
use muster_store::testing::on_both_databases;
use muster_wire_opamp::proto::KeyValue;
use serde_json::{Value, json};

use super::{Agent, Site, body_of, good, supervisor};
use crate::{change, described, until};

/// Enrolls collectors with these environments; the first has id 1.
async fn enroll(site: &Site, environments: &[&str]) {
    for (uid, environment) in (1..).zip(environments) {
        let mut agent = Agent::enroll(site, uid).await;
        let mut said = described(uid, 0, supervisor());
        let attributes = &mut said
            .agent_description
            .as_mut()
            .unwrap()
            .non_identifying_attributes;
        if !environment.is_empty() {
            attributes.push(KeyValue::text("env", *environment));
        }
        agent.say(said).await;
    }
}

on_both_databases! {
    async fn the_database_and_memory_agree_on_whom_a_selector_means(db: TestDatabase) {
        let site = Site::new(&db).await;
        enroll(&site, &["prod", "staging", "", "eu west"]).await;
        let id = site.create("gateway", good(1)).await;
        let all = [
            ("*", vec![1, 2, 3, 4]),
            ("env", vec![1, 2, 4]),
            ("!env", vec![3]),
            ("env=prod", vec![1]),
            ("env!=prod", vec![2, 3, 4]),
            ("env in (prod, \"eu west\")", vec![1, 4]),
            ("env notin (prod, staging)", vec![3, 4]),
            ("service.name=otelcol, host.name!=box-1, env", vec![2, 4]),
            ("service.name=nothing", vec![]),
            ("\"o'clock\"=\"a'b\"", vec![]),
        ];
        for (text, expected) in all {
            let wish = json!({ "configuration_id": id, "selector": text });
            let page = site.ok("POST", "/collector-configs/preview", wish).await;
            let ids: Vec<i64> = page["items"].as_array().unwrap().iter().map(|item| item["collector_id"].as_i64().unwrap())
                .collect();
            assert_eq!(ids, expected, "{text} in the database");
            let selector: Selector = Selector::parse(text).unwrap();
            let assignment = site.assign(id, text, json!({})).await;
            let is_so = || async {
                let path = format!("/collector-config-states?assignment_id={assignment}");
                let page = site.ok("GET", &path, Value::Null).await;
                let followers: Vec<i64> = page["items"].as_array().unwrap().iter().map(|item| item["collector_id"].as_i64()
                    .unwrap()).collect();
                followers == expected
            };
            until(&format!("{selector} in memory"), is_so).await;
            site.ok("DELETE", &format!("/collector-config-assignments/{assignment}"), Value::Null).await;
        }
        let (status, problem) = site.call("POST", "/collector-config-assignments", json!({ "configuration_id": id,
            "selector": "a=b c" })).await;
        assert_eq!((status, &problem["fields"][0]["name"]), (422, &json!("selector")));
    }

    async fn of_several_assignments_the_one_that_counts_most_is_followed_and_a_preview_tells(db: TestDatabase) {
        let site = Site::new(&db).await;
        enroll(&site, &["prod", "staging"]).await;
        let [low, high] = [site.create("low", good(1)).await, site.create("high", good(2)).await];
        let first = site.assign(high, "env=prod", json!({ "priority": 10 })).await;
        site.assign(low, "*", json!({})).await;
        let version_of = async |collector: i64| site.until_state(collector, "applying").await["configuration_name"].clone();
        assert_eq!(version_of(1).await, "high");
        assert_eq!(version_of(2).await, "low");
        let claims = site.config_of(1).await["assignments"].as_array().unwrap().len();
        assert_eq!(claims, 2);

        let third = site.create("third", good(3)).await;
        let effects = async |priority: i64| -> Vec<Value> {
            let wish = json!({ "configuration_id": third, "selector": "*", "priority": priority });
            let page = site.ok("POST", "/collector-configs/preview", wish).await;
            page["items"].as_array().unwrap().iter().map(|item| item["effect"].clone()).collect()
        };
        assert_eq!(effects(0).await, ["overridden", "sent"], "of the same priority the one made last counts");
        assert_eq!(effects(-1).await, ["overridden", "overridden"]);
        assert_eq!(effects(10).await, ["sent", "sent"]);
        let wish = json!({ "configuration_id": high, "selector": "env=prod", "priority": 10 });
        let page = site.ok("POST", "/collector-configs/preview", wish).await;
        assert_eq!(page["items"][0]["effect"], "same");

        site.ok("PATCH", &format!("/collector-config-assignments/{first}"), json!({ "priority": -5 })).await;
        let is_low = || async { site.config_of(1).await["configuration_name"] == "low" };
        until("the other one counts more now", is_low).await;
        let listed = site.ok("GET", "/collector-config-assignments", Value::Null).await;
        let priorities: Vec<_> = listed["items"].as_array().unwrap().iter().map(|item| item["priority"].clone()).collect();
        assert_eq!(priorities, [0, -5]);
    }

    async fn assigning_by_the_same_selector_again_changes_the_assignment(db: TestDatabase) {
        let site = Site::new(&db).await;
        let id = site.create("gateway", good(1)).await;
        let body = |selector: &str, version: Option<i64>| json!({ "configuration_id": id, "selector": selector,
            "version": version });
        let (status, first) = site.call("POST", "/collector-config-assignments", body("env in (b, a)", Some(1))).await;
        assert_eq!(status, 201, "{first}");
        site.ok("POST", &format!("/collector-configs/{id}/versions"), json!({ "files": good(2) })).await;
        // What is left out stays, the version too.
        let mut again = body("env in (a,b)", None);
        again["priority"] = json!(7);
        let (status, second) = site.call("POST", "/collector-config-assignments", again).await;
        assert_eq!((status, &second["id"], &second["version"], &second["priority"]), (200, &first["id"], &json!(1), &json!(7)));
        let (status, third) = site.call("POST", "/collector-config-assignments", body("env in (a,b)", Some(2))).await;
        assert_eq!((status, &third["id"], &third["version"], &third["priority"]), (200, &first["id"], &json!(2), &json!(7)));
        // Order and repetition make no other selector.
        for same in ["x=1, env=a", "env=a,x=1", "env in (a), x=1, env=a"] {
            site.ok("POST", "/collector-config-assignments", body(same, None)).await;
        }
        let listed = site.ok("GET", "/collector-config-assignments?search=X%3D1", Value::Null).await;
        assert_eq!((&listed["total"], &listed["items"][0]["selector"]), (&json!(1), &json!("env=a, x=1")));
        let (status, problem) = site.call("POST", "/collector-config-assignments", body("*", Some(7))).await;
        assert_eq!((status, &problem["fields"][0]["name"]), (422, &json!("version")), "{problem}");
        for (wrong, field) in [
            (json!({ "priority": 2_000_000 }), "priority"),
            (json!({ "soak_seconds": 90_000 }), "soak_seconds"),
            (json!({ "soak_seconds": 0 }), "soak_seconds"),
            (json!({ "soak_seconds": 4 }), "soak_seconds"),
            (json!({ "failures_until_rollback": 0 }), "failures_until_rollback"),
            (json!({ "follows_newest": true, "version": 1 }), "follows_newest"),
        ] {
            let path = format!("/collector-config-assignments/{}", first["id"]);
            let (status, problem) = site.call("PATCH", &path, wrong).await;
            assert_eq!((status, &problem["fields"][0]["name"]), (422, &json!(field)), "{problem}");
        }
    }

    async fn an_assignment_of_a_team_is_for_its_collectors_alone(db: TestDatabase) {
        let site = Site::new(&db).await;
        let team = site.fixture.identity.teams.create(&(&crate::admin()).into(), "Edge", "").await.unwrap().id;
        let mut mine = Agent::enroll(&site, 1).await;
        let mut other = Agent::enroll(&site, 2).await;
        let (status, _) = site.fixture.call(&crate::admin(), "POST", "/collectors/1/transfer", json!({ "team_id": team })).await;
        assert_eq!(status, 204);
        let body = json!({ "name": "edge", "files": good(4), "team_id": team });
        let id = site.ok("POST", "/collector-configs", body).await["config"]["id"].as_i64().unwrap();
        site.assign(id, "*", json!({})).await;
        assert!(body_of(&mine.receive().await).contains("timeout: 4s"));
        assert_eq!(other.poll().await.remote_config, None);
        assert_eq!(site.config_of(2).await["state"], "unmanaged");
    }

    async fn a_selector_that_would_be_too_long_to_be_read_again_is_refused(db: TestDatabase) {
        let site = Site::new(&db).await;
        let mut agent = Agent::enroll(&site, 1).await;
        let id = site.create("gateway", good(1)).await;
        // 1,986 bytes; a space behind each comma makes more than 2,000 of them.
        let values: Vec<String> = (0..99).map(|n| format!("value-of-19-bytes{n:02}")).collect();
        let body = json!({ "configuration_id": id, "selector": format!("env in ({})", values.join(",")) });
        let (status, problem) = site.call("POST", "/collector-config-assignments", body).await;
        assert_eq!((status, &problem["fields"][0]["name"]), (422, &json!("selector")), "{problem}");
        site.assign(id, "*", json!({})).await;
        agent.receive().await;
        // One that was kept all the same is read, and one that nobody understands keeps nobody else from being served.
        let kept = format!("env in ({})", values.join(", "));
        for (selector, other) in [(kept.as_str(), "a=1"), ("env in (", "a=2")] {
            let assignment = site.assign(id, other, json!({})).await;
            change(&db, &format!(
                "UPDATE collectors_config_assignments SET selector = '{selector}', revision = 9 WHERE id = {assignment}"
            )).await;
        }
        site.push(site.create("other", good(2)).await, good(3)).await;
        site.assign(id, "*", json!({ "version": 1, "priority": 3 })).await;
        let mut newcomer = Agent::enroll(&site, 2).await;
        newcomer.receive().await;
        let listed = site.ok("GET", "/collector-config-assignments", Value::Null).await;
        let selectors: Vec<_> = listed["items"].as_array().unwrap().iter().map(|item| item["selector"].clone()).collect();
        assert_eq!(selectors, [json!("*"), json!(kept)]);
    }

    async fn assignments_and_states_are_paged_sorted_and_searched(db: TestDatabase) {
        let site = Site::new(&db).await;
        enroll(&site, &["prod", "staging", ""]).await;
        let id = site.create("gateway", good(1)).await;
        for (selector, priority) in [("env=prod", 1), ("env=staging", 5), ("host.name=box-3", 3)] {
            site.assign(id, selector, json!({ "priority": priority, "paused": priority == 3 })).await;
        }
        let of = async |path: &str, member: &str| -> Vec<Value> {
            let page = site.ok("GET", path, Value::Null).await;
            page["items"].as_array().unwrap().iter().map(|item| item[member].clone()).collect()
        };
        let assignments = "/collector-config-assignments";
        assert_eq!(of(assignments, "priority").await, [5, 3, 1]);
        assert_eq!(of(&format!("{assignments}?sort=-rank"), "priority").await, [1, 3, 5]);
        assert_eq!(of(&format!("{assignments}?sort=id"), "id").await, [1, 2, 3]);
        assert_eq!(of(&format!("{assignments}?search=ENV"), "priority").await, [5, 1]);
        let page = site.ok("GET", &format!("{assignments}?limit=2"), Value::Null).await;
        let next = page["next_cursor"].as_str().unwrap();
        assert_eq!((&page["total"], of(&format!("{assignments}?limit=2&cursor={next}"), "priority").await), (&json!(3),
            vec![json!(1)]));
        assert_eq!(site.call("GET", &format!("{assignments}?sort=colour"), Value::Null).await.0, 422);

        for collector in 1..=3 {
            site.until_state(collector, "applying").await;
        }
        let states = "/collector-config-states";
        assert_eq!(of(&format!("{states}?search=BOX-2"), "collector_id").await, [2]);
        assert_eq!(of(&format!("{states}?search=nothing"), "collector_id").await, [0; 0]);
        assert_eq!(of(&format!("{states}?sort=-host_name"), "collector_id").await, [3, 2, 1]);
        assert_eq!(of(&format!("/collector-configs/{id}/status?sort=-id&limit=1"), "collector_id").await, [3]);
        assert_eq!(site.call("GET", &format!("{states}?sort=colour"), Value::Null).await.0, 422);
        let wish = json!({ "configuration_id": id, "selector": "env" });
        let page = site.ok("POST", "/collector-configs/preview?sort=-id&search=box", wish).await;
        let ids: Vec<_> = page["items"].as_array().unwrap().iter().map(|item| item["collector_id"].clone()).collect();
        assert_eq!(ids, [2, 1]);

        let versions = format!("/collector-configs/{id}/versions");
        site.ok("POST", &versions, json!({ "files": good(2), "note": "slower" })).await;
        assert_eq!(of(&versions, "version").await, [2, 1]);
        assert_eq!(of(&format!("{versions}?sort=version"), "version").await, [1, 2]);
        assert_eq!(of(&format!("{versions}?search=SLOW"), "version").await, [2]);
    }

    async fn a_preview_tells_what_assigning_would_do_with_what_is_left_out(db: TestDatabase) {
        let site = Site::new(&db).await;
        enroll(&site, &["prod"]).await;
        let id = site.create("gateway", good(1)).await;
        site.assign(id, "env=prod", json!({ "priority": 5 })).await;
        site.until_state(1, "applying").await;
        site.ok("POST", &format!("/collector-configs/{id}/versions"), json!({ "files": good(2) })).await;
        let other = site.create("other", good(3)).await;
        site.assign(other, "*", json!({ "priority": 3 })).await;
        // By the same selector it keeps its priority and its version.
        let wish = json!({ "configuration_id": id, "selector": "env=prod" });
        let page = site.ok("POST", "/collector-configs/preview", wish).await;
        assert_eq!(page["items"][0]["effect"], "same", "{page}");
        let wish = json!({ "configuration_id": id, "selector": "env=prod", "version": 2 });
        let page = site.ok("POST", "/collector-configs/preview", wish).await;
        assert_eq!(page["items"][0]["effect"], "sent", "{page}");
        let wish = json!({ "configuration_id": id, "selector": "env=prod", "version": 2, "priority": 1 });
        let page = site.ok("POST", "/collector-configs/preview", wish).await;
        assert_eq!(page["items"][0]["effect"], "overridden", "{page}");
    }
}
