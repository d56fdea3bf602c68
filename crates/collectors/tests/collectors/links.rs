//! Which host a collector runs on: what links by itself, what is only suggested, and what people decide.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use http_body_util::BodyExt as _;
use muster_bus::LocalBus;
use muster_clock::ManualClock;
use muster_hosts::Hosts;
use muster_http::Shape;
use muster_identity::{Actor, Family, KnownAgents, NewEnrollmentToken, Principal, Role, TeamId};
use muster_software::Software;
use muster_store::testing::{TestDatabase, on_both_databases};
use muster_store::{Database, Executor as _, Schema, args};
use muster_wire_opamp::proto::{AgentDescription, AgentToServer, KeyValue};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{Fixture, START, admin, message, somebody, until};

const MACHINE: &str = "4c4c4544-0042-3510-8052-b4c04f564231";
const OTHER_MACHINE: &str = "4c4c4544-0043-3010-8052-b7c04f4e3732";

/// A server of collectors and hosts.
struct Site {
    fixture: Fixture,
    hosts: Hosts,
    database: Database,
    token: String,
}

impl Site {
    async fn new(db: &TestDatabase) -> Self {
        let site = Self::quiet(db).await;
        Self {
            fixture: site.fixture.run(),
            ..site
        }
    }

    /// The same where links are looked at only when the test says so.
    async fn quiet(db: &TestDatabase) -> Self {
        let schema = Schema::default()
            .with("identity", muster_identity::MIGRATIONS)
            .with("hosts", muster_hosts::MIGRATIONS)
            .with("software", muster_software::MIGRATIONS)
            .with("collectors", muster_collectors::MIGRATIONS);
        db.migrate(&schema).await;
        let database = db.database();
        let clock = Arc::new(ManualClock::new(START));
        let fixture = Fixture::on(database.clone(), Arc::new(LocalBus::new()), clock, 1);
        let hosts = Hosts::new(
            database.clone(),
            Arc::<LocalBus>::clone(&fixture.bus),
            Arc::<ManualClock>::clone(&fixture.clock),
            fixture.identity.clone(),
            Software::new(database.clone()),
        );
        fixture.collectors.attach_hosts(&hosts);
        hosts.attach_collectors(Arc::new(fixture.collectors.clone()));
        let token = fixture.token(KnownAgents::Adopt).await;
        Self {
            fixture,
            hosts,
            database,
            token,
        }
    }

    /// A host that enrolled; gives its id.
    async fn host(&self, uuid: &str, hostname: &str, team: Option<TeamId>) -> i64 {
        let sql = "INSERT INTO hosts_hosts (identifier, identifier_from, hardware_uuid, uuid, hostname, team_id, created_at,
            updated_at, enrolled_at) VALUES ($1, 'osquery', $2, $2, $3, $4, $5, $5, $5) RETURNING id";
        // What tells clones apart is an identifier of another kind.
        let identifier = format!("{hostname}-{uuid}");
        let values = args![identifier, uuid, hostname, team.map(|team| team.0), START];
        let rows = (&self.database)
            .execute_returning(sql, values)
            .await
            .unwrap();
        rows[0].get("id").unwrap()
    }

    async fn say(&self, uid: u8, sequence: u64, attributes: &[(&str, &str)]) {
        let said = described(uid, sequence, attributes);
        self.fixture.send(&self.token, &said).await;
    }

    async fn call(&self, who: &Principal, method: &str, path: &str, body: Value) -> (u16, Value) {
        let routes = muster_collectors::http::native_routes(self.fixture.collectors.clone())
            .merge(muster_hosts::http::native_host_routes(self.hosts.clone()))
            .merge(muster_hosts::http::native_key_routes(self.hosts.clone()));
        let (routes, _) = routes.split_for_parts();
        let app: Router = routes
            .layer(from_fn_with_state(Shape::Native, muster_http::shape))
            .layer(Extension(who.clone()));
        let body = match body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        let request = Request::builder().method(method).uri(path);
        let response = app.oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (
            status,
            serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        )
    }

    /// Changes something as an administrator.
    async fn change(&self, method: &str, path: &str, body: Value) {
        let (status, problem) = self.call(&admin(), method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {problem}");
    }

    /// What there is between a collector and hosts: `linked 1 by host.id`.
    async fn links(&self, id: i64) -> Vec<String> {
        let detail = self.fixture.look(id).await;
        let shown = detail["hosts"].as_array().unwrap().iter();
        let word = |link: &Value| {
            let text = |member: &str| link[member].as_str().unwrap_or("").to_owned();
            format!(
                "{} {} by {}",
                text("state"),
                link["host_id"],
                text("matched_by")
            )
        };
        shown.map(word).collect()
    }

    /// The collectors on a host, with how they are linked.
    async fn on_host(&self, host: i64) -> Vec<(i64, String)> {
        let (status, detail) = self
            .call(&admin(), "GET", &format!("/hosts/{host}"), Value::Null)
            .await;
        assert_eq!(status, 200, "{detail}");
        let shown = detail["collectors"].as_array().cloned().unwrap_or_default();
        let pair = |one: &Value| {
            let state = one["state"].as_str().unwrap().to_owned();
            (one["id"].as_i64().unwrap(), state)
        };
        shown.iter().map(pair).collect()
    }

    async fn review(&self) {
        self.fixture.collectors.review_links().await.unwrap();
    }

    /// What happened to a collector between it and hosts, oldest first.
    async fn events(&self, id: i64) -> Vec<String> {
        let detail = self.fixture.look(id).await;
        let events = detail["events"].as_array().unwrap().iter().rev();
        let kinds = events.map(|event| event["kind"].as_str().unwrap().to_owned());
        kinds.filter(|kind| kind.starts_with("host_")).collect()
    }

    async fn ids(&self, query: &str) -> Vec<i64> {
        let listed = self.fixture.list(query).await;
        listed
            .iter()
            .map(|one| one["id"].as_i64().unwrap())
            .collect()
    }

    async fn audited(&self, action: &str) -> Value {
        let sql = "SELECT subject_id, after_json FROM identity_audit WHERE action = $1 ORDER BY id DESC LIMIT 1";
        let row = (&self.database)
            .fetch_one(sql, args![action])
            .await
            .unwrap();
        let after: String = row.get("after_json").unwrap();
        json!({ "subject": row.get::<String>("subject_id").unwrap(), "after": serde_json::from_str::<Value>(&after).unwrap() })
    }
}

fn described(uid: u8, sequence: u64, attributes: &[(&str, &str)]) -> AgentToServer {
    let pairs = attributes.iter();
    AgentToServer {
        agent_description: Some(AgentDescription {
            identifying_attributes: vec![KeyValue::text("service.name", "otelcol")],
            non_identifying_attributes: pairs
                .map(|(name, value)| KeyValue::text(*name, *value))
                .collect(),
        }),
        ..message(uid, sequence, 0)
    }
}

on_both_databases! {
    async fn a_collector_is_linked_by_itself_to_the_one_host_of_its_machine(db: TestDatabase) {
        let site = Site::new(&db).await;
        let host = site.host(MACHINE, "web-1", None).await;
        site.host(OTHER_MACHINE, "web-2", None).await;
        // Another case, and no hyphens; the name of another host is no reason against it.
        let digits = MACHINE.replace('-', "").to_uppercase();
        site.say(1, 0, &[("host.id", &digits), ("host.name", "web-2")]).await;
        until("it is linked", || async { site.links(1).await == ["linked 1 by host.id"] }).await;
        assert_eq!(site.on_host(host).await, [(1, "linked".to_owned())]);
        let shown = &site.fixture.look(1).await["hosts"][0];
        assert_eq!((&shown["host"], &shown["matched_value"]), (&json!("web-1"), &json!(digits)));
        assert_eq!(shown.get("decided_by"), None, "nobody decided it");
        assert_eq!(site.fixture.list("").await[0]["host_id"], host);
        assert_eq!(site.events(1).await, ["host_linked"]);
        assert_eq!(site.ids("?host_id=1").await, [1]);
        assert_eq!(site.ids("?host_id=2").await, Vec::<i64>::new());

        // It was moved to another machine: what it says now counts.
        site.say(1, 1, &[("machine.id", OTHER_MACHINE)]).await;
        until("it is linked anew", || async { site.links(1).await == ["linked 2 by machine.id"] }).await;
        assert_eq!(site.on_host(host).await, []);
        assert_eq!(site.events(1).await, ["host_linked", "host_unlinked", "host_linked"]);
    }

    async fn a_host_that_enrolls_later_is_found_and_what_many_machines_have_links_nobody(db: TestDatabase) {
        let site = Site::quiet(&db).await;
        site.say(1, 0, &[("host.id", MACHINE)]).await;
        for (uid, shared) in [(2, "03000200-0400-0500-0006-000700080009"),
            (3, "00000000000000000000000000000000"), (4, "i-0abc")] {
            site.say(uid, 0, &[("host.id", shared), ("host.name", "localhost")]).await;
            // Hosts keep such an identifier as none; one that a release before kept differently links nobody either.
            site.host(shared, "localhost", None).await;
        }
        site.review().await;
        for id in 1..=4 {
            assert_eq!(site.links(id).await, Vec::<String>::new(), "{id}");
        }
        let host = site.host(MACHINE, "web-1", None).await;
        site.review().await;
        assert_eq!(site.links(1).await, [format!("linked {host} by host.id")]);
        // Looking again changes nothing and writes nothing.
        let before = site.database.statements();
        site.review().await;
        let looked = site.database.statements() - before;
        assert!(looked <= 10, "{looked} statements for four collectors of which none changed");
        assert_eq!(site.events(1).await, ["host_linked"]);
    }

    async fn a_heartbeat_costs_no_statement_for_links(db: TestDatabase) {
        let site = Site::quiet(&db).await;
        site.host(MACHINE, "web-1", None).await;
        site.say(1, 0, &[("host.id", MACHINE)]).await;
        site.review().await;
        site.fixture.send(&site.token, &message(1, 1, 0)).await;
        let before = site.database.statements();
        for sequence in 2..12 {
            site.fixture.send(&site.token, &message(1, sequence, 0)).await;
        }
        assert_eq!(site.database.statements(), before);
    }

    async fn machines_that_look_alike_and_names_are_only_suggested(db: TestDatabase) {
        let site = Site::quiet(&db).await;
        for name in ["clone-1", "clone-2"] {
            site.host(MACHINE, name, None).await;
        }
        let named = site.host(OTHER_MACHINE, "Edge-1", None).await;
        site.say(1, 0, &[("host.id", MACHINE)]).await;
        site.say(2, 0, &[("host.name", "edge-1.example.com")]).await;
        site.review().await;
        assert_eq!(site.links(1).await, ["suggested 1 by host.id", "suggested 2 by host.id"]);
        assert_eq!(site.links(2).await, ["suggested 3 by host.name"]);
        assert_eq!(site.on_host(named).await, [(2, "suggested".to_owned())]);
        assert_eq!(site.ids("?host_id=3").await, Vec::<i64>::new(), "a suggestion is no link");
        assert_eq!(site.ids("?host_link=suggested").await, [1, 2]);
        assert_eq!(site.ids("?host_link=linked").await, Vec::<i64>::new());
        let (status, _) = site.call(&admin(), "GET", "/collectors?host_link=perhaps", Value::Null).await;
        assert_eq!(status, 422);

        site.change("POST", "/collectors/2/host/confirm", json!({ "host_id": 3 })).await;
        site.change("POST", "/collectors/2/host/confirm", json!({ "host_id": 3 })).await;
        assert_eq!(site.links(2).await, ["linked 3 by host.name"]);
        assert_eq!(site.fixture.look(2).await["hosts"][0]["decided_by"], "Ann");
        assert_eq!(site.audited("confirmed_collector_host").await,
            json!({ "subject": "2", "after": { "host_id": 3, "by": "host.name" } }));
        // It was confirmed: another name changes nothing of it.
        site.say(2, 1, &[("host.name", "renamed")]).await;
        site.review().await;
        assert_eq!(site.links(2).await, ["linked 3 by host.name"]);

        // Of two clones one is taken; the suggestion of the other goes.
        site.change("POST", "/collectors/1/host/confirm", json!({ "host_id": 2 })).await;
        site.review().await;
        assert_eq!(site.links(1).await, ["linked 2 by host.id"]);
        let (status, problem) = site.call(&admin(), "POST", "/collectors/1/host/confirm", json!({ "host_id": 1 })).await;
        assert_eq!((status, &problem["code"]), (409, &json!("conflict")));
        // Too many of one name tell nothing.
        for number in 0..6 {
            site.host(&format!("4c4c4544-0043-3010-8052-b7c04f4e000{number}"), "node", None).await;
        }
        site.say(3, 0, &[("host.name", "node")]).await;
        site.review().await;
        assert_eq!(site.links(3).await, Vec::<String>::new());
    }

    async fn what_was_undone_or_rejected_does_not_come_back_by_itself(db: TestDatabase) {
        let site = Site::quiet(&db).await;
        site.host(MACHINE, "web-1", None).await;
        site.host(OTHER_MACHINE, "web-2", None).await;
        site.say(1, 0, &[("host.id", MACHINE), ("host.name", "web-2")]).await;
        site.review().await;
        site.change("DELETE", "/collectors/1/host", Value::Null).await;
        site.change("DELETE", "/collectors/1/host", Value::Null).await;
        assert_eq!(site.links(1).await, ["rejected 1 by host.id"]);
        assert_eq!(site.audited("unlinked_collector_host").await["after"]["host_id"], 1);
        site.review().await;
        assert_eq!(site.links(1).await, ["suggested 2 by host.name", "rejected 1 by host.id"], "the name is left");
        site.change("POST", "/collectors/1/host/reject", json!({ "host_id": 2 })).await;
        site.change("POST", "/collectors/1/host/reject", json!({ "host_id": 2 })).await;
        site.say(1, 1, &[("host.id", MACHINE), ("host.name", "web-2"), ("new", "attribute")]).await;
        site.review().await;
        assert_eq!(site.links(1).await, ["rejected 1 by host.id", "rejected 2 by host.name"]);
        assert_eq!(site.on_host(1).await, []);
        assert_eq!(site.ids("?host_link=none").await, [1]);

        // Somebody may think better of it.
        site.change("PUT", "/collectors/1/host", json!({ "host_id": 1 })).await;
        assert_eq!(site.links(1).await, ["linked 1 by hand", "rejected 2 by host.name"]);
        assert_eq!(site.audited("linked_collector_host").await["after"], json!({ "host_id": 1, "by": "hand" }));
        // By hand it goes from one host to another, whatever the collector says.
        site.change("PUT", "/collectors/1/host", json!({ "host_id": 2 })).await;
        site.review().await;
        assert_eq!(site.links(1).await, ["linked 2 by hand"]);
        assert_eq!(site.events(1).await, ["host_linked", "host_unlinked", "host_link_suggested", "host_link_rejected",
            "host_linked", "host_unlinked", "host_linked"]);
        let (status, problem) = site.call(&admin(), "POST", "/collectors/1/host/reject", json!({ "host_id": 1 })).await;
        assert_eq!((status, &problem["code"]), (409, &json!("conflict")), "{problem}");
    }

    async fn a_link_goes_with_its_host_and_follows_one_that_is_merged(db: TestDatabase) {
        let site = Site::quiet(&db).await;
        for (uuid, name) in [(MACHINE, "web-1"), (OTHER_MACHINE, "web-2")] {
            site.host(uuid, name, None).await;
        }
        site.say(1, 0, &[("host.id", MACHINE)]).await;
        site.say(2, 0, &[("host.name", "web-1")]).await;
        site.review().await;
        assert_eq!(site.on_host(1).await, [(1, "linked".to_owned()), (2, "suggested".to_owned())]);
        site.change("POST", "/hosts/1/merge", json!({ "into": 2 })).await;
        assert_eq!(site.links(1).await, ["linked 2 by host.id"]);
        assert_eq!(site.links(2).await, Vec::<String>::new(), "a suggestion is looked for anew");
        // The identifier was the other host's; whoever merged the two decided.
        site.review().await;
        assert_eq!(site.links(1).await, ["linked 2 by host.id"]);
        site.change("DELETE", "/hosts/2", Value::Null).await;
        assert_eq!(site.links(1).await, Vec::<String>::new());
        assert_eq!(site.fixture.list("").await[0].get("host_id"), None);
        assert_eq!(site.events(1).await, ["host_linked", "host_linked", "host_unlinked"]);

        // A server of an earlier release deletes hosts without a word.
        let host = site.host(MACHINE, "web-1", None).await;
        site.review().await;
        assert_eq!(site.links(1).await, [format!("linked {host} by host.id")]);
        (&site.database).execute("DELETE FROM hosts_hosts WHERE id = $1", args![host]).await.unwrap();
        assert_eq!(site.links(1).await, Vec::<String>::new(), "what points at nobody is not shown");
        site.review().await;
        let left = (&site.database).fetch_one("SELECT COUNT(*) AS total FROM collectors_host_links", args![]).await.unwrap();
        assert_eq!(left.get::<i64>("total").unwrap(), 0, "and goes");
        // With the collector its links go.
        site.host(MACHINE, "web-1", None).await;
        site.review().await;
        site.change("DELETE", "/collectors/1", Value::Null).await;
        let sql = "SELECT COUNT(*) AS total FROM collectors_host_links WHERE collector_id = 1";
        let left = (&site.database).fetch_one(sql, args![]).await.unwrap();
        assert_eq!(left.get::<i64>("total").unwrap(), 0);
    }

    async fn links_stay_within_a_team_and_need_its_maintainers(db: TestDatabase) {
        let site = Site::quiet(&db).await;
        let teams = &site.fixture.identity.teams;
        let edge = teams.create(&Actor::system(), "edge", "").await.unwrap().id;
        let core = teams.create(&Actor::system(), "core", "").await.unwrap().id;
        let theirs = site.host(MACHINE, "web-1", Some(core)).await;
        let ours = site.host(OTHER_MACHINE, "web-2", Some(edge)).await;
        let new = NewEnrollmentToken {
            name: "edge".to_owned(),
            team_id: Some(edge),
            families: vec![Family::Opamp],
            ..NewEnrollmentToken::default()
        };
        let token = site.fixture.identity.enrollment_tokens.create(&Actor::system(), new).await.unwrap().1;
        site.fixture.send(&token, &described(1, 0, &[("host.id", MACHINE), ("host.name", "web-1")])).await;
        site.review().await;
        assert_eq!(site.links(1).await, Vec::<String>::new(), "the machine is another team's");
        let (status, problem) = site.call(&admin(), "PUT", "/collectors/1/host", json!({ "host_id": theirs })).await;
        assert_eq!(status, 422, "{problem}");
        let observer = somebody(None, vec![(edge, Role::Observer)]);
        let maintainer = somebody(None, vec![(edge, Role::Maintainer)]);
        let stranger = somebody(None, vec![(core, Role::Maintainer)]);
        for (who, host, expected) in [(&observer, ours, 403), (&stranger, ours, 404), (&maintainer, theirs, 404),
            (&maintainer, ours, 204),
            (&maintainer, 99, 404)] {
            let (status, problem) = site.call(who, "PUT", "/collectors/1/host", json!({ "host_id": host })).await;
            assert_eq!(status, expected, "{problem}");
        }
        let (status, _) = site.call(&observer, "DELETE", "/collectors/1/host", Value::Null).await;
        assert_eq!(status, 403);
        assert_eq!(site.on_host(ours).await, [(1, "linked".to_owned())]);

        // The host goes to another team, and its collector stays behind.
        site.change("POST", "/hosts/transfer", json!({ "host_ids": [ours], "team_id": core.0 })).await;
        assert_eq!(site.links(1).await, Vec::<String>::new());
        assert_eq!(site.on_host(ours).await, []);
        // The collector goes to the team of its machine, and back.
        site.change("POST", "/collectors/1/transfer", json!({ "team_id": core.0 })).await;
        site.review().await;
        assert_eq!(site.links(1).await, [format!("linked {theirs} by host.id")]);
        site.change("POST", "/collectors/1/transfer", json!({ "team_id": edge.0 })).await;
        assert_eq!(site.links(1).await, Vec::<String>::new());
        assert_eq!(site.events(1).await, ["host_linked", "host_unlinked", "host_linked", "host_unlinked"]);
    }
}
