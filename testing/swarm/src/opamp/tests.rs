//! Some agents against the real server, in this process.

use std::time::Duration;

use muster_server::config::{Layered, Settings};
use muster_server::start::{Ambient, start};

use super::{Carrier, Plan, measure};
use crate::host::Target;
use crate::server::{Operator, cost_of};

async fn fifty_agents(carrier: Carrier) {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = [
        ("data_dir", folder.path().to_str().expect("a text")),
        ("listen", "127.0.0.1:0"),
    ];
    let flags = flags.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let layers = Layered::resolve(&flags, &Vec::new(), None).expect("settings");
    let settings = Settings::from_layers(&layers).expect("settings");
    let server = start(settings, Ambient::default())
        .await
        .expect("it starts");
    let authority = server.authority_pem.clone().expect("its own authority");
    let link = server.setup_link.clone().expect("a link");
    let operator = Operator::set_up(server.address, &authority, &link)
        .await
        .expect("an administrator");
    let token = operator.collector_token().await.expect("a token");
    let target = Target::new(server.address, &authority, token).expect("a target");
    let plan = Plan {
        agents: 50,
        seed: 1,
        carrier,
        start_period: Duration::ZERO,
        heartbeat: Some(Duration::from_secs(1)),
        settle: Duration::from_secs(1),
        steady: Duration::from_secs(3),
        beats: 3.0,
        changes_percent: 10,
        rolls_out: true,
    };
    let report = measure(&plan, target, &operator, || {
        cost_of(std::process::id(), &[])
    })
    .await
    .expect("it can be measured");
    assert_eq!(report.fault(), None, "{}", report.text());
    let json = report.json();
    assert_eq!(json["own_keys"], 50);
    assert!(json["until_all_own_keys_seconds"].is_f64(), "{json}");
    assert!(
        json["steady"]["server_cpu_seconds"].as_f64() > Some(0.0),
        "{json}"
    );
    assert!(
        json["steady"]["changed_health"].as_u64() > Some(0),
        "{json}"
    );
    assert!(
        json["rollout"]["until_all_in_sync_seconds"].as_f64() > Some(5.0),
        "{json}"
    );
    let listed = operator.get("/collectors?key_status=adopted&limit=1");
    assert_eq!(listed.await.expect("a list")["total"], 50);
    server.shut_down().await;
}

#[tokio::test]
async fn agents_that_come_at_once_get_keys_of_their_own_by_either_carrier_and_are_asked_for_nothing()
 {
    // One after the other: what servers of one process count, they count together.
    for carrier in [Carrier::Websocket, Carrier::Http] {
        fifty_agents(carrier).await;
    }
}
