//! The file destination on a real disk.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use muster_sinks::{
    Batch, FileSink, FileSinkOptions, LogKind, MAX_QUEUED_BYTES, OpenError, RESULT_FILE,
    STATUS_FILE, Sink, SinkError,
};

fn batch(lines: &[&str]) -> Batch {
    lines
        .iter()
        .map(|line| Bytes::copy_from_slice(line.as_bytes()))
        .collect()
}

fn open(folder: &Path) -> FileSink {
    FileSink::open(FileSinkOptions::new(folder)).unwrap()
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn each_kind_has_its_file_and_only_its_owner_may_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let sink = open(folder.path());
    sink.write(LogKind::Status, batch(&[r#"{"severity":0}"#]))
        .await
        .unwrap();
    sink.write(
        LogKind::Result,
        batch(&[r#"{"name":"a"}"#, r#"{"name":"b"}"#]),
    )
    .await
    .unwrap();
    sink.write(LogKind::Result, Batch::new()).await.unwrap();
    let result = folder.path().join(RESULT_FILE);
    assert_eq!(
        lines(&folder.path().join(STATUS_FILE)),
        [r#"{"severity":0}"#]
    );
    assert_eq!(lines(&result), [r#"{"name":"a"}"#, r#"{"name":"b"}"#]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            fs::metadata(&result).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}

#[tokio::test]
async fn many_batches_at_once_are_all_there_when_they_are_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let sink = Arc::new(open(folder.path()));
    let writers: Vec<_> = (0..500)
        .map(|number| {
            let sink = Arc::clone(&sink);
            tokio::spawn(async move {
                let lines = [
                    format!(r#"{{"n":{number},"part":1}}"#),
                    format!(r#"{{"n":{number},"part":2}}"#),
                ];
                sink.write(LogKind::Result, batch(&[&lines[0], &lines[1]]))
                    .await
                    .unwrap();
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let written = lines(&folder.path().join(RESULT_FILE));
    assert_eq!(written.len(), 1_000);
    assert_eq!(written.iter().collect::<BTreeSet<_>>().len(), 1_000);
    // The two lines of a batch stay together.
    for pair in written.chunks(2) {
        assert_eq!(
            pair[0].replace("\"part\":1", ""),
            pair[1].replace("\"part\":2", "")
        );
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_the_process_is_gone_and_a_torn_line_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(RESULT_FILE);
    let sink = open(folder.path());
    sink.write(LogKind::Result, batch(&["{\"kept\":1}"]))
        .await
        .unwrap();
    sink.close().await;
    drop(sink);
    // What a kill in the middle of a write leaves.
    let mut torn = fs::read(&path).unwrap();
    torn.extend_from_slice(b"{\"torn\":");
    torn.extend_from_slice(&vec![b'x'; 200_000]);
    fs::write(&path, torn).unwrap();
    let sink = open(folder.path());
    sink.write(LogKind::Result, batch(&["{\"kept\":2}"]))
        .await
        .unwrap();
    assert_eq!(lines(&path), ["{\"kept\":1}", "{\"kept\":2}"]);
}

#[tokio::test]
async fn a_file_that_holds_nothing_but_a_torn_line_is_emptied() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(RESULT_FILE), "{\"torn\"").unwrap();
    let sink = open(folder.path());
    sink.write(LogKind::Result, batch(&["{}"])).await.unwrap();
    assert_eq!(lines(&folder.path().join(RESULT_FILE)), ["{}"]);
}

#[tokio::test]
async fn full_files_are_put_aside_and_the_oldest_go() {
    let folder = tempfile::tempdir().unwrap();
    let sink = FileSink::open(FileSinkOptions {
        folder: folder.path().to_owned(),
        max_file_bytes: 25,
        kept_files: 2,
    })
    .unwrap();
    for number in 0..8 {
        sink.write(
            LogKind::Result,
            batch(&[&format!("{{\"n\":{number}}}____")]),
        )
        .await
        .unwrap();
    }
    let file = |suffix: &str| lines(&folder.path().join(format!("{RESULT_FILE}{suffix}")));
    assert_eq!(file(""), ["{\"n\":6}____", "{\"n\":7}____"]);
    assert_eq!(file(".1"), ["{\"n\":4}____", "{\"n\":5}____"]);
    assert_eq!(file(".2"), ["{\"n\":2}____", "{\"n\":3}____"]);
    assert!(!folder.path().join(format!("{RESULT_FILE}.3")).exists());
}

#[tokio::test]
async fn a_file_that_somebody_renamed_is_left_when_told_to_reopen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(RESULT_FILE);
    let sink = open(folder.path());
    sink.write(LogKind::Result, batch(&["{\"n\":1}"]))
        .await
        .unwrap();
    fs::rename(&path, folder.path().join("moved")).unwrap();
    sink.write(LogKind::Result, batch(&["{\"n\":2}"]))
        .await
        .unwrap();
    sink.reopen().await.unwrap();
    sink.write(LogKind::Result, batch(&["{\"n\":3}"]))
        .await
        .unwrap();
    assert_eq!(
        lines(&folder.path().join("moved")),
        ["{\"n\":1}", "{\"n\":2}"]
    );
    assert_eq!(lines(&path), ["{\"n\":3}"]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_an_error_and_writing_goes_on_when_there_is_room_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(RESULT_FILE);
    // The device that is always full.
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let sink = open(folder.path());
    let failed = sink
        .write(LogKind::Result, batch(&["{}"]))
        .await
        .unwrap_err();
    let SinkError::Failed { source, .. } = &failed else {
        panic!("{failed:?}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    // The other file is not touched by it.
    sink.write(LogKind::Status, batch(&["{}"])).await.unwrap();
    fs::remove_file(&path).unwrap();
    sink.write(LogKind::Result, batch(&["{\"n\":1}"]))
        .await
        .unwrap();
    assert_eq!(lines(&path), ["{\"n\":1}"]);
}

#[tokio::test]
async fn a_batch_beyond_what_may_wait_is_refused_as_busy() {
    let folder = tempfile::tempdir().unwrap();
    let sink = open(folder.path());
    let mut huge = Batch::new();
    huge.push(vec![b'x'; MAX_QUEUED_BYTES].into());
    assert!(matches!(
        sink.write(LogKind::Result, huge).await,
        Err(SinkError::Busy)
    ));
    sink.close().await;
    let closed = sink.write(LogKind::Result, batch(&["{}"])).await;
    assert!(matches!(closed, Err(SinkError::Busy)), "{closed:?}");
}

#[tokio::test]
async fn a_folder_has_one_writer_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let sink = open(folder.path());
    let second = FileSink::open(FileSinkOptions::new(folder.path()));
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    sink.close().await;
    open(folder.path());
}

#[tokio::test]
async fn closing_writes_what_was_handed_over_before() {
    let folder = tempfile::tempdir().unwrap();
    let sink = Arc::new(open(folder.path()));
    let writers: Vec<_> = (0..50)
        .map(|number| {
            let sink = Arc::clone(&sink);
            tokio::spawn(async move {
                sink.write(LogKind::Status, batch(&[&number.to_string()]))
                    .await
            })
        })
        .collect();
    tokio::task::yield_now().await;
    sink.close().await;
    let mut acknowledged = 0;
    for writer in writers {
        acknowledged += usize::from(writer.await.unwrap().is_ok());
    }
    assert_eq!(lines(&folder.path().join(STATUS_FILE)).len(), acknowledged);
}
/// Set in the process that is killed: the folder to write to.
const VICTIM: &str = "MUSTER_TEST_SINK_VICTIM";

/// Not a test of its own: the process that [`whatever_is_killed_in_the_middle_loses_nothing_it_acknowledged`] kills. It
/// prints each number that was acknowledged.
#[tokio::test]
async fn victim_of_the_test_that_kills() {
    let Ok(folder) = std::env::var(VICTIM) else {
        return;
    };
    let sink = Arc::new(FileSink::open(FileSinkOptions::new(folder)).unwrap());
    let mut writers = tokio::task::JoinSet::new();
    for number in 0_u32.. {
        while writers.len() >= 64 {
            writers.join_next().await.unwrap().unwrap();
        }
        let sink = Arc::clone(&sink);
        writers.spawn(async move {
            let filler = "x".repeat(200);
            let line = format!("{{\"n\":{number},\"filler\":\"{filler}\"}}");
            sink.write(LogKind::Result, batch(&[&line])).await.unwrap();
            // Each line whole in one call, so that the parent never reads half a number.
            let mut out = std::io::stdout();
            std::io::Write::write_all(&mut out, format!("kept {number}\n").as_bytes()).unwrap();
            std::io::Write::flush(&mut out).unwrap();
        });
    }
}

#[tokio::test]
async fn whatever_is_killed_in_the_middle_loses_nothing_it_acknowledged() {
    use std::io::BufRead as _;
    let folder = tempfile::tempdir().unwrap();
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["victim_of_the_test_that_kills", "--exact", "--nocapture"])
        .env(VICTIM, folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut kept = BTreeSet::new();
    let mut was_killed = false;
    for line in std::io::BufReader::new(victim.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        if let Some(number) = line
            .split("kept ")
            .nth(1)
            .and_then(|number| number.parse::<u64>().ok())
        {
            kept.insert(number);
        }
        if kept.len() >= 2_000 && !was_killed {
            // SIGKILL; what it printed before is still read.
            victim.kill().unwrap();
            was_killed = true;
        }
    }
    victim.wait().unwrap();
    let sink = open(folder.path());
    sink.write(LogKind::Result, batch(&["{\"n\":-1}"]))
        .await
        .unwrap();
    let written: BTreeSet<i64> = lines(&folder.path().join(RESULT_FILE))
        .iter()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["n"]
                .as_i64()
                .unwrap()
        })
        .collect();
    let lost: Vec<_> = kept
        .iter()
        .filter(|number| !written.contains(&(**number as i64)))
        .collect();
    assert!(
        kept.len() >= 2_000 && lost.is_empty(),
        "lost {lost:?} of {}",
        kept.len()
    );
}
