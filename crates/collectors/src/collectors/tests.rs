//! What can be seen at one socket only by how long it is held.

use muster_identity::{Actor, Family, NewEnrollmentToken};
use muster_store::testing::on_both_databases;
use muster_wire_opamp::proto::{AgentDescription, AnyValue, KeyValue, any_value};

use super::*;
use crate::testing::service;

const AGENTS: u8 = 100;

fn described(uid: u8, number: u64, name: &str) -> AgentToServer {
    AgentToServer {
        instance_uid: vec![uid; 16].into(),
        sequence_num: number,
        agent_description: Some(AgentDescription {
            identifying_attributes: vec![KeyValue {
                key: "service.name".to_owned(),
                value: Some(AnyValue {
                    value: Some(any_value::Value::StringValue(name.to_owned())),
                }),
            }],
            ..AgentDescription::default()
        }),
        ..AgentToServer::default()
    }
}

on_both_databases! {
    async fn while_the_database_is_away_all_that_have_something_to_keep_are_told_so(db: TestDatabase) {
        let (collectors, _) = service(&db).await;
        let new = NewEnrollmentToken { name: "all".to_owned(), families: vec![Family::Opamp], ..NewEnrollmentToken::default() };
        let token = collectors.identity().enrollment_tokens.create(&Actor::system(), new).await.unwrap().1;
        let address = [127, 0, 0, 1].into();
        let mut sessions = Vec::new();
        for uid in 1..=AGENTS {
            let session = collectors.admit(&token, muster_http::ClientAddress(address), Carrier::WebSocket).await.unwrap();
            let reply = collectors.exchange(&session, &described(uid, 0, "before")).await.unwrap();
            assert!(reply.collector.is_some());
            sessions.push(session);
        }
        db.close().await;
        // More than are written together: those that wait for the next batch are told as well.
        let messages: Vec<_> = (1..=AGENTS).map(|uid| described(uid, 1, "after")).collect();
        let answers = sessions.iter().zip(&messages).map(|(session, message)| collectors.exchange(session, message));
        for answer in futures_util::future::join_all(answers).await {
            match answer {
                Err(ExchangeError::Unavailable(error)) => assert!(error.is_unavailable(), "{error:?}"),
                other => panic!("{:?}", other.map(|reply| reply.collector)),
            }
        }
    }
}
