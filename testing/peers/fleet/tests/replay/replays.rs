//! Recordings sent as they are.

use muster_peers_fleet::page::compared;
use muster_peers_fleet::recording;
use muster_peers_fleet::recording::Recording;
use muster_peers_fleet::replay::Replayer;
use muster_peers_fleet::scene::Scene;
use muster_store::testing::{TestDatabase, on_both_databases};

/// Replays recordings one after the other on one server.
/// Fewer exchanges than are known to be compared would mean that something was skipped.
async fn replay(db: &TestDatabase, wanted: &[&str]) {
    let recordings: Vec<Recording> = wanted.iter().map(|name| recording(name)).collect();
    let mut replayer = Replayer::new(Scene::new(db.address()).await);
    for recording in &recordings {
        replayer.scene.know_hosts(recording);
    }
    if recordings[0].name == "golden" {
        // These were made on the server that fleetctl was recorded with.
        replayer.scene.know_hosts(&recording("fleetctl-2025"));
    }
    let mut differences = Vec::new();
    for recording in &recordings {
        let exchanges = compared(&recording.name);
        let outcome = replayer.replay(recording).await;
        println!("{}", outcome.account(&recording.name));
        if outcome.exchanges != exchanges {
            let name = &recording.name;
            differences.push(format!(
                "{name}: {} exchanges were compared, not {exchanges}",
                outcome.exchanges
            ));
        }
        differences.extend(outcome.differences);
    }
    replayer.scene.end().await;
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

on_both_databases! {
    async fn orbit_of_2022_is_at_home(db: TestDatabase) {
        replay(&db, &["orbit-2022"]).await;
    }

    async fn orbit_of_2025_is_at_home(db: TestDatabase) {
        replay(&db, &["orbit-2025"]).await;
    }

    async fn the_desktop_app_of_2025_is_at_home(db: TestDatabase) {
        replay(&db, &["desktop-2025"]).await;
    }

    async fn the_simulator_of_2022_is_at_home(db: TestDatabase) {
        replay(&db, &["osquery-perf-2022"]).await;
    }

    async fn the_simulator_of_2025_is_at_home(db: TestDatabase) {
        replay(&db, &["osquery-perf-2025"]).await;
    }

    async fn fleetctl_of_2022_is_at_home(db: TestDatabase) {
        replay(&db, &["fleetctl-2022"]).await;
    }

    async fn fleetctl_of_2025_is_at_home(db: TestDatabase) {
        replay(&db, &["fleetctl-2025"]).await;
    }

    async fn every_endpoint_answers_in_the_recorded_shape(db: TestDatabase) {
        replay(&db, &["golden", "errors", "experiments"]).await;
    }
}
