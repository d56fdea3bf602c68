//! The components that collectors are built of, which they tell by a name of their own choice.

use muster_identity::KnownAgents;
use muster_store::testing::on_both_databases;
use muster_wire_opamp::proto::{AgentToServer, AvailableComponents, ComponentDetails};
use serde_json::{Value, json};

use crate::{Fixture, admin, described};

/// The bit by which an agent says that it tells its components, and the one by which it is asked for them.
const REPORTS_COMPONENTS: u64 = 0x4000;
const ASKED: u64 = 2;

/// An agent that calls its components so, and tells these receivers.
fn built(uid: u8, sequence: u64, name: &'static str, receivers: &[&str]) -> AgentToServer {
    let receivers: Vec<_> = receivers
        .iter()
        .map(|kind| ((*kind).to_owned(), ComponentDetails::default()))
        .collect();
    let section = ComponentDetails {
        sub_component_map: receivers.into_iter().collect(),
        ..ComponentDetails::default()
    };
    let told = (!section.sub_component_map.is_empty()).then(|| ("receivers".to_owned(), section));
    AgentToServer {
        available_components: Some(AvailableComponents {
            hash: bytes::Bytes::from_static(name.as_bytes()),
            components: told.into_iter().collect(),
        }),
        ..described(uid, sequence, REPORTS_COMPONENTS)
    }
}

fn shown(receiver: &str) -> Value {
    json!({ "receivers": { "components": { (receiver): {} } } })
}

on_both_databases! {
    async fn a_list_of_components_is_shared_by_its_name_within_a_team_alone(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let (_, theirs) = fixture.team("theirs").await;
        let (team, ours) = fixture.team("ours").await;
        let nobodys = fixture.token(KnownAgents::Adopt).await;
        // Who tells a poor list by the name that many others will use decides nothing for other teams.
        fixture.send(&theirs, &built(1, 0, "common", &["nop"])).await;
        for (token, uid) in [(&ours, 2), (&nobodys, 3)] {
            let answer = fixture.send(token, &built(uid, 0, "common", &[])).await;
            assert_eq!(answer.flags & ASKED, ASKED, "{uid}");
            assert_eq!(fixture.look(i64::from(uid)).await["available_components"], Value::Null);
            let answer = fixture.send(token, &built(uid, 1, "common", &["otlp"])).await;
            assert_eq!(answer.flags, 0);
            assert_eq!(fixture.look(i64::from(uid)).await["available_components"], shown("otlp"));
        }
        // In their own team they are told for all, on every server.
        let other = fixture.another(&db, 2).await;
        assert_eq!(fixture.send(&ours, &built(4, 0, "common", &[])).await.flags, 0);
        assert_eq!(other.send(&ours, &built(5, 0, "common", &[])).await.flags, 0);
        assert_eq!(other.send(&nobodys, &built(6, 0, "common", &[])).await.flags, 0);
        for id in 4..=6 {
            assert_eq!(fixture.look(id).await["available_components"], shown("otlp"), "{id}");
        }
        // Whoever tells its own list has that one, whatever the name, and takes it along.
        fixture.send(&ours, &built(7, 0, "common", &["nop"])).await;
        assert_eq!(fixture.look(7).await["available_components"], shown("nop"));
        assert_eq!(fixture.look(2).await["available_components"], shown("otlp"));
        let (status, _) = fixture.call(&admin(), "POST", "/collectors/1/transfer", json!({ "team_id": team })).await;
        assert_eq!(status, 204);
        assert_eq!(fixture.look(1).await["available_components"], shown("nop"));
    }

    async fn an_agent_that_keeps_silent_has_what_another_of_its_team_told_meanwhile(db: TestDatabase) {
        let fixture = Fixture::quiet(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let silent = AgentToServer { available_components: None, ..built(1, 1, "common", &[]) };
        assert_eq!(fixture.send(&token, &built(1, 0, "common", &[])).await.flags & ASKED, ASKED);
        fixture.send(&token, &built(2, 0, "common", &["otlp"])).await;
        fixture.send(&token, &silent).await;
        assert_eq!(fixture.look(1).await["available_components"], shown("otlp"));
        let before = db.statements();
        fixture.send(&token, &AgentToServer { sequence_num: 2, ..silent }).await;
        assert_eq!(db.statements() - before, 0, "what is known is not looked for again");
    }
}
