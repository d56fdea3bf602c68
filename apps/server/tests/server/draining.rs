//! The server ends in order when it is told to.

use std::net::SocketAddr;

use muster_store::testing::on_both_databases;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::program::{Program, plain};
use crate::site::{Site, until};

/// A request whose head the server has read and whose body it waits for.
async fn begun(address: SocketAddr, path: &str, body_bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {body_bytes}\r\nExpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

async fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    text
}

on_both_databases! {
    async fn a_request_under_way_is_answered_before_the_program_ends(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::start(&mut plain(folder.path(), db.address()));
        let mut site = Site::set_up(reqwest::Client::new(), program.base(), program.setup_link()).await;
        let secret = site.secret("all").await;
        let key = site.enroll(&secret, "a").await;
        let log = json!({ "node_key": key, "log_type": "result", "data": [{ "name": "the last" }] }).to_string();
        let enroll = json!({ "enroll_secret": secret, "host_identifier": "late" }).to_string();
        let mut requests = Vec::new();
        for (path, body) in [("/api/osquery/log", log), ("/api/osquery/enroll", enroll)] {
            let mut stream = begun(program.address, path, body.len()).await;
            stream.write_all(&body.as_bytes()[..7]).await.unwrap();
            requests.push((stream, body));
        }
        // Kept connections without a request do not hold up the end.
        let _idle = TcpStream::connect(program.address).await.unwrap();
        program.terminate();
        until("nobody new is let in", || async { TcpStream::connect(program.address).await.is_err() }).await;
        for (mut stream, body) in requests {
            stream.write_all(&body.as_bytes()[7..]).await.unwrap();
            let answer = rest(stream).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains("connection: close\r\n"), "{answer}");
        }
        assert!(program.wait().success());
        let lines = std::fs::read_to_string(folder.path().join("logs/osquery_result.log")).unwrap();
        assert!(lines.contains("the last"), "{lines}");
        let program = Program::start(&mut plain(folder.path(), db.address()));
        site.base = program.base();
        assert_eq!(site.get("/api/latest/fleet/hosts/identifier/late").await.status, 200);
    }
}

#[tokio::test]
async fn a_request_that_never_finishes_is_cut_when_the_time_to_end_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("a.db").display());
    let mut command = plain(&folder.path().join("data"), &database);
    let program = Program::start(command.env("MUSTER_SHUTDOWN_TIMEOUT", "1s"));
    let stream = begun(program.address, "/api/osquery/log", 100).await;
    program.terminate();
    assert_eq!(rest(stream).await, "");
    assert!(program.wait().success());
}
