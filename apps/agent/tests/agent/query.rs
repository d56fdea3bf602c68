//! Questions without a server.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use crate::{PROGRAM, output, program, text};

#[test]
fn listening_ports_agree_with_ss() {
    let ours = output(&[
        "query",
        "--csv",
        "SELECT DISTINCT port, CASE protocol WHEN 6 THEN 'tcp' ELSE 'udp' END AS kind FROM listening_ports \
         WHERE protocol IN (6, 17) AND port > 0",
    ]);
    assert!(ours.status.success(), "{}", text(&ours.stderr));
    let ours: BTreeSet<(String, String)> = text(&ours.stdout)
        .lines()
        .skip(1)
        .filter_map(|line| {
            line.split_once(',')
                .map(|(port, kind)| (port.to_owned(), kind.to_owned()))
        })
        .collect();
    let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listening.local_addr().unwrap().port().to_string();
    let again = text(
        &output(&[
            "query",
            "--csv",
            "SELECT port FROM listening_ports WHERE protocol = 6",
        ])
        .stdout,
    );
    assert!(
        again.lines().any(|port| port == own),
        "a port that listens now is there"
    );
    let ss = Command::new("ss")
        .args(["-ltunH"])
        .output()
        .expect("ss is installed (Debian package iproute2)");
    let theirs: BTreeSet<(String, String)> = text(&ss.stdout)
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let port = fields.get(4)?.rsplit(':').next()?;
            Some((port.to_owned(), (*fields.first()?).to_owned()))
        })
        .collect();
    // Tests beside this one open and close ports between the two looks.
    let common = ours.intersection(&theirs).count();
    assert!(
        common > 0 && common * 10 >= theirs.len() * 5,
        "ours {ours:?}\nss {theirs:?}"
    );
}

#[test]
fn answers_are_printed_in_each_form_and_mistakes_on_one_line() {
    let sql = "SELECT 1 AS one, 'a,b' AS text";
    assert_eq!(
        text(&output(&["query", "--json", sql]).stdout),
        "[\n  {\"one\":\"1\",\"text\":\"a,b\"}\n]\n"
    );
    assert_eq!(
        text(&output(&["query", "--csv", sql]).stdout),
        "one,text\n1,\"a,b\"\n"
    );
    assert_eq!(
        text(&output(&["query", "--line", sql]).stdout),
        " one = 1\ntext = a,b\n"
    );
    for (sql, expected) in [
        ("SELECT * FROM nowhere", "no such table: nowhere"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("DELETE FROM processes", "may not be modified"),
        ("ATTACH 'x' AS x", "not allowed"),
    ] {
        let wrong = output(&["query", sql]);
        let error = text(&wrong.stderr);
        assert!(
            !wrong.status.success() && error.contains(expected),
            "{sql}: {error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_query_that_never_ends_is_given_up() {
    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let stopped = output(&["query", "--timeout", "1", endless]);
    assert!(
        text(&stopped.stderr).contains("stopped: more than 1000 ms of wall time"),
        "{}",
        text(&stopped.stderr)
    );
}

#[test]
fn the_shell_answers_what_is_piped_into_it() {
    use std::io::Write as _;
    let home = tempfile::tempdir().unwrap();
    let mut shell = program()
        .arg("shell")
        .env("HOME", home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let script = ".tables os_\n.schema os_version\n.mode csv\nSELECT 1 AS one,\n 2 AS two;\n.nonsense\n.exit\n";
    shell
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let ended = shell.wait_with_output().unwrap();
    let printed = text(&ended.stdout);
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    for expected in ["os_version", "one,two\n1,2\n", "unknown command .nonsense"] {
        assert!(printed.contains(expected), "{expected} in {printed}");
    }
}

#[test]
fn no_library_is_shared_beyond_the_c_library() {
    let linked = Command::new("ldd")
        .arg(PROGRAM)
        .output()
        .expect("ldd is installed (Debian package libc-bin)");
    let allowed = [
        "linux-vdso",
        "libc.so",
        "libm.so",
        "libgcc_s.so",
        "ld-linux",
        "libdl.so",
        "libpthread.so",
    ];
    for line in text(&linked.stdout).lines() {
        assert!(allowed.iter().any(|name| line.contains(name)), "{line}");
    }
}
