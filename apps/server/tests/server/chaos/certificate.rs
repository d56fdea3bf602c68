//! A certificate that is replaced while clients come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::running;
use crate::site::until;

/// How often it is replaced.
const ROUNDS: usize = 10;
/// How many requests succeed in each round, with new connections and with one that lasts.
const ENOUGH: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_under_load_and_no_request_fails() {
    let folder = tempfile::tempdir().unwrap();
    let mut authorities = Vec::new();
    for name in ["one", "two"] {
        let server = running(&folder.path().join(name), &[]).await;
        let authority = server.authority_pem.clone().unwrap();
        authorities.push(reqwest::Certificate::from_pem(authority.as_bytes()).unwrap());
        server.shut_down().await;
    }
    let (certificate, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    let install = |number: usize| {
        let from = folder.path().join(["one", "two"][number % 2]).join("tls");
        std::fs::copy(from.join("server.pem"), &certificate).unwrap();
        std::fs::copy(from.join("server.key"), &key).unwrap();
    };
    install(0);
    let files = [
        ("tls.certificate", certificate.to_str().unwrap()),
        ("tls.key", key.to_str().unwrap()),
    ];
    let server = running(&folder.path().join("data"), &files).await;
    let url = format!("https://localhost:{}/version", server.address.port());
    let client = move || {
        reqwest::Client::builder()
            .tls_certs_only(authorities.clone())
            .build()
            .unwrap()
    };
    let done = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let lasting = {
        let (client, url, done) = (client(), url.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            loop {
                let answer = client
                    .get(&url)
                    .send()
                    .await
                    .expect("an open connection goes on");
                answer.bytes().await.expect("an answer is whole");
                done[0].fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let new = {
        let done = Arc::clone(&done);
        tokio::spawn(async move {
            loop {
                let answer = client()
                    .get(&url)
                    .send()
                    .await
                    .expect("a new connection is made");
                assert_eq!(answer.status(), 200);
                done[1].fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    for round in 1..=ROUNDS {
        let before = [0, 1].map(|kind: usize| done[kind].load(Ordering::Relaxed));
        install(round);
        server.reload().await;
        until("requests go on", async || {
            assert!(
                !lasting.is_finished() && !new.is_finished(),
                "a request failed"
            );
            (0..2).all(|kind| done[kind].load(Ordering::Relaxed) - before[kind] >= ENOUGH)
        })
        .await;
    }
    lasting.abort();
    new.abort();
    server.shut_down().await;
}
