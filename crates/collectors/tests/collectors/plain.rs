//! Messages over plain HTTP.

use std::io::Write as _;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use bytes::Bytes;
use muster_identity::KnownAgents;
use muster_store::testing::on_both_databases;
use muster_wire_opamp::proto::ServerToAgent;
use muster_wire_opamp::{MessageLimit, decode_body, encode_body};

use crate::{Fixture, SETTINGS, described, message};

fn encoded(message: &muster_wire_opamp::proto::AgentToServer) -> Bytes {
    encode_body(message, MessageLimit::default()).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn request(kind: &str, authorization: &str) -> axum::http::request::Builder {
    Request::post("/v1/opamp")
        .header(header::CONTENT_TYPE, kind)
        .header(header::AUTHORIZATION, authorization)
}

on_both_databases! {
    async fn a_message_is_answered_with_its_uid_and_what_the_server_can_do(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let body = encoded(&described(7, 0, 0));
        let asked = request("Application/X-Protobuf; charset=utf-8", &format!("apikey {token}"));
        let (status, headers, body) = fixture.request(asked.body(Body::from(body)).unwrap()).await;
        assert_eq!(status, 200);
        assert_eq!(headers[header::CONTENT_TYPE], "application/x-protobuf");
        let answer: ServerToAgent = decode_body(body, MessageLimit::default()).unwrap();
        assert_eq!(&answer.instance_uid[..], [7; 16]);
        assert_eq!(answer.capabilities, 0x37);
        assert_eq!(answer.flags, 0);
    }

    async fn whoever_may_not_come_is_told_the_same_whatever_the_reason(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let key = crate::key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        fixture.send(&key, &described(7, 0, SETTINGS)).await;
        let (status, _) = fixture.call(&crate::admin(), "POST", "/collectors/1/revoke", serde_json::json!({})).await;
        assert_eq!(status, 204);
        let mut answers = Vec::new();
        for authorization in [
            String::new(),
            "Basic abc".to_owned(),
            "Bearer wrong".to_owned(),
            "Bearer mst_acc_wrong".to_owned(),
            format!("Bearer {key}"),
        ] {
            let asked = request("application/x-protobuf", &authorization);
            let body = Body::from(encoded(&described(7, 1, SETTINGS)));
            let (status, headers, body) = fixture.request(asked.body(body).unwrap()).await;
            assert_eq!((status, &headers[header::WWW_AUTHENTICATE]), (401, &axum::http::HeaderValue::from_static("Bearer")));
            answers.push(body);
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
        let (status, _) = fixture.post(&token, &described(7, 2, SETTINGS)).await;
        assert_eq!(status, 401, "a revoked agent does not come back by its token");
        let (status, _) = fixture.post(&token, &described(8, 0, SETTINGS)).await;
        assert_eq!(status, 200, "its neighbour does");
    }

    async fn bodies_are_taken_compressed_and_in_pieces_and_within_their_limit(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let bearer = format!("Bearer {}", fixture.token(KnownAgents::Adopt).await);
        let asked = || request("application/x-protobuf", &bearer);
        let zipped = gzip(&encoded(&described(7, 0, SETTINGS)));
        let compressed = asked().header(header::CONTENT_ENCODING, "gzip").header(header::ACCEPT_ENCODING, "gzip");
        let (status, headers, body) = fixture.request(compressed.body(Body::from(zipped)).unwrap()).await;
        assert_eq!(status, 200);
        // A small answer is not worth it.
        assert!(!headers.contains_key(header::CONTENT_ENCODING) && body.len() < 512);
        let bytes = encoded(&message(7, 1, SETTINGS));
        let (first, second) = (bytes.slice(..5), bytes.slice(5..));
        let pieces = futures_util::stream::iter([first, second].map(Ok::<_, std::io::Error>));
        let (status, ..) = fixture.request(asked().body(Body::from_stream(pieces)).unwrap()).await;
        assert_eq!(status, 200);
        let bomb = gzip(&vec![0; 50_000_000]);
        let compressed = asked().header(header::CONTENT_ENCODING, "gzip");
        let (status, ..) = fixture.request(compressed.body(Body::from(bomb)).unwrap()).await;
        assert_eq!(status, 413);
        let (status, ..) = fixture.request(asked().body(Body::from(vec![0; 1_100_000])).unwrap()).await;
        assert_eq!(status, 413);
        for broken in [&b"\xff\xff\xff"[..], b"\x0a\xff"] {
            let (status, ..) = fixture.request(asked().body(Body::from(broken.to_vec())).unwrap()).await;
            assert_eq!(status, 400);
        }
    }

    async fn a_uid_of_another_length_is_told_in_band_and_alone(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let mut said = described(7, 0, 0);
        for uid in [&b""[..], b"short", &[1; 17]] {
            said.instance_uid = Bytes::copy_from_slice(uid);
            let answer = fixture.send(&token, &said).await;
            assert_eq!(&answer.instance_uid[..], uid);
            let error = answer.error_response.clone().unwrap();
            assert_eq!(error.r#type, 1);
            let alone = ServerToAgent {
                instance_uid: answer.instance_uid.clone(),
                error_response: Some(error),
                ..ServerToAgent::default()
            };
            assert_eq!(answer, alone);
        }
        assert!(fixture.list("").await.is_empty());
    }

    async fn a_database_that_is_away_is_never_a_refusal(db: TestDatabase) {
        let fixture = Fixture::quiet(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        let key = crate::key_of(&fixture.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        db.close().await;
        for (secret, uid) in [(&token, 8), (&key, 7)] {
            let asked = request("application/x-protobuf", &format!("Bearer {secret}"));
            let body = Body::from(encoded(&described(uid, 0, SETTINGS)));
            let (status, headers, _) = fixture.request(asked.body(body).unwrap()).await;
            assert_eq!(status, 503);
            assert!(headers.contains_key(header::RETRY_AFTER));
        }
        let (status, _) = fixture.post(&token, &message(7, 1, SETTINGS)).await;
        assert_eq!(status, 200, "what changes nothing needs no database");
    }

    async fn whoever_does_not_speak_opamp_is_told_how(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let bearer = format!("Bearer {}", fixture.token(KnownAgents::Adopt).await);
        let (status, _, body) = fixture.request(request("application/json", &bearer).body(Body::from("{}")).unwrap()).await;
        assert_eq!(status, 415);
        assert!(String::from_utf8_lossy(&body).contains("application/x-protobuf"));
        let get = Request::get("/v1/opamp").header(header::AUTHORIZATION, &bearer);
        assert_eq!(fixture.request(get.body(Body::empty()).unwrap()).await.0, 415);
        let put = Request::put("/v1/opamp").header(header::CONTENT_TYPE, "application/x-protobuf");
        assert_eq!(fixture.request(put.body(Body::empty()).unwrap()).await.0, 405);
    }

    async fn an_agent_that_sends_far_too_much_is_told_to_come_later_and_others_are_served(db: TestDatabase) {
        let fixture = Fixture::new(&db).await;
        let token = fixture.token(KnownAgents::Adopt).await;
        fixture.send(&token, &described(7, 0, 0)).await;
        let mut refused = 0;
        for number in 1..200 {
            let (status, _) = fixture.post(&token, &message(7, number, 0)).await;
            refused += u32::from(status == 429);
        }
        assert!((100..150).contains(&refused), "{refused} of 199 were told to come later");
        assert_eq!(fixture.post(&token, &described(8, 0, 0)).await.0, 200);
        fixture.wait(60);
        assert_eq!(fixture.post(&token, &message(7, 200, 0)).await.0, 200);
    }
}
