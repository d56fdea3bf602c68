//! Replays recordings that are not part of this project: `cargo run --example replay -- FILE.jsonl...`
//!
//! The files have the form of those in `recordings/`. Each is sent to a new server with an embedded database; what does not
//! agree is printed, and the exit code tells whether anything did not.

use std::process::ExitCode;

use muster_peers_fleet::recording::Recording;
use muster_peers_fleet::replay::Replayer;
use muster_peers_fleet::scene::Scene;

#[tokio::main]
async fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("name the recordings to replay, such as fleetctl-2024.jsonl");
        return ExitCode::FAILURE;
    }
    let mut differences = 0;
    for file in files {
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("error: read {file}: {error}");
                return ExitCode::FAILURE;
            }
        };
        let name = std::path::Path::new(&file).file_stem();
        let recording = Recording::read(&name.unwrap_or_default().to_string_lossy(), &text);
        let folder = tempfile::tempdir().expect("a folder can be made");
        let database = format!("sqlite:{}", folder.path().join("muster.db").display());
        let mut replayer = Replayer::new(Scene::new(&database).await);
        replayer.scene.know_hosts(&recording);
        let outcome = replayer.replay(&recording).await;
        println!("{}", outcome.account(&recording.name));
        for difference in &outcome.differences {
            println!("{difference}");
        }
        differences += outcome.differences.len();
        replayer.scene.end().await;
    }
    println!("{differences} differences");
    if differences == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
