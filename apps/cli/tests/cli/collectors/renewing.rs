//! The keys of all collectors are renewed.

use std::time::Duration;

use super::{Agent, TAKES_KEYS, key_of, lines, token, until_online};
use crate::real::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_fleets_rotation_says_whose_keys_are_not_renewed_and_when_it_is_over() {
    let server = Server::start().await;
    server.log_in().await;
    let token = token(&server, &[]).await;
    let mut agent = Agent::new(&server, &token, 7, "otelcol", "box-7").with(TAKES_KEYS);
    agent.adopt().await;
    let make = ["keys", "create", "--name", "sdk"];
    let made = server.run(&make).await.ok().stdout;
    let mut plain = Agent::new(&server, made.trim(), 8, "sdk", "box-8");
    plain.report().await.unwrap();
    until_online(&server, 2).await;
    let premade = lines(&server, &["keys", "list", "--made-in-advance"]).await;
    let premade = premade[0]["id"].to_string();
    let refused = server.run(&["keys", "rotate", &premade]).await;
    assert_eq!(refused.code, Some(1));
    let why = "cannot take a new key; make one for it in advance";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);

    let rotate = ["keys", "rotate", "--family", "opamp", "--per-minute"];
    let rotate = [&rotate[..], &["10000"]].concat();
    let stays = "  1 of them stay: their agents cannot take another; make new keys in advance for these (muster keys create)\n";
    assert_eq!(
        server.run(&rotate).await.ok().stderr,
        format!(
            "2 access keys are renewed, 10000 a minute; `muster keys rotations` shows how far that is\n{stays}"
        )
    );
    // Each server compares what it has in memory.
    for _ in 0..60 {
        if let Some(key) = key_of(&agent.report().await.unwrap()) {
            agent.secret = key;
            agent.sequence = 0;
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    agent.report().await.unwrap();
    let shown = server.run(&["keys", "rotations"]).await.ok().stderr;
    let over = format!(
        "1 access keys of collectors are to be renewed and are not yet; 1 of them are due now\n{stays}  all others are renewed\n"
    );
    assert!(shown.ends_with(&over), "{shown}");
    let line = lines(&server, &["keys", "rotations"]).await.remove(0);
    assert_eq!(
        (&line["waiting"], &line["cannot_take"], &line["away"]),
        (&1.into(), &1.into(), &0.into())
    );
}
