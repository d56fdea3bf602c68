//! What `muster-server doctor` finds.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use muster_clock::{Clock as _, ManualClock, SystemClock};
use muster_server::doctor::{Check, Report, State, examine};
use muster_server::start::Ambient;
use muster_store::testing::{TestDatabase, on_both_databases};
use muster_store::{Dialect, Executor as _};
use serde_json::Value;

use crate::program::{Program, command, plain};
use crate::settings;

fn found<'a>(report: &'a Report, name: &str) -> &'a Check {
    let mut checks = report.checks.iter();
    checks
        .find(|check| check.name == name)
        .unwrap_or_else(|| panic!("no {name} in {report:?}"))
}

/// What is no `ok`, with what to do about it.
fn wrong(report: &Report) -> Vec<(&'static str, State)> {
    let wrong = report
        .checks
        .iter()
        .filter(|check| check.state != State::Ok);
    wrong
        .map(|check| {
            assert!(check.advice.is_some(), "{check:?}");
            (check.name, check.state)
        })
        .collect()
}

/// Closes the folder of an embedded database to others, as a data folder is.
fn close(db: &TestDatabase) {
    if let Some(folder) = Path::new(db.address())
        .parent()
        .filter(|folder| folder.is_absolute())
    {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

/// A folder and a database that a server has used, with settings beyond the usual.
async fn used(data_dir: &Path, more: &[(&str, &str)]) {
    let server = crate::running(data_dir, more).await;
    server.shut_down().await;
}

/// Of a machine's own, which is not what these tests are about.
const MACHINE: [&str; 4] = [
    "open files",
    "disk of the data folder",
    "disk of the logs of hosts",
    "disk of the database",
];

on_both_databases! {
    async fn a_server_that_is_well_has_no_problem_and_says_what_it_stands_on(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        close(&db);
        let data = folder.path().join("data");
        let mut serve = plain(&data, db.address());
        serve.env("MUSTER_TRUSTED_PROXIES", "127.0.0.1");
        let server = Program::start(&mut serve);
        let mut doctor = plain(&data, db.address());
        doctor.env("MUSTER_TRUSTED_PROXIES", "127.0.0.1").args(["doctor", "--json"]);
        let output = doctor.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success(), "{report:#}");
        let checks = report["checks"].as_array().unwrap();
        let mut seen = Vec::new();
        for check in checks {
            let name = check["name"].as_str().unwrap();
            assert!(check["state"] == "ok" || MACHINE.contains(&name), "{check}");
            seen.push((name, check["found"].as_str().unwrap()));
        }
        let says = |name: &str, text: &str| {
            assert!(seen.iter().any(|(known, found)| *known == name && found.contains(text)), "{name}: {seen:?}");
        };
        says("server", "a server uses this data folder");
        says("database", db.dialect().name());
        says("schema", "up to date");
        says("servers", "1 on this database");
        says("master key", "belongs to this database");
        says("bus", if db.dialect() == Dialect::Sqlite { "local: connected" } else { "postgres: connected" });
        says("hosts", "0 hosts: 0 online");
        let mut doctor = plain(&data, db.address());
        let text = doctor.env("MUSTER_TRUSTED_PROXIES", "127.0.0.1").arg("doctor").output().unwrap();
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(text.contains("0 problems") && text.contains("  ok       master key"), "{text}");
        server.terminate();
        assert!(server.wait().success());
    }

    async fn a_wrong_master_key_and_a_schema_that_is_behind_are_told(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        close(&db);
        let more = [("database.url", db.address())];
        used(folder.path(), &more).await;
        let key = folder.path().join("master.key");
        fs::write(&key, "09".repeat(32)).unwrap();
        let report = examine(&settings(folder.path(), &more), &Ambient::default()).await;
        assert!(found(&report, "master key").found.contains("another database"), "{report:?}");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let report = examine(&settings(folder.path(), &more), &Ambient::default()).await;
        assert_eq!(found(&report, "secrets").state, State::Problem);
        assert_eq!(found(&report, "secrets").advice, Some(format!("chmod 600 {}", key.display())));
        fs::remove_file(&key).unwrap();
        let report = examine(&settings(folder.path(), &more), &Ambient::default()).await;
        assert!(found(&report, "master key").found.contains("there is no"), "{report:?}");
        assert!(!key.exists(), "looking must not make one");
        let mut database = &db.database();
        let sql = "DELETE FROM store_migrations WHERE name = 'audit_actions'";
        database.execute(sql, Vec::new()).await.unwrap();
        let report = examine(&settings(folder.path(), &more), &Ambient::default()).await;
        let schema = found(&report, "schema");
        assert!(schema.state == State::Warning && schema.found.contains("1 migrations"), "{schema:?}");
    }
}

#[tokio::test]
async fn it_is_told_when_no_collector_can_be_offered_a_key() {
    let db = TestDatabase::new(Dialect::Sqlite).await;
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("ca.pem");
    let authorities = authorities.to_str().unwrap();
    let look = async |more: &[(&str, &str)]| {
        let more = [&[("database.url", db.address())], more].concat();
        let report = examine(&settings(folder.path(), &more), &Ambient::default()).await;
        let check = found(&report, "keys of collectors");
        (check.state, check.found.clone(), check.advice.clone())
    };
    let proxy = [
        ("public_url", "https://muster.example.com"),
        ("tls.enabled", "false"),
        ("trusted_proxies", "127.0.0.1"),
    ];
    let (state, said, advice) = look(&proxy).await;
    assert_eq!(state, State::Warning);
    assert!(said.starts_with("not offered"), "{said}");
    assert!(advice.unwrap().contains("opamp.ca_file"));
    let named = [&proxy[..], &[("opamp.ca_file", authorities)]].concat();
    let (state, said, _) = look(&named).await;
    assert_eq!(state, State::Problem, "{said}");
    fs::write(authorities, "nonsense").unwrap();
    let (state, said, _) = look(&named).await;
    assert!(
        state == State::Problem && said.contains("no certificate"),
        "{said}"
    );
    let pem = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    fs::write(authorities, pem).unwrap();
    assert_eq!(look(&named).await.0, State::Ok);
    let plain = [
        ("public_url", "http://muster.example.com"),
        proxy[1],
        proxy[2],
    ];
    assert_eq!(look(&plain).await.0, State::Ok);
    assert_eq!(look(&[proxy[0]]).await.0, State::Ok, "its own authority");
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    for data in [&one, &two] {
        crate::running(data, &[]).await.shut_down().await;
    }
    let file = |data: &std::path::Path, name: &str| {
        let file = data.join("tls").join(name);
        file.display().to_string()
    };
    let (certificate, key) = (file(&one, "server.pem"), file(&one, "server.key"));
    let files = [
        ("tls.certificate", certificate.as_str()),
        ("tls.key", &key),
        ("public_url", "https://localhost:8443"),
    ];
    assert_eq!(look(&files).await.0, State::Ok);
    let (fits, other) = (file(&one, "ca.pem"), file(&two, "ca.pem"));
    let named = |path| [&files[..], &[("opamp.ca_file", path)]].concat();
    assert_eq!(look(&named(fits.as_str())).await.0, State::Ok);
    let (state, said, _) = look(&named(other.as_str())).await;
    assert_eq!(state, State::Problem);
    assert!(
        said.contains("does not verify against opamp.ca_file"),
        "{said}"
    );
}

#[tokio::test]
async fn clocks_and_certificates_are_compared() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let folder = tempfile::tempdir().unwrap();
    let more = [
        ("database.url", db.address()),
        ("public_url", "https://muster.example.com"),
    ];
    used(folder.path(), &more).await;
    let at = async |ahead: Duration, more: &[(&str, &str)]| {
        let ambient = Ambient {
            clock: Arc::new(ManualClock::new(SystemClock.now().plus(ahead))),
            ..Ambient::default()
        };
        examine(&settings(folder.path(), more), &ambient).await
    };
    let day = Duration::from_secs(86_400);
    let report = at(Duration::ZERO, &more).await;
    assert_eq!(found(&report, "clock").state, State::Ok);
    assert_eq!(found(&report, "certificate").state, State::Ok);
    assert_eq!(found(&report, "authority").state, State::Ok);
    let report = at(Duration::from_secs(60), &more).await;
    assert!(
        found(&report, "clock").found.contains("ahead of"),
        "{report:?}"
    );
    assert_eq!(found(&report, "clock").state, State::Problem);
    let report = at(380 * day, &more).await;
    assert_eq!(found(&report, "certificate").state, State::Warning);
    let report = at(400 * day, &more).await;
    assert!(
        found(&report, "certificate")
            .found
            .contains("agents refuse it"),
        "{report:?}"
    );
    let other = [more[0], ("public_url", "https://other.example.com")];
    let report = at(Duration::ZERO, &other).await;
    let certificate = found(&report, "certificate");
    assert!(
        certificate
            .found
            .contains("agents look for other.example.com"),
        "{certificate:?}"
    );
    let another = tempfile::tempdir().unwrap();
    used(another.path(), &more[1..]).await;
    for (file, authority) in [("tls/ca.pem", State::Problem), ("tls/ca.key", State::Ok)] {
        fs::copy(another.path().join(file), folder.path().join(file)).unwrap();
        let report = at(Duration::ZERO, &more).await;
        assert_eq!(found(&report, "authority").state, authority, "{file}");
    }
    let report = at(Duration::ZERO, &more).await;
    let certificate = found(&report, "certificate");
    assert_eq!(certificate.state, State::Problem);
    assert!(
        certificate.found.contains("another authority than ca.pem"),
        "{certificate:?}"
    );
    used(folder.path(), &more).await;
    let report = at(Duration::ZERO, &more).await;
    assert_eq!(found(&report, "certificate").state, State::Ok);
    fs::write(folder.path().join("tls/server.key"), "nonsense").unwrap();
    let report = at(Duration::ZERO, &more).await;
    assert_eq!(found(&report, "certificate").state, State::Problem);
}

#[tokio::test]
async fn what_is_away_is_told_with_what_to_do_and_ends_with_1() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let away = |name: &str, url: &str| {
        let mut command = command(&data);
        command.env(name, url).arg("doctor");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stdout).unwrap()
    };
    let said = away("MUSTER_DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/x");
    assert!(
        said.contains("PROBLEM  database") && said.contains("pg_hba.conf"),
        "{said}"
    );
    assert!(
        said.contains("PROBLEM  data folder") && !said.contains("hunter2"),
        "{said}"
    );
    assert!(!data.exists(), "looking must not make anything");
    let db = TestDatabase::new(Dialect::Postgres).await;
    let more = [
        ("database.url", db.address()),
        ("bus.url", "redis://127.0.0.1:1"),
    ];
    used(&data, &more).await;
    fs::write(data.join("restore-unfinished"), "").unwrap();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let more = [more[0], more[1], ("listen", address.as_str())];
    let report = examine(&settings(&data, &more), &Ambient::default()).await;
    let mut wrong = wrong(&report);
    wrong.retain(|(name, _)| !MACHINE.contains(name));
    let expected = ["data folder", "server", "bus"].map(|name| (name, State::Problem));
    assert_eq!(wrong, expected);
}

#[test]
fn a_limit_of_open_files_that_is_too_low_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let program = command(folder.path());
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 100; exec \"$0\" doctor --data-dir \"$1\""]);
    shell.arg(program.get_program()).arg(folder.path());
    let said = String::from_utf8(shell.output().unwrap().stdout).unwrap();
    assert!(
        said.contains("PROBLEM  open files") && said.contains("LimitNOFILE="),
        "{said}"
    );
    assert!(said.contains("this shell: at most 100"), "{said}");
    assert!(
        said.contains("\n1 problem, ") || said.contains(" problems, "),
        "{said}"
    );
}

#[test]
fn the_limit_of_open_files_is_that_of_the_server_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut serve = limited(&command(&data), 3000);
    let server = Program::start(&mut serve);
    let mut doctor = limited(&command(&data), 100);
    let said = String::from_utf8(doctor.arg("doctor").output().unwrap().stdout).unwrap();
    assert!(said.contains("the running server: at most 3000"), "{said}");
    assert!(!said.contains("PROBLEM  open files"), "{said}");
    server.terminate();
    assert!(server.wait().success());
    let mut doctor = limited(&command(&data), 100);
    let said = String::from_utf8(doctor.arg("doctor").output().unwrap().stdout).unwrap();
    assert!(said.contains("this shell: at most 100"), "{said}");
}

/// The same command, with a limit of open files.
fn limited(program: &Command, files: u32) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {files}; exec \"$@\""), "sh"]);
    shell.arg(program.get_program());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}
