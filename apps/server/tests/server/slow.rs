//! Clients that are slow, or send too much.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::running;
use crate::site::{Site, until};

/// How long a client may take for its first request, and for a body.
const PATIENCE_SECONDS: usize = 30;
/// How many connections of each kind hang.
const CLIENTS: usize = 20;
/// How many more hang in a body of logs: more than there may be under way at a time.
const LOGS: usize = 600;

async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A connection that is reset has ended as well as one that is closed.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn clients_that_drip_or_say_nothing_are_cut_off_and_hold_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[("tls.enabled", "false")]).await;
    let base = format!("http://{}", server.address);
    let link = server.setup_link.clone().unwrap();
    let site = Site::set_up(reqwest::Client::new(), base, &link).await;
    let key = site.enroll(&site.secret("all").await, "a").await;
    let connect = async |begin: &str| {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        stream
    };
    let body = "POST /api/osquery/log HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n";
    let (mut silent, mut heads, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..CLIENTS {
        silent.push(connect("").await);
        heads.push(connect("GET /version HTTP/1.1\r\nHost: x\r\nX-Long: ").await);
        bodies.push(connect(body).await);
    }
    for _ in CLIENTS..LOGS {
        bodies.push(connect(body).await);
    }
    assert_eq!(
        site.log(&key, "meanwhile").await.status,
        200,
        "nobody waits for them"
    );

    tokio::time::pause();
    for _ in 0..PATIENCE_SECONDS + 5 {
        for stream in heads.iter_mut().chain(&mut bodies) {
            // Fails for those that were cut off already.
            let _ = stream.write_all(b" ").await;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    for stream in silent.iter_mut().chain(&mut heads) {
        assert_eq!(rest(stream).await, "");
    }
    for stream in &mut bodies {
        let answer = rest(stream).await;
        assert!(
            answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
            "{answer}"
        );
    }
    tokio::time::resume();
    // The time that jumped looks like a server that is late, which puts logs off for a moment.
    until("logs are taken afterwards", async || {
        site.log(&key, "afterwards").await.status == 200
    })
    .await;
    server.shut_down().await;
}

#[tokio::test]
async fn a_body_over_its_limit_is_told_so_in_the_shape_of_its_family() {
    const MIB: usize = 1024 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[("tls.enabled", "false")]).await;
    let base = format!("http://{}", server.address);
    let link = server.setup_link.clone().unwrap();
    let site = Site::set_up(reqwest::Client::new(), base, &link).await;
    for (path, bytes, member) in [
        ("/api/osquery/enroll", MIB, "error"),
        ("/api/v1/osquery/config", MIB, "error"),
        ("/api/osquery/distributed/write", 5 * MIB, "error"),
        ("/api/osquery/log", 10 * MIB, "error"),
        ("/api/fleet/orbit/enroll", MIB, "message"),
        ("/api/latest/fleet/login", MIB, "message"),
        ("/api/muster/login", MIB, "code"),
    ] {
        // Announced: refused before it is sent.
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
            bytes + 1
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(
            answer.starts_with("HTTP/1.1 413 Payload Too Large\r\n"),
            "{path}: {answer}"
        );
        let (_, text) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(text).unwrap();
        assert!(body[member].is_string(), "{path}: {body}");
        assert!(body.get("node_invalid").is_none(), "{path}: {body}");

        // Not announced: counted as it comes. The client sends no byte more than it takes to know.
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{{",
            bytes + 1
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; bytes]).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{path}: {answer}");
    }
    // Just within the limit it is read.
    let padded = json!({ "email": "a", "password": "b", "x": "y".repeat(MIB - 100) });
    assert_eq!(site.agent("/api/muster/login", &padded).await.status, 401);
    server.shut_down().await;
}
