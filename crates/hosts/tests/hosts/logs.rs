//! Logs of agents.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{Request, header};
use muster_sinks::LogKind;
use muster_store::testing::on_both_databases;
use serde_json::{Value, json};

use crate::harness::TestServer;

fn log(key: &str, kind: &str, data: &str) -> String {
    format!(r#"{{"node_key":"{key}","log_type":"{kind}","data":{data}}}"#)
}

on_both_databases! {
    async fn entries_of_all_formats_are_kept_as_the_bytes_that_came(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let entries = [
            r#"{"action":"added","name":"pack/Global/usb","columns":{"vendor":"é"},"unixTime":1795392000}"#,
            r#"{"name":"pack_team-3_x","diffResults":{"added":[],"removed":[]},"unixTime":"1795392000"}"#,
            r#"{"snapshot":[],"action":"snapshot","name":"pack__x__Global__x__q","counter":1.0}"#,
            r#"{"action":"snapshot","name":"by event",  "columns":{}}"#,
        ];
        let answer = server.post_bytes("/api/v1/osquery/log", log(&key, "result", &format!("[{}]", entries.join(",")))).await;
        assert_eq!((answer.status, answer.json()), (200, json!({})));
        let status = r#"{"s":"0","f":"x.cpp","i":"7","m":"short keys"}"#;
        server.post_bytes("/api/osquery/log", log(&key, "status", &format!("[{status}]"))).await;
        let lines = server.sink.lines.lock().unwrap().clone();
        let expected: Vec<_> = entries.iter().map(|entry| (LogKind::Result, (*entry).to_owned()))
            .chain([(LogKind::Status, status.to_owned())]).collect();
        assert_eq!(lines, expected);
    }

    async fn a_bad_entry_does_not_spoil_its_batch(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let good = r#"{"name":"good"}"#;
        let data = format!(r#"[5, null, "s", {{"z":1}}, [], {good}, {{"name":7}}]"#);
        assert_eq!(server.post_bytes("/api/osquery/log", log(&key, "result", &data)).await.status, 200);
        for data in ["{}", "null", "\"x\"", "[]"] {
            assert_eq!(server.post_bytes("/api/osquery/log", log(&key, "result", data)).await.status, 200, "{data}");
        }
        let without = json!({"node_key": key, "log_type": "result"});
        assert_eq!(server.post("/api/osquery/log", without).await.status, 200);
        assert_eq!(*server.sink.lines.lock().unwrap(), [(LogKind::Result, good.to_owned())]);
    }

    async fn an_unknown_kind_of_log_is_an_error_that_names_it(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let answer = server.post_bytes("/api/osquery/log", log(&key, "zz", "[]")).await;
        assert_eq!((answer.status, answer.json()), (422, json!({"error": "unknown log type: zz", "uuid": ""})));
    }

    async fn a_destination_that_fails_makes_the_agent_keep_its_logs(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        server.sink.is_full.store(true, Ordering::SeqCst);
        let full = server.post_bytes("/api/osquery/log", log(&key, "result", r#"[{"name":"x"}]"#)).await;
        assert_eq!(full.status, 413);
        assert!(full.json()["error"].is_string() && full.json().get("node_invalid").is_none());
        server.sink.is_full.store(false, Ordering::SeqCst);
        server.sink.is_busy.store(true, Ordering::SeqCst);
        let busy = server.post_bytes("/api/osquery/log", log(&key, "result", r#"[{"name":"x"}]"#)).await;
        assert_eq!((busy.status, busy.header("retry-after")), (503, Some("5")));
        assert!(busy.json().get("node_invalid").is_none());
    }

    async fn gzip_is_inflated_and_a_bomb_is_refused(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let gzip = |bytes: &[u8]| {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        };
        let send = async |body: Vec<u8>| {
            let request = Request::post("/api/osquery/log").header(header::CONTENT_ENCODING, "gzip");
            server.send(request.body(Body::from(body)).unwrap()).await
        };
        let body = log(&key, "result", r#"[{"name":"x"}]"#);
        assert_eq!(send(gzip(body.as_bytes())).await.status, 200);
        assert_eq!(server.sink.lines.lock().unwrap().len(), 1);
        let bomb = send(gzip(&vec![b' '; 60_000_000])).await;
        assert_eq!(bomb.status, 413);
        assert!(bomb.json()["error"].is_string());
        assert_eq!(send(b"not gzip".to_vec()).await.status, 400);
        assert_eq!(server.read(&key).await.status, 200);
    }

    async fn bodies_are_taken_up_to_their_limits(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let padded = |bytes: usize| json!({"node_key": key, "log_type": "result", "data": [], "x": "y".repeat(bytes)});
        let mib = 1024 * 1024;
        for (path, fits, too_large) in [
            ("log", 9 * mib, 11 * mib),
            ("distributed/write", 4 * mib, 6 * mib),
            ("distributed/read", mib / 2, 2 * mib),
            ("config", mib / 2, 3 * mib),
        ] {
            let path = format!("/api/v1/osquery/{path}");
            assert_eq!(server.post(&path, padded(fits)).await.status, 200, "{path}");
            let refused = server.post(&path, padded(too_large)).await;
            assert_eq!(refused.status, 413, "{path}");
            assert!(refused.json()["error"].is_string() && refused.json().get("node_invalid").is_none());
        }
        let deep = format!(r#"{{"node_key":"{key}","queries":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(server.post_bytes("/api/osquery/distributed/write", deep).await.status, 400);
        let _: Value = server.read(&key).await.json();
    }

    async fn while_the_destination_hangs_logs_are_put_off_and_everything_else_goes_on(db: TestDatabase) {
        const MORE: usize = 100;
        let server = Arc::new(TestServer::new(&db).await);
        let key = server.enroll("a").await;
        let hanging = server.sink.gate.write().await;
        let (begin, mut sending) = (log(&key, "result", r#"[{"name":"x"}]"#), Vec::new());
        for _ in 0..512 {
            let (server, body) = (Arc::clone(&server), begin.clone());
            sending.push(tokio::spawn(async move { server.post_bytes("/api/osquery/log", body).await }));
        }
        while server.sink.waiting.load(Ordering::SeqCst) < 512 {
            tokio::task::yield_now().await;
        }
        for _ in 0..MORE {
            let refused = server.post_bytes("/api/osquery/log", begin.clone()).await;
            assert_eq!((refused.status, refused.header("retry-after")), (503, Some("30")));
            assert!(refused.json().get("node_invalid").is_none(), "it keeps its key and its logs");
        }
        assert_eq!(server.read(&key).await.status, 200);
        server.enroll("b").await;
        drop(hanging);
        for sent in sending {
            assert_eq!(sent.await.unwrap().status, 200);
        }
        assert_eq!(server.post_bytes("/api/osquery/log", begin).await.status, 200);
        assert_eq!(server.sink.lines.lock().unwrap().len(), 513, "what was acknowledged, and nothing else");
    }
}
