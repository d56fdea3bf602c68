//! A disk that is full, for the database and for logs.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::program::{Program, command};
use crate::site::{Site, until};

/// How large the disk is, and the file on it that makes room when it goes, in MiB.
const DISK: &str = "48";
const BALLAST: &str = "16";
/// How much a host logs at once, in bytes.
const LINE: usize = 512 * 1024;

/// The program in a namespace of its own, whose data folder is a small disk. Root may do that, and so may everybody else
/// where users may have namespaces.
fn on_a_small_disk(folder: &std::path::Path) -> Command {
    let inner = command(folder);
    let program = inner.get_program().to_owned();
    let mut outer = Command::new("unshare");
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if !rustix::process::getuid().is_root() {
        outer.args(["--user", "--map-root-user"]);
    }
    let script = format!(
        "mount -t tmpfs -o size={DISK}m,mode=0700 tmpfs \"$0\" && fallocate -l {BALLAST}M \"$0/ballast\" && exec \"$1\""
    );
    outer.args(["--mount", "sh", "-c", &script]);
    outer
        .arg(folder)
        .arg(program)
        .env("MUSTER_TLS_ENABLED", "false");
    outer
}

/// While the disk is full, logs stay at their hosts and changes are told to come again; nobody is refused, reading goes on,
/// and when there is room, so does everything else.
#[tokio::test]
async fn a_full_disk_refuses_nobody_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(&mut on_a_small_disk(folder.path()));
    // Only the program sees its disk.
    let disk = format!("/proc/{}/root{}", program.id(), folder.path().display());
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    let site = Site::set_up(http, program.base(), program.setup_link()).await;
    let secret = site.secret("all").await;
    let key = site.enroll(&secret, "a").await;
    let mut kept = 0;
    let log = |number: usize| {
        let line =
            json!({ "name": format!("line-{number}"), "columns": { "x": "y".repeat(LINE) } });
        json!({ "node_key": key, "log_type": "result", "data": [line] })
    };
    loop {
        let answer = site.agent("/api/osquery/log", &log(kept)).await;
        assert!(answer.body.get("node_invalid").is_none(), "{answer:?}");
        if answer.status != 200 {
            // osquery throws logs away for no client error but 401.
            assert_eq!(answer.status, 413, "{answer:?}");
            break;
        }
        kept += 1;
        assert!(kept < 200, "the disk is never full");
    }
    // Changes, until the database has no room either.
    let mut labels = 0;
    let told = loop {
        let label = json!({ "name": format!("label {labels}"), "description": "z".repeat(200), "hosts": [] });
        let answer = site.post("/api/muster/labels", &label).await;
        if answer.status != 201 {
            break answer;
        }
        labels += 1;
        assert!(labels < 100_000, "the disk is never full");
    };
    assert_eq!(
        (told.status, told.header("retry-after")),
        (503, Some("5")),
        "{told:?}"
    );
    let enroll = json!({ "enroll_secret": secret, "host_identifier": "b" });
    let enrolled = site.agent("/api/osquery/enroll", &enroll).await;
    assert_eq!(enrolled.status, 503, "{enrolled:?}");
    assert!(!site.asked(&key).await.is_empty(), "check-ins go on");
    assert_eq!(
        site.get("/api/muster/me").await.status,
        200,
        "reading goes on"
    );
    assert_eq!(site.get("/api/muster/hosts").await.body["total"], 1);

    std::fs::remove_file(format!("{disk}/ballast")).unwrap();
    until("changes are taken again", async || {
        site.agent("/api/osquery/enroll", &enroll).await.status == 200
    })
    .await;
    until("logs are taken again", async || {
        site.agent("/api/osquery/log", &log(kept)).await.status == 200
    })
    .await;
    let text = std::fs::read_to_string(format!("{disk}/logs/osquery_result.log")).unwrap();
    let mut names = text.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("every line is whole");
        line["name"].as_str().unwrap().to_owned()
    });
    for number in 0..=kept {
        assert_eq!(names.next(), Some(format!("line-{number}")));
    }
    let listed = site.get("/api/muster/labels?limit=1000").await;
    let listed = listed.body["items"].as_array().unwrap().iter();
    let own = listed.filter(|label| label["name"].as_str().unwrap().starts_with("label "));
    assert_eq!(own.count(), labels);
    program.terminate();
    assert!(program.wait().success());
}
