//! A database that does not answer for ten seconds, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use muster_store::Dialect;
use muster_store::testing::TestDatabase;
use serde_json::json;

use crate::faults::Way;
use crate::program::{Program, plain};
use crate::site::{Site, until};

/// How long it says nothing.
const SILENCE: Duration = Duration::from_secs(10);
/// How many clients want something of the database all the time.
const WRITERS: usize = 100;
/// How many hosts check in and log meanwhile.
const HOSTS: usize = 10;
/// How long a check-in may take that needs no database; of a busy machine.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much memory may come on top, in KiB.
const MORE_MEMORY: u64 = 100 * 1024;

/// The resident memory of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_says_nothing_check_ins_go_on_and_memory_stays_bounded() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let (way, through) = Way::before(&db).await;
    let folder = tempfile::tempdir().unwrap();
    let mut start = plain(folder.path(), &through);
    let program = Program::start(start.env("MUSTER_DATABASE_TIMEOUT", "2s"));
    let site = Site::set_up(reqwest::Client::new(), program.base(), program.setup_link()).await;
    let secret = site.secret("all").await;
    let mut keys = Vec::new();
    for number in 0..HOSTS {
        let key = site.enroll(&secret, &format!("host-{number}")).await;
        // What they are asked first is answered, so that nothing is due.
        let asked = site.asked(&key).await;
        let answers = asked.keys().map(|name| (name.clone(), json!([]))).collect();
        assert_eq!(site.answer(&key, answers).await.status, 200);
        keys.push(key);
    }
    let before = resident(program.id());
    let (is_over, told) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    way.is_silent.send_replace(true);
    let writers = (0..WRITERS).map(|number| {
        let (site, secret) = (site.clone(), secret.clone());
        let (is_over, told) = (Arc::clone(&is_over), Arc::clone(&told));
        tokio::spawn(async move {
            for turn in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let identifier = format!("new-{number}-{turn}");
                let enroll = json!({ "enroll_secret": secret, "host_identifier": identifier });
                let answer = site.agent("/api/osquery/enroll", &enroll).await;
                assert!(matches!(answer.status, 200 | 503), "{answer:?}");
                assert!(answer.body.get("node_invalid").is_none(), "{answer:?}");
                told.fetch_add(usize::from(answer.status == 503), Ordering::Relaxed);
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let begun = Instant::now();
    let (mut turns, mut longest) = (0, Duration::ZERO);
    while begun.elapsed() < SILENCE {
        let key = &keys[turns % HOSTS];
        let asked = Instant::now();
        site.asked(key).await;
        assert_eq!(site.log(key, &format!("line-{turns}")).await.status, 200);
        longest = longest.max(asked.elapsed());
        turns += 1;
    }
    assert!(longest < PATIENCE, "{longest:?} of {turns}");
    assert!(
        told.load(Ordering::Relaxed) > 0,
        "nobody was told to come again"
    );
    let grown = resident(program.id()).saturating_sub(before);
    assert!(grown < MORE_MEMORY, "{grown} KiB more");
    way.is_silent.send_replace(false);
    until("the database is back", async || {
        let enroll = json!({ "enroll_secret": secret, "host_identifier": "afterwards" });
        site.agent("/api/osquery/enroll", &enroll).await.status == 200
    })
    .await;
    is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    until("presence is written", async || {
        site.asked(&keys[0]).await;
        let host = site.get("/api/muster/hosts/by-identifier/host-0").await;
        host.body["status"] == "online"
    })
    .await;
    program.terminate();
    assert!(program.wait().success());
}
