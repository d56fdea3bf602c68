//! Which collectors an assignment is for.

use muster_collectors::configurations::Selector;
use muster_store::testing::on_both_databases;
use muster_wire_opamp::proto::KeyValue;
use serde_json::{Value, json};

use super::{Agent, Site, body_of, good, supervisor};
use crate::{described, until};

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
        let (status, second) = site.call("POST", "/collector-config-assignments", body("env in (a,b)", None)).await;
        assert_eq!((status, &second["id"], &second["version"], &second["previous_version"]), (200, &first["id"], &json!(2),
            &json!(1)));
        let (status, problem) = site.call("POST", "/collector-config-assignments", body("*", Some(7))).await;
        assert_eq!((status, &problem["fields"][0]["name"]), (422, &json!("version")), "{problem}");
        for (wrong, field) in [
            (json!({ "priority": 2_000_000 }), "priority"),
            (json!({ "soak_seconds": 90_000 }), "soak_seconds"),
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
}
