//! What agents are told while the database is away or slow: to come again, and never that they may not come.

use muster_store::Executor as _;
use muster_store::testing::on_both_databases;

use super::*;
use crate::faults::Way;

/// The code with which a socket ends; messages before it are passed over.
async fn end_of(socket: &mut PlainSocket) -> Option<u16> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
            Some(Ok(_)) => {}
            _ => return None,
        }
    }
}

/// How an upgrade is refused, and when the agent is to come again.
async fn refused(address: SocketAddr, secret: &str) -> (u16, Option<String>) {
    match open_plain(address, secret).await {
        Err(Error::Http(response)) => {
            let again = response.headers().get("retry-after");
            let again = again.map(|value| value.to_str().unwrap().to_owned());
            (response.status().as_u16(), again)
        }
        other => panic!("{:?}", other.map(drop)),
    }
}

#[tokio::test]
async fn while_the_database_is_away_agents_are_told_to_come_again_on_both_carriers() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let (way, through) = Way::before(&db).await;
    let folder = tempfile::tempdir().unwrap();
    let more = [
        ("database.url", through.as_str()),
        ("database.timeout", "2s"),
        ("tls.enabled", "false"),
    ];
    let server = running(folder.path(), &more).await;
    let (address, base) = (server.address, format!("http://{}", server.address));
    let link = server.setup_link.clone().unwrap();
    let site = Site::set_up(reqwest::Client::new(), base.clone(), &link).await;
    let (_, token) = token(&site).await;
    let url = format!("{base}/v1/opamp");
    let post =
        async |secret: &str, said: &AgentToServer| post_to(&site.http, &url, secret, said).await;
    let key = key_of(&post(&token, &described(7, 0)).await.1.unwrap());
    assert_eq!(post(&key, &described(7, 0)).await.0, 200);
    let mut quiet = open_plain(address, &token).await.unwrap();
    ask(&mut quiet, &described(8, 0)).await;
    let mut talks = open_plain(address, &token).await.unwrap();
    ask(&mut talks, &described(9, 0)).await;

    way.cut();
    assert_eq!(post(&key, &message(7, 1)).await.0, 200, "from memory");
    assert!(
        ask(&mut quiet, &message(8, 1))
            .await
            .error_response
            .is_none(),
        "from memory"
    );
    let raw = async |secret: &str, said: &AgentToServer| {
        let body = encode_body(said, MessageLimit::default()).unwrap();
        let request = site.http.post(&url).bearer_auth(secret).body(body);
        let answer = request
            .header("content-type", "application/x-protobuf")
            .send()
            .await
            .unwrap();
        let again = answer
            .headers()
            .get("retry-after")
            .map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), again)
    };
    let again = (503, Some("5".to_owned()));
    for (secret, uid) in [(&*token, 10), ("mst_acc_not_seen_yet", 7)] {
        assert_eq!(raw(secret, &described(uid, 0)).await, again, "{secret}");
    }
    assert_eq!(refused(address, "mst_acc_nor_this").await, again);
    // That nobody has a token is known for two seconds after all were read.
    until("it cannot be told", || async {
        raw("nobody's token", &described(7, 0)).await == again
    })
    .await;
    assert_eq!(refused(address, "nobody's token").await, again);
    // What is new of it cannot be kept.
    let mut said = described(9, 1);
    said.agent_description
        .as_mut()
        .unwrap()
        .non_identifying_attributes
        .clear();
    talks.send(frame(&said)).await.unwrap();
    assert_eq!(end_of(&mut talks).await, Some(1013), "try again");
    // Clients come again at once when a socket ends, and wait as they are told when they connect.
    assert_eq!(refused(address, &token).await, again);
    assert!(
        ask(&mut quiet, &message(8, 2))
            .await
            .error_response
            .is_none(),
        "who is there stays"
    );

    way.restore();
    until("the database is back", || async {
        site.get("/healthz").await.status == 200
    })
    .await;
    until("new agents are taken again", || async {
        raw(&token, &described(10, 0)).await.0 == 200
    })
    .await;
    until("sockets are taken again", || async {
        open_plain(address, &token).await.is_ok()
    })
    .await;
    assert_eq!(refused(address, "mst_acc_nor_this").await.0, 401);
    assert!(
        ask(&mut quiet, &message(8, 3))
            .await
            .error_response
            .is_none()
    );
    let listed = site.get("/api/muster/collectors").await.body;
    assert_eq!(listed["total"], 4, "{listed}");
    server.shut_down().await;
}

on_both_databases! {
    async fn a_database_that_is_slow_at_the_first_use_of_a_key_burns_nothing(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let more = [
            ("database.url", db.address()),
            ("database.timeout", "2s"),
            ("database.statement_timeout", "2s"),
            ("tls.enabled", "false"),
        ];
        let server = running(folder.path(), &more).await;
        let (address, base) = (server.address, format!("http://{}", server.address));
        let link = server.setup_link.clone().unwrap();
        let site = Site::set_up(reqwest::Client::new(), base.clone(), &link).await;
        let (_, token) = token(&site).await;
        let url = format!("{base}/v1/opamp");
        let key = key_of(&post_to(&site.http, &url, &token, &described(7, 0)).await.1.unwrap());
        let mut lock = db.database().begin().await.unwrap();
        if db.address().starts_with("postgres") {
            let sql = "LOCK TABLE identity_agent_keys, identity_key_holders IN ACCESS EXCLUSIVE MODE";
            lock.execute(sql, Vec::new()).await.unwrap();
        }
        assert_eq!(post_to(&site.http, &url, &key, &described(7, 0)).await.0, 503);
        assert_eq!(refused(address, &key).await, (503, Some("5".to_owned())));
        drop(lock);
        until("the key is good", || async { post_to(&site.http, &url, &key, &described(7, 0)).await.0 == 200 }).await;
        let one = site.get("/api/muster/collectors/1").await.body;
        assert_eq!((&one["key_status"], one["keys"].as_array().map(Vec::len)), (&json!("adopted"), Some(1)), "{one}");
        server.shut_down().await;
    }
}
