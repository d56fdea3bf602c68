//! Access keys of collectors and their enrollment tokens, against the real server.

use serde_json::Value;

use crate::real::Server;

fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_key_is_made_listed_and_revoked() {
    let server = Server::start().await;
    server.log_in().await;
    server.run(&["teams", "create", "Edge"]).await.ok();
    let create = [
        "keys",
        "create",
        "--family",
        "opamp",
        "--name",
        "gateway-1",
        "--team",
        "Edge",
        "--expires-in",
        "7d",
    ];
    let made = server.run(&create).await.ok();
    assert!(made.stdout.starts_with("mst_acc_") && made.stdout.lines().count() == 1);
    assert_eq!(
        made.stderr,
        "made the access key with id 1; it is not shown again\n"
    );
    let as_json = ["keys", "create", "--name", "gateway-2", "--json"];
    let second = lines(&server.run(&as_json).await.ok().stdout).remove(0);
    assert!(second["secret"].as_str().unwrap().starts_with("mst_acc_"));
    let listed = server.run(&["keys", "list", "--json"]).await.ok().stdout;
    assert!(!listed.contains(made.stdout.trim()), "{listed}");
    let listed = lines(&listed);
    assert_eq!(
        listed.iter().map(|key| &key["name"]).collect::<Vec<_>>(),
        ["gateway-2", "gateway-1"],
        "the newest first"
    );
    assert_eq!(listed[1]["team_id"], 1);
    let revoked = server.run(&["keys", "revoke", "1"]).await.ok();
    assert_eq!(revoked.stderr, "revoked the access key 1\n");
    let pending = [
        "keys",
        "list",
        "--state",
        "pending",
        "--made-in-advance",
        "--search",
        "gateway",
        "--csv",
    ];
    let pending = server.run(&pending).await.ok().stdout;
    assert!(
        pending.contains("gateway-2") && !pending.contains("gateway-1"),
        "{pending}"
    );
    let rotated = server.run(&["keys", "rotate", "2"]).await;
    assert_eq!(rotated.code, Some(1));
    let why = "access key 2 is pending: only one that is active is renewed";
    assert!(rotated.stderr.contains(why), "{}", rotated.stderr);
    let none = server
        .run(&["keys", "list", "--collector", "7", "--json"])
        .await
        .ok();
    assert_eq!(none.stdout, "");
    let gone = server.run(&["keys", "revoke", "99"]).await;
    assert!(gone.stderr.contains("access key 99"), "{}", gone.stderr);
    for wrong in [
        &["keys", "create", "--name", "x", "--family", "osquery"][..],
        &["keys", "stop"],
        &["keys", "rotate", "2", "--family", "opamp"],
    ] {
        assert_eq!(server.run(wrong).await.code, Some(2), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_keys_of_all_collectors_are_renewed_so_many_a_minute() {
    let server = Server::start().await;
    server.log_in().await;
    let rotate = ["keys", "rotate", "--family", "opamp", "--per-minute", "100"];
    let started = server.run(&rotate).await.ok();
    assert_eq!(
        started.stderr,
        "0 access keys are renewed, 100 a minute; `muster keys rotations` shows how far that is\n"
    );
    let shown = server.run(&["keys", "rotations"]).await.ok();
    let said =
        "0 access keys of collectors are to be renewed and are not yet; 0 of them are due now";
    assert!(shown.stderr.contains(said), "{}", shown.stderr);
    let stopped = server
        .run(&["keys", "stop", "--family", "opamp"])
        .await
        .ok();
    assert_eq!(stopped.stderr, "the rotation of access keys is stopped\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_collectors_says_what_is_done_with_known_agents() {
    let server = Server::start().await;
    server.log_in().await;
    let create = [
        "tokens",
        "create",
        "--name",
        "collectors",
        "--family",
        "opamp",
        "--known-agents",
        "new-identity",
        "--ephemeral",
        "--json",
    ];
    let made = lines(&server.run(&create).await.ok().stdout).remove(0);
    assert_eq!(made["token"]["known_agents"], "new_identity");
    assert_eq!(made["token"]["ephemeral"], true);
    let wrong = [&create[..6], &["--known-agents", "ask"]].concat();
    assert_eq!(server.run(&wrong).await.code, Some(2));
    let hosts = ["tokens", "create", "--name", "x", "--family", "orbit"];
    let wrong = [&hosts[..], &["--ephemeral"]].concat();
    let refused = server.run(&wrong).await;
    assert!(
        refused.stderr.contains("name opamp among the families"),
        "{}",
        refused.stderr
    );
}
