//! The program itself, as operators run it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_muster-server");

fn command(data_dir: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MUSTER_")) {
        command.env_remove(name);
    }
    command
        .env("MUSTER_DATA_DIR", data_dir)
        .env("MUSTER_LISTEN", "127.0.0.1:0");
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[expect(clippy::zombie_processes, reason = "the caller ends and awaits it")]
/// Starts serving; gives the process and what it printed.
fn serve(command: &mut Command) -> (Child, String) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut greeting = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    loop {
        let mut line = String::new();
        assert!(
            lines.read_line(&mut line).unwrap() > 0,
            "it ended: {greeting}"
        );
        greeting.push_str(&line);
        if line.contains("first admin") {
            return (child, greeting);
        }
    }
}

fn wait(child: &mut Child) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "it does not end");
        std::thread::yield_now();
    }
}

#[test]
fn it_starts_without_arguments_greets_and_ends_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, greeting) = serve(&mut command(&folder.path().join("data")));
    assert!(greeting.contains("Muster 0."), "{greeting}");
    assert!(greeting.contains("/setup?token=mst_setup_"), "{greeting}");
    assert!(greeting.contains("data/tls/ca.pem"), "{greeting}");
    Command::new("kill")
        .arg(child.id().to_string())
        .status()
        .unwrap();
    assert!(wait(&mut child).success());
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
