//! The program itself, as operators run it.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use muster_store::Dialect;
use muster_store::testing::TestDatabase;
use rustix::process::{Pid, Signal, kill_process};

use crate::program::{Program, command, plain};
use crate::site::{Answer, Site};

fn run(command: &mut Command) -> Output {
    command.output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn it_starts_without_arguments_greets_and_ends_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(&mut command(&folder.path().join("data")));
    let greeting = &program.greeting;
    assert!(greeting.contains("Muster 0."), "{greeting}");
    assert!(greeting.contains("/setup?token=mst_setup_"), "{greeting}");
    assert!(greeting.contains("data/tls/ca.pem"), "{greeting}");
    program.terminate();
    assert!(program.wait().success());
}

#[test]
fn the_setup_link_is_printed_again_as_the_server_gave_it_and_never_for_a_folder_that_is_not_there()
{
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let link = || run(command(&path).args(["admin", "setup-link"]));
    let refused = link();
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains("there is no data folder"), "{said}");
    assert!(!path.exists(), "a command that looks makes nothing");
    let program = Program::start(command(&path).env("MUSTER_URL_PREFIX", "/muster"));
    let again = text(&link().stdout);
    assert!(program.greeting.contains(again.trim()), "{again}");
    let elsewhere = command(&path)
        .args([
            "admin",
            "setup-link",
            "--public-url",
            "https://m.example.com",
        ])
        .output()
        .unwrap();
    let elsewhere = text(&elsewhere.stdout);
    assert!(
        elsewhere.starts_with("https://m.example.com/setup?token=mst_setup_"),
        "{elsewhere}"
    );
}

#[test]
fn the_database_is_named_by_the_short_flag_too() {
    let folder = tempfile::tempdir().unwrap();
    for flag in ["--database", "--database-url"] {
        let shown = run(command(folder.path()).args(["config", "show", flag, "postgres://u@h/d"]));
        let shown = text(&shown.stdout);
        let set = |line: &&str| line.starts_with("database.url") && line.contains("(set)");
        assert!(shown.lines().any(|line| set(&line)), "{shown}");
    }
}

#[test]
fn a_second_server_on_the_same_folder_says_who_uses_it_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let first = Program::start(&mut command(&path));
    let second = run(&mut command(&path));
    assert_eq!(second.status.code(), Some(1));
    let said = text(&second.stderr);
    let expected = format!(
        "muster-server: another muster-server uses the data folder {}; stop it, or give this one another with --data-dir",
        path.display()
    );
    assert_eq!(said.trim(), expected);
    first.terminate();
    assert!(first.wait().success(), "the first did not notice");
}

#[tokio::test]
async fn two_servers_that_start_at_once_on_an_empty_database_both_serve() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let folder = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        let data_dir = folder.path().join(name);
        std::fs::create_dir(&data_dir).unwrap();
        let key = data_dir.join("master.key");
        std::fs::write(&key, "07".repeat(32)).unwrap();
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    }
    let children = ["one", "two"]
        .map(|name| Program::spawn(&mut plain(&folder.path().join(name), db.address())));
    let programs = children.map(Program::greeted);
    let http = reqwest::Client::new();
    for program in &programs {
        let healthy = http.get(format!("{}/healthz", program.base()));
        assert_eq!(healthy.send().await.unwrap().status(), 200);
    }
    // One of them makes the first administrator; both know her.
    let site = Site::set_up(http.clone(), programs[0].base(), programs[0].setup_link()).await;
    assert_eq!(site.get("/api/muster/me").await.status, 200);
    let login =
        serde_json::json!({ "email": "ann@example.com", "password": crate::site::PASSWORD });
    let login = http
        .post(format!("{}/api/muster/login", programs[1].base()))
        .body(login.to_string());
    let login = Answer::read(login.send().await.unwrap()).await;
    assert_eq!(login.status, 200, "{login:?}");
    for program in programs {
        program.terminate();
        assert!(program.wait().success());
    }
}

#[tokio::test]
async fn a_server_with_another_master_key_is_told_to_use_that_of_the_first() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let folder = tempfile::tempdir().unwrap();
    let first = Program::start(&mut plain(&folder.path().join("one"), db.address()));
    first.terminate();
    assert!(first.wait().success());
    let refused = run(&mut plain(&folder.path().join("two"), db.address()));
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains("copy it from the first server"), "{said}");
    let again = Program::start(&mut plain(&folder.path().join("one"), db.address()));
    again.terminate();
    assert!(again.wait().success());
}

#[test]
fn migrations_are_shown_before_they_are_applied() {
    let folder = tempfile::tempdir().unwrap();
    let plan = run(command(folder.path()).args(["migrate", "--plan"]));
    let printed = text(&plan.stdout);
    assert!(
        plan.status.success()
            && printed.contains("-- identity/people\nCREATE TABLE identity_teams"),
        "{printed}"
    );
    let applied = text(&run(command(folder.path()).arg("migrate")).stdout);
    assert!(applied.contains("applied on sqlite://"), "{applied}");
    let again = text(&run(command(folder.path()).args(["migrate", "--plan"])).stdout);
    assert!(again.starts_with("0 migrations to apply"), "{again}");
}

#[test]
fn a_user_is_made_from_the_command_line_and_the_password_is_no_argument() {
    let folder = tempfile::tempdir().unwrap();
    let create = |password: &str| {
        let mut command = command(folder.path());
        command.env("MUSTER_PASSWORD", password).args([
            "admin",
            "create-user",
            "--email",
            "ann@example.com",
        ]);
        run(&mut command)
    };
    let refused = create("short");
    assert!(!refused.status.success());
    assert!(
        text(&refused.stderr).contains("at least 1 symbol"),
        "{}",
        text(&refused.stderr)
    );
    let made = create("password123#");
    assert!(made.status.success(), "{}", text(&made.stderr));
    let doubled = create("password123#");
    assert!(
        text(&doubled.stderr).contains("already exists"),
        "{}",
        text(&doubled.stderr)
    );
}

#[test]
fn a_password_is_asked_for_at_a_terminal_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut create = command(folder.path());
    create.args(["admin", "create-user", "--email", "ann@example.com"]);
    let mut piped = create
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = piped.stdin.take().unwrap();
    input.write_all(b"password123#\n").unwrap();
    drop(input);
    let made = piped.wait_with_output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert_eq!(text(&made.stderr), "");
}

#[test]
fn it_says_what_it_took_anew_on_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = command(&folder.path().join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut greeting = BufReader::new(server.stdout.take().unwrap()).lines();
    greeting.next().unwrap().unwrap();
    let process = Pid::from_child(&server);
    let told = |signal| kill_process(process, signal).unwrap();
    told(Signal::HUP);
    let log = BufReader::new(server.stderr.take().unwrap()).lines();
    let mut log = log.map(Result::unwrap);
    let said = log.find(|line| line.contains("opened the log files of hosts again"));
    assert!(said.unwrap().contains("read again"), "of the certificate");
    told(Signal::TERM);
    assert!(server.wait().unwrap().success());
}

#[test]
fn the_configuration_is_shown_with_its_origins_and_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("muster.toml"),
        "[database]\nurl = 'postgres://u:hunter2@h/d'\n",
    )
    .unwrap();
    let shown =
        text(&run(command(folder.path()).args(["config", "show", "--log-level", "debug"])).stdout);
    assert!(!shown.contains("hunter2"), "{shown}");
    let line = |name: &str| {
        shown
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default()
            .to_owned()
    };
    assert!(
        line("database.url").contains("(set)") && line("database.url").contains("muster.toml"),
        "{shown}"
    );
    assert!(
        line("log.level").contains("debug") && line("log.level").ends_with("--log-level"),
        "{shown}"
    );
    assert!(line("listen").ends_with("$MUSTER_LISTEN"), "{shown}");
    let json = run(command(folder.path()).args(["config", "show", "--json"]));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["database.url"]["value"], "(set)");
}

#[test]
fn mistakes_end_with_one_line_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |command: &mut Command| {
        let output = run(command);
        assert!(!output.status.success());
        text(&output.stderr)
    };
    let unknown = fails(command(folder.path()).env("MUSTER_LISTN", "x"));
    assert_eq!(
        unknown.trim(),
        "muster-server: environment: unknown key MUSTER_LISTN; did you mean MUSTER_LISTEN?"
    );
    let wrong = fails(command(folder.path()).args(["--database-url", "mysql://root:hunter2@db/x"]));
    assert!(
        wrong.starts_with("muster-server: --database-url: database.url:")
            && !wrong.contains("hunter2"),
        "{wrong}"
    );
    let away = fails(
        command(folder.path()).args(["--database-url", "postgres://u:hunter2@127.0.0.1:1/x"]),
    );
    assert!(
        away.contains("open the database postgres://127.0.0.1:1/x") && !away.contains("hunter2"),
        "{away}"
    );
    let flag = fails(command(folder.path()).arg("--lisen"));
    assert!(flag.contains("--listen"), "{flag}");
}

#[test]
fn the_api_document_and_the_reference_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    let document = run(command(folder.path()).arg("openapi"));
    let document: serde_json::Value = serde_json::from_slice(&document.stdout).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let reference = text(&run(command(folder.path()).args(["config", "reference"])).stdout);
    assert!(
        reference.contains("| `data_dir` | `--data-dir` | `MUSTER_DATA_DIR` |"),
        "{reference}"
    );
}
