//! What is kept, and what is not written.

use muster_identity::{Actor, Family, KnownAgents, NewEnrollmentToken, Role};
use muster_store::testing::on_both_databases;
use muster_store::{Executor as _, args};
use muster_wire_opamp::proto::{
    AgentConfigMap, AgentConfigObject, AnyValue, ArrayValue, ComponentHealth,
    ConnectionSettingsStatus, EffectiveConfig, KeyValue, PackageStatuses, RemoteConfigStatus,
    any_value,
};
use serde_json::json;

use crate::{Fixture, admin, described, goodbye, message, until};

on_both_databases! {
    async fn a_heartbeat_that_changes_nothing_costs_no_statement(db: TestDatabase) {
        let fixture = Fixture::quiet(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        fixture.send(&token, &described(7, 0, 0)).await;
        fixture.collectors.flush().await.unwrap();
        let before = db.statements();
        for number in 1..20 {
            fixture.send(&token, &message(7, number, 0)).await;
        }
        assert_eq!(db.statements() - before, 0);
        fixture.collectors.flush().await.unwrap();
        assert!(db.statements() - before <= 4, "and one batch for all of them");
    }

    async fn a_restart_asks_nothing_of_an_agent_that_is_known(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        fixture.send(&token, &described(7, 0, 0)).await;
        for number in 1..5 {
            fixture.send(&token, &message(7, number, 0)).await;
        }
        fixture.collectors.flush().await.unwrap();
        let again = fixture.another(&db, 2).await;
        assert_eq!(again.send(&token, &message(7, 5, 0)).await.flags, 0);
        let lost = fixture.another(&db, 3).await;
        assert_eq!(lost.send(&token, &message(7, 9, 0)).await.flags, 1, "a gap is one after a restart, too");
    }

    async fn secrets_of_an_effective_configuration_reach_no_table(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let mut said = described(7, 0, 0x4);
        let object = |text: &'static str| AgentConfigObject {
            body: bytes::Bytes::from_static(text.as_bytes()),
            ..AgentConfigObject::default()
        };
        said.effective_config = Some(EffectiveConfig {
            config_map: Some(AgentConfigMap {
                config_map: [
                    ("collector.yaml".to_owned(), object("exporters: {otlp: {headers: {api-key: hunter2}, endpoint: x}}\n")),
                    ("broken.yaml".to_owned(), object("password: [hunter2")),
                ]
                .into(),
            }),
        });
        fixture.send(&token, &said).await;
        let config = &fixture.look(1).await["effective_config"];
        let text = config["collector.yaml"]["body"].as_str().unwrap();
        assert_eq!(text, "exporters: {otlp: {headers: {api-key: \"[MASKED]\"}, endpoint: x}}\n");
        assert!(config["broken.yaml"]["withheld"]["reason"].is_string(), "{config}");
        assert!(!config.to_string().contains("hunter2"));
    }

    async fn secrets_of_attributes_and_errors_reach_no_table(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let text = |text: &str| AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) };
        let arguments = ["otelcol", "--api-key", "hunter2", "--config=a.yaml"].map(text);
        let mut said = described(7, 0, 0x800);
        said.agent_description.as_mut().unwrap().non_identifying_attributes.extend([
            KeyValue {
                key: "process.command_args".to_owned(),
                value: Some(AnyValue { value: Some(any_value::Value::ArrayValue(ArrayValue { values: arguments.into() })) }),
            },
            KeyValue::text("process.command_line", "otelcol --api-key hunter2"),
            KeyValue::text("db.password", "hunter2"),
            KeyValue::text("upstream", "https://ann:hunter2@example.com/path"),
        ]);
        let broken = "https://ann:hunter2@example.com/path".to_owned();
        said.health = Some(ComponentHealth { last_error: broken.clone(), ..ComponentHealth::default() });
        said.remote_config_status = Some(RemoteConfigStatus {
            last_remote_config_hash: bytes::Bytes::from_static(b"hash"),
            status: 3,
            error_message: broken.clone(),
        });
        said.connection_settings_status =
            Some(ConnectionSettingsStatus { status: 3, error_message: broken.clone(), ..ConnectionSettingsStatus::default() });
        said.package_statuses = Some(PackageStatuses { error_message: broken, ..PackageStatuses::default() });
        fixture.send(&token, &said).await;
        let detail = fixture.look(1).await;
        let attributes = &detail["attributes"];
        assert_eq!(attributes["process.command_args"], json!(["otelcol", "--api-key", "[MASKED]", "--config=a.yaml"]));
        assert_eq!(attributes["process.command_line"], "otelcol --api-key [MASKED]");
        assert_eq!((&attributes["db.password"], &attributes["host.name"]), (&json!("[MASKED]"), &json!("box-7")));
        let masked = json!("https://ann:[MASKED]@example.com/path");
        for shown in [&attributes["upstream"], &detail["health"]["last_error"], &detail["remote_config"]["error"],
            &detail["connection_settings"]["error"], &detail["packages"]["error"]] {
            assert_eq!(shown, &masked);
        }
        assert_eq!(fixture.list("?search=hunter2").await.len(), 0);
        assert_eq!(fixture.list("?attribute=db.password").await.len(), 1);
        let mut database = &*db;
        for (table, column) in [("collectors", "state"), ("parts", "body"), ("attributes", "value"), ("events", "details")] {
            let sql = format!("SELECT COUNT(*) AS total FROM collectors_{table} WHERE {column} LIKE '%hunter2%'");
            let found: i64 = database.fetch_one(&sql, args![]).await.unwrap().get("total").unwrap();
            assert_eq!(found, 0, "{table}");
        }
    }

    async fn a_tree_of_health_is_kept_as_deep_as_messages_may_be(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let nested = |depth: usize| {
            let mut tree = ComponentHealth { healthy: true, ..ComponentHealth::default() };
            for _ in 0..depth {
                let mut outer = ComponentHealth { healthy: true, ..ComponentHealth::default() };
                outer.component_health_map.insert("inner".to_owned(), tree);
                tree = outer;
            }
            tree
        };
        let mut said = described(7, 0, 0x800);
        said.health = Some(nested(20));
        fixture.send(&token, &said).await;
        assert_eq!(fixture.look(1).await["health"]["components"]["inner"]["healthy"], json!(true));
        said.sequence_num = 1;
        said.health = Some(nested(1_000));
        assert_eq!(fixture.post(&token, &said).await.0, 400, "a thousand levels are refused before they are read");
        said.health = None;
        fixture.send(&token, &said).await;
    }

    async fn agents_that_all_come_at_once_are_written_together_and_each_is_answered(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let said: Vec<_> = (1..100).map(|uid| described(uid, 0, crate::SETTINGS)).collect();
        // Some come twice, so that not all of a batch can be kept together.
        let again = said.iter().take(20);
        let answers = futures_util::future::join_all(said.iter().chain(again).map(|said| fixture.send(&token, said))).await;
        for (answer, said) in answers.iter().zip(&said) {
            assert_eq!(answer.instance_uid, said.instance_uid);
        }
        assert_eq!(answers.iter().filter_map(crate::key_of).count(), 99);
        let mut keys: Vec<_> = answers.iter().filter_map(crate::key_of).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 99, "each has a key of its own");
        assert_eq!(fixture.list("?limit=1000").await.len(), 99);
        let uses = fixture.identity.enrollment_tokens.find(muster_identity::EnrollmentTokenId(1)).await.unwrap().uses;
        assert_eq!(uses, 99);
    }

    async fn an_ephemeral_agent_is_forgotten_soon_after_it_goes(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let new = NewEnrollmentToken {
            name: "jobs".to_owned(),
            families: vec![Family::Opamp],
            ephemeral: Some(true),
            ..NewEnrollmentToken::default()
        };
        let token = fixture.identity.enrollment_tokens.create(&Actor::system(), new).await.unwrap().1;
        let lasting = fixture.token(KnownAgents::Adopt).await;
        for uid in [7, 8] {
            fixture.send(&token, &described(uid, 0, 0)).await;
        }
        fixture.send(&lasting, &described(9, 0, 0)).await;
        for (secret, uid) in [(&token, 7), (&lasting, 9)] {
            fixture.send(secret, &goodbye(uid, 1, 0)).await;
        }
        fixture.collectors.flush().await.unwrap();
        fixture.wait(10 * 60);
        // Whoever has the lease looks when it begins, and then every few minutes.
        let _looking = fixture.another(&db, 2).await;
        until("it is forgotten", || async { fixture.list("").await.len() == 2 }).await;
        let names: Vec<_> = fixture.list("?sort=host_name").await.iter().map(|one| one["host_name"].clone()).collect();
        assert_eq!(names, ["box-8", "box-9"]);
    }

    async fn a_team_that_is_deleted_lets_its_collectors_go(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let team = fixture.identity.teams.create(&Actor::system(), "edge", "").await.unwrap();
        let new = NewEnrollmentToken {
            name: "edge".to_owned(),
            team_id: Some(team.id),
            families: vec![Family::Opamp],
            ..NewEnrollmentToken::default()
        };
        let token = fixture.identity.enrollment_tokens.create(&Actor::system(), new).await.unwrap().1;
        fixture.send(&token, &described(7, 0, 0)).await;
        assert_eq!(fixture.list(&format!("?team_id={}", team.id)).await.len(), 1);
        let member = crate::somebody(None, vec![(team.id, Role::Observer)]);
        let (_, page) = fixture.call(&member, "GET", "/collectors", json!(null)).await;
        assert_eq!(page["total"], 1);
        fixture.identity.teams.delete(&Actor::system(), team.id).await.unwrap();
        assert_eq!(fixture.list("?team_id=0").await.len(), 1);
        let (status, _) = fixture.call(&admin(), "POST", "/collectors/1/transfer", json!({ "team_id": 99 })).await;
        assert_eq!(status, 422);
    }
}
