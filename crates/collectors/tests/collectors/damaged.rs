//! Damaged and made-up messages.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use muster_clock::{Randomness as _, SeededRandomness};
use muster_identity::KnownAgents;
use muster_store::Dialect;
use muster_store::testing::TestDatabase;
use muster_wire_opamp::proto::{
    AgentConfigMap, AgentConfigObject, ComponentHealth, EffectiveConfig,
};
use muster_wire_opamp::{MessageLimit, encode_body};

use crate::{Fixture, SETTINGS, described, message};

/// How many messages are tried.
const MESSAGES: usize = 10_000;

#[tokio::test]
async fn no_damaged_message_hurts_the_server_or_another_agent() {
    let db = TestDatabase::new(Dialect::Sqlite).await;
    let fixture = Fixture::new(&db).await;
    let token = fixture.token(KnownAgents::Adopt).await;
    fixture.send(&token, &described(9, 0, 0)).await;
    let mut whole = described(7, 0, SETTINGS | 0x804);
    whole.health = Some(ComponentHealth {
        healthy: true,
        component_health_map: [("a".to_owned(), ComponentHealth::default())].into(),
        ..ComponentHealth::default()
    });
    whole.effective_config = Some(EffectiveConfig {
        config_map: Some(AgentConfigMap {
            config_map: [(
                String::new(),
                AgentConfigObject {
                    body: bytes::Bytes::from_static(b"a: {b: [c, d]}\npassword: x\n"),
                    ..AgentConfigObject::default()
                },
            )]
            .into(),
        }),
    });
    let whole = encode_body(&whole, MessageLimit::default()).unwrap();
    let randomness = SeededRandomness::new(20_261_130);
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for number in 0..MESSAGES {
        let mut bytes = whole.to_vec();
        if number % 4 == 0 {
            bytes.truncate(randomness.below(bytes.len() as u64) as usize);
        }
        if number % 10 == 0 {
            randomness.fill(&mut bytes);
        }
        // The uid stays: else each message would be another agent.
        for _ in 0..=randomness.below(6) {
            if bytes.len() > 18 {
                let at = 18 + randomness.below(bytes.len() as u64 - 18) as usize;
                bytes[at] = randomness.below(256) as u8;
            }
        }
        let request = Request::post("/v1/opamp")
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Body::from(bytes))
            .unwrap();
        let (status, ..) = fixture.request(request).await;
        *statuses.entry(status).or_default() += 1;
        fixture.clock.advance(std::time::Duration::from_secs(1));
    }
    assert!(
        statuses.keys().all(|status| [200, 400].contains(status)) && statuses.len() == 2,
        "{statuses:?}"
    );
    assert_eq!(fixture.post(&token, &message(9, 1, 0)).await.0, 200);
    assert_eq!(
        fixture.post(&token, &described(7, 0, SETTINGS)).await.0,
        200
    );
}
