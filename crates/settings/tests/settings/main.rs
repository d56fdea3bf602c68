//! Settings against both databases, through their service and their routes.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use axum::{Extension, Router};
use http_body_util::BodyExt as _;
use muster_bus::LocalBus;
use muster_clock::{ManualClock, SeededRandomness, Timestamp};
use muster_collectors::CollectorExpirySource as _;
use muster_hosts::{ExpiryRules, ExpirySource as _, OptionsSource as _};
use muster_http::{ClientAddress, Listing, OrderDirection, Shape};
use muster_identity::{
    Actor, AuditExpirySource as _, AuditFilter, Credential, Identity, MasterKey, Principal, Role,
    TeamId, UserId,
};
use muster_settings::http::{ServerFacts, fleet_routes, native_routes};
use muster_settings::{Documents, SettingsService, Strictness, default_agent_options};
use muster_store::testing::{TestDatabase, on_both_databases};
use muster_store::{Database, Schema};
use muster_wire_fleet::VersionAnswer;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const START: Timestamp = Timestamp::from_seconds(1_795_392_000);
const SERVER_URL: &str = "https://muster.example:8080";

struct Fixture {
    settings: SettingsService,
    identity: Identity,
    bus: Arc<LocalBus>,
    clock: Arc<ManualClock>,
    db: TestDatabase,
}

struct Facts;

impl ServerFacts for Facts {
    fn version(&self) -> VersionAnswer {
        VersionAnswer {
            version: "4.62.0".to_owned(),
            ..VersionAnswer::default()
        }
    }

    fn certificate_pem(&self) -> String {
        "-----BEGIN CERTIFICATE-----\n".to_owned()
    }
}

fn principal(global_role: Option<Role>, teams: &[(TeamId, Role)]) -> Principal {
    Principal {
        user_id: UserId(1),
        name: "Ann".into(),
        email: "ann@example.com".into(),
        global_role,
        teams: teams.to_vec(),
        must_reset_password: false,
        credential: Credential::Session(1),
        address: ClientAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    }
}

impl Fixture {
    async fn new(db: TestDatabase) -> Self {
        let schema = Schema::default()
            .with("identity", muster_identity::MIGRATIONS)
            .with("settings", muster_settings::MIGRATIONS);
        db.migrate(&schema).await;
        let bus = Arc::new(LocalBus::new());
        let clock = Arc::new(ManualClock::new(START));
        let (settings, identity) = replica(db.database(), &bus, &clock);
        Self {
            settings,
            identity,
            bus,
            clock,
            db,
        }
    }

    async fn call(
        &self,
        principal: Principal,
        method: Method,
        path: &str,
        body: Value,
    ) -> (u16, Value) {
        let (native, _) = native_routes(self.settings.clone()).split_for_parts();
        let fleet = fleet_routes(self.settings.clone(), Arc::new(Facts)).layer(
            axum::middleware::from_fn_with_state(Shape::Fleet, muster_http::shape),
        );
        let app = Router::new()
            .nest("/native", native)
            .nest("/fleet", fleet)
            .layer(Extension(principal));
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let request = Request::builder().method(method).uri(path).body(body);
        let response = app.oneshot(request.unwrap()).await.unwrap();
        let status = response.status().as_u16();
        assert!(!response.headers().contains_key("x-fleet-license"));
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (
            status,
            serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        )
    }

    async fn as_admin(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.call(principal(Some(Role::Admin), &[]), method, path, body)
            .await
    }

    async fn changes(&self) -> Vec<String> {
        let listing = Listing {
            limit: 100,
            offset: 0,
            sort: "id",
            direction: OrderDirection::Ascending,
            search: None,
        };
        let filter = AuditFilter::default();
        let page = self.identity.audit.list(&listing, &filter).await.unwrap();
        page.items.into_iter().map(|entry| entry.action).collect()
    }
}

fn replica(
    database: Database,
    bus: &Arc<LocalBus>,
    clock: &Arc<ManualClock>,
) -> (SettingsService, Identity) {
    let identity = Identity::new(
        database.clone(),
        Arc::<LocalBus>::clone(bus),
        Arc::<ManualClock>::clone(clock),
        Arc::new(SeededRandomness::new(1)),
        Arc::new(MasterKey::from_bytes(&[7; 32])),
    );
    let settings = SettingsService::new(
        database,
        Arc::<LocalBus>::clone(bus),
        Arc::<ManualClock>::clone(clock),
        &identity,
        SERVER_URL,
    );
    (settings, identity)
}

/// Every member of a recorded answer exists with the same kind of value; `null` goes with anything.
fn assert_shape(recorded: &Value, ours: &Value, place: &str) {
    match (recorded, ours) {
        (Value::Null, _) | (_, Value::Null) => {}
        (Value::Object(recorded), Value::Object(ours)) => {
            for (name, value) in recorded {
                let place = format!("{place}.{name}");
                let own = ours.get(name);
                assert_shape(
                    value,
                    own.unwrap_or_else(|| panic!("{place} is missing")),
                    &place,
                );
            }
        }
        (recorded, ours) => assert_eq!(
            std::mem::discriminant(recorded),
            std::mem::discriminant(ours),
            "{place}: {recorded} and {ours}"
        ),
    }
}

on_both_databases! {
    async fn the_configuration_has_the_recorded_shape_and_a_change_answers_two_members_null(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let recorded: Value = serde_json::from_str(include_str!("../data/config.json")).unwrap();
        let (status, config) = fixture.as_admin(Method::GET, "/fleet/config", Value::Null).await;
        assert_eq!(status, 200);
        assert_shape(&recorded[0]["resp"], &config, "config");
        assert_eq!(config["server_settings"]["server_url"], SERVER_URL);
        assert_eq!(config["agent_options"], default_agent_options());
        let body = json!({"org_info": {"org_name": "Org 2025"}, "yara_rules": []});
        let (status, config) = fixture.as_admin(Method::PATCH, "/fleet/config", body).await;
        assert_eq!(status, 200);
        assert_shape(&recorded[1]["resp"], &config, "config");
        assert_eq!(config["org_info"]["org_name"], "Org 2025");
        assert!(config["update_interval"].is_null() && config["vulnerabilities"].is_null());
        assert_eq!(fixture.changes().await, ["edited_settings"]);
    }

    async fn what_a_client_read_can_be_applied_and_changes_nothing(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (_, config) = fixture.as_admin(Method::GET, "/fleet/config", Value::Null).await;
        let (status, answer) = fixture.as_admin(Method::PATCH, "/fleet/config", config).await;
        assert_eq!(status, 200, "{answer}");
        assert!(fixture.changes().await.is_empty());
        assert_eq!(fixture.settings.current().version, 0);
    }

    async fn wrong_settings_are_refused_as_recorded_and_a_dry_run_keeps_nothing(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let options = json!({"agent_options": {"command_line_flags": {"host_identifier": "uuid"}}});
        for (body, wanted, reason) in [
            (json!({"org_inf": {}}), 400, "unsupported key provided: \"org_inf\"; did you mean \"org_info\"?"),
            (json!({"org_info": {"org_nam": "typo"}}), 400, "unsupported key provided: \"org_nam\""),
            (json!({"org_info": {"org_name": ""}}), 422, "organization name must be present"),
            (json!({"server_settings": {"server_url": ""}}), 422, "must be present"),
            (json!({"server_settings": {"live_query_disabled": "x"}}), 400, "invalid value type"),
            (json!({"agent_options": {"nope": 1}}), 400, "unsupported key provided: \"nope\""),
            (options, 400, "The --host_identifier flag isn't supported. Please remove this flag."),
        ] {
            let (status, answer) = fixture.as_admin(Method::PATCH, "/fleet/config?dry_run=true", body.clone()).await;
            assert_eq!(status, wanted, "{body}: {answer}");
            assert!(answer["errors"][0]["reason"].as_str().unwrap().contains(reason), "{body}: {answer}");
        }
        let body = json!({"org_info": {"org_name": "X"}});
        let (status, answer) = fixture.as_admin(Method::PATCH, "/fleet/config?dry_run=true", body).await;
        assert_eq!((status, &answer["org_info"]["org_name"]), (200, &json!("Muster")));
        let forced = json!({"agent_options": {"nope": 1}});
        let (status, _) = fixture.as_admin(Method::PATCH, "/fleet/config?force=true&dry_run=true", forced).await;
        assert_eq!(status, 200);
        assert!(fixture.changes().await.is_empty());
    }

    async fn two_changes_at_once_do_not_lose_one_another(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (other, _) = replica(fixture.db.reopen().await, &fixture.bus, &fixture.clock);
        let actor = Actor::system();
        let mut tasks = Vec::new();
        for number in 0..8_u32 {
            let settings = if number % 2 == 0 { fixture.settings.clone() } else { other.clone() };
            let actor = actor.clone();
            tasks.push(tokio::spawn(async move {
                let change = |now: &Documents| {
                    let mut new = now.clone();
                    new.agent_options["config"]["options"][format!("custom_{number}")] = json!(number);
                    Ok(new)
                };
                settings.change(&actor, Strictness::Full, false, change).await.unwrap();
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        fixture.settings.reload().await.unwrap();
        let options = fixture.settings.current().documents.agent_options.clone();
        for number in 0..8 {
            assert_eq!(options["config"]["options"][format!("custom_{number}")], number, "{options}");
        }
        assert_eq!(fixture.changes().await.len(), 8);
    }

    async fn options_that_an_earlier_release_kept_may_be_written_again(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (settings, actor) = (&fixture.settings, Actor::system());
        let team = fixture.identity.teams.create(&actor, "Laptops", "").await.unwrap().id;
        let old = json!({ "config": { "options": { "config_refresh": 30, "of_another_osquery": 1 } } });
        let set = |options: &Value, strictness| {
            settings.set_team_agent_options(&actor, team, Some(options.clone()), strictness, false)
        };
        assert!(set(&old, Strictness::Full).await.is_err());
        set(&old, Strictness::Forced).await.unwrap();
        settings.reload().await.unwrap();
        set(&old, Strictness::Full).await.unwrap();
        let known = json!({ "config": { "options": { "config_refresh": 30, "config_tls_refresh": 60, "custom_site": "x" } } });
        set(&known, Strictness::Full).await.unwrap();
    }

    async fn another_replica_follows_the_hint(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (other, _) = replica(fixture.db.reopen().await, &fixture.bus, &fixture.clock);
        let stop = CancellationToken::new();
        let following = tokio::spawn({
            let (other, stop) = (other.clone(), stop.clone());
            async move { other.run(stop).await }
        });
        let body = json!({"options": {"config": {"options": {"distributed_interval": 20}}}});
        let (status, _) = fixture.as_admin(Method::PUT, "/native/settings/agent-options", body).await;
        assert_eq!(status, 200);
        while other.version() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(other.global().config["options"]["distributed_interval"], 20);
        stop.cancel();
        following.await.unwrap();
    }

    async fn a_team_has_options_of_its_own_until_it_takes_them_back(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let team = fixture.identity.teams.create(&Actor::system(), "laptops", "").await.unwrap().id;
        let path = format!("/native/teams/{team}/agent-options");
        let (_, answer) = fixture.as_admin(Method::GET, &path, Value::Null).await;
        assert_eq!(answer["inherited"], true);
        let body = json!({"options": {"config": {"options": {"distributed_interval": 30}}}});
        for _ in 0..2 {
            let (status, answer) = fixture.as_admin(Method::PUT, &path, body.clone()).await;
            assert_eq!((status, &answer["inherited"]), (200, &json!(false)));
            assert_eq!(fixture.settings.of_team(team).unwrap().config["options"]["distributed_interval"], 30);
            let (status, answer) = fixture.as_admin(Method::DELETE, &path, Value::Null).await;
            assert_eq!((status, &answer["inherited"]), (200, &json!(true)));
            assert!(fixture.settings.of_team(team).is_none());
        }
        let (status, _) = fixture.as_admin(Method::PUT, "/native/teams/999/agent-options", body).await;
        assert_eq!(status, 404);
    }

    async fn hosts_run_out_by_the_rule_of_their_team_or_of_all(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let team = fixture.identity.teams.create(&Actor::system(), "Laptops", "").await.unwrap().id;
        let path = format!("/native/teams/{team}/host-expiry");
        let day = Duration::from_secs(24 * 3_600);
        assert_eq!(fixture.settings.expiry(), ExpiryRules::default());
        let wrong = fixture.as_admin(Method::PUT, "/native/settings", json!({ "host_expiry_enabled": true })).await;
        assert_eq!((wrong.0, &wrong.1["fields"][0]["name"]), (422, &json!("host_expiry_days")), "{wrong:?}");
        let settings = json!({ "host_expiry_enabled": true, "host_expiry_days": 30 });
        assert_eq!(fixture.as_admin(Method::PUT, "/native/settings", settings).await.0, 200);
        let (_, rule) = fixture.as_admin(Method::GET, &path, Value::Null).await;
        assert_eq!(rule, json!({ "enabled": true, "days": 30, "inherited": true }));
        assert_eq!(fixture.as_admin(Method::PUT, &path, json!({ "days": 0 })).await.0, 422);
        let (_, rule) = fixture.as_admin(Method::PUT, &path, json!({ "days": 90 })).await;
        assert_eq!(rule, json!({ "enabled": true, "days": 90, "inherited": false }));
        let rules = ExpiryRules { everybody: Some(30 * day), teams: [(team, 90 * day)].into() };
        assert_eq!(fixture.settings.expiry(), rules);
        assert_eq!(fixture.settings.audit_expiry(), None, "the log of changes has a rule of its own");
        let settings = json!({ "audit_expiry_enabled": true, "audit_expiry_days": 400 });
        assert_eq!(fixture.as_admin(Method::PUT, "/native/settings", settings).await.0, 200);
        assert_eq!(fixture.settings.audit_expiry(), Some(400 * day));
        assert_eq!(fixture.settings.collector_expiry(), None, "and so have collectors");
        let wrong = json!({ "collector_expiry_enabled": true });
        let wrong = fixture.as_admin(Method::PUT, "/native/settings", wrong).await;
        assert_eq!((wrong.0, &wrong.1["fields"][0]["name"]), (422, &json!("collector_expiry_days")), "{wrong:?}");
        let settings = json!({ "collector_expiry_enabled": true, "collector_expiry_days": 60 });
        assert_eq!(fixture.as_admin(Method::PUT, "/native/settings", settings).await.0, 200);
        assert_eq!(fixture.settings.collector_expiry(), Some(60 * day));
        let fleets = fixture.as_admin(Method::PATCH, "/fleet/config", json!({ "org_info": { "org_name": "x" } })).await;
        assert_eq!(fleets.0, 200, "{fleets:?}");
        assert_eq!(fixture.settings.collector_expiry(), Some(60 * day), "what Fleet does not know stays");
        let (_, rule) = fixture.as_admin(Method::DELETE, &path, Value::Null).await;
        assert_eq!(rule["inherited"], true);
        assert!(fixture.settings.expiry().teams.is_empty());
        assert_eq!(fixture.as_admin(Method::GET, "/native/teams/99/host-expiry", Value::Null).await.0, 404);
    }

    async fn who_may_read_and_change_settings(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let mine = fixture.identity.teams.create(&Actor::system(), "mine", "").await.unwrap().id;
        let theirs = fixture.identity.teams.create(&Actor::system(), "theirs", "").await.unwrap().id;
        let observer = principal(Some(Role::Observer), &[]);
        let team_admin = principal(None, &[(mine, Role::Admin)]);
        let name = json!({"org_info": {"org_name": "x"}});
        let options = json!({"options": {"config": {}}});
        let at = |team: TeamId| format!("/native/teams/{team}/agent-options");
        for (who, method, path, body, wanted) in [
            (&observer, Method::GET, "/fleet/config".to_owned(), Value::Null, 200),
            (&observer, Method::PATCH, "/fleet/config".to_owned(), name.clone(), 403),
            (&observer, Method::PUT, "/native/settings".to_owned(), json!({"name": "x"}), 403),
            (&observer, Method::PUT, at(mine), options.clone(), 403),
            (&team_admin, Method::PATCH, "/fleet/config".to_owned(), name.clone(), 403),
            (&team_admin, Method::PUT, at(mine), options.clone(), 200),
            (&team_admin, Method::PUT, at(theirs), options.clone(), 404),
            (&team_admin, Method::GET, at(theirs), Value::Null, 404),
        ] {
            let (status, answer) = fixture.call(who.clone(), method.clone(), &path, body).await;
            assert_eq!(status, wanted, "{method} {path}: {answer}");
        }
    }

    async fn our_own_settings_change_by_member_and_unknown_ones_are_refused(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let body = json!({"name": "Example", "live_queries_disabled": true});
        let (status, answer) = fixture.as_admin(Method::PUT, "/native/settings", body).await;
        assert_eq!((status, &answer["name"]), (200, &json!("Example")));
        let (_, answer) = fixture.as_admin(Method::PUT, "/native/settings", json!({"name": null})).await;
        assert_eq!((&answer["name"], &answer["live_queries_disabled"]), (&json!("Muster"), &json!(true)));
        let (status, answer) = fixture.as_admin(Method::PUT, "/native/settings", json!({"nam": "x"})).await;
        assert_eq!(status, 400);
        assert!(answer["message"].as_str().unwrap().contains("did you mean \"name\"?"), "{answer}");
        let (status, answer) = fixture.as_admin(Method::GET, "/fleet/config/certificate", Value::Null).await;
        assert_eq!((status, &answer["certificate_chain"]), (200, &json!("LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==")));
        let (_, answer) = fixture.as_admin(Method::GET, "/fleet/version", Value::Null).await;
        assert_eq!(answer["version"], "4.62.0");
    }

    async fn a_database_that_is_away_leaves_what_was_read_in_force(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        fixture.db.database().close().await;
        assert!(fixture.settings.reload().await.unwrap_err().is_unavailable());
        assert_eq!(fixture.settings.current().documents, Documents::default());
        let (status, _) = fixture.as_admin(Method::PUT, "/native/settings", json!({"name": "x"})).await;
        assert_eq!(status, 503);
    }
}
