//! Passwords, second factors, sessions and users, against the real server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Command;

use super::Run;
use super::real::Server;

/// What an authenticator app with that secret shows now.
fn code(secret: &str) -> String {
    let output = Command::new("oathtool")
        .args(["--totp", "--base32", secret])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Logs in as somebody, into a context of its own.
async fn log_in(server: &Server, context: &str, email: &str, input: &str) -> Run {
    let authority = server.authority();
    let arguments = [
        "login",
        server.url(),
        "--context",
        context,
        "--email",
        email,
        "--ca-file",
        &authority,
    ];
    server.run_with(&arguments, input).await
}

/// Sets a second factor up as a person with an app does: types the password, reads the secret, types a code. Gives the
/// recovery codes.
async fn enable(mut command: Command) -> Vec<String> {
    let set_up = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"bos first password 1\n").unwrap();
        let mut shown = BufReader::new(child.stderr.take().unwrap()).lines();
        let secret = shown.by_ref().map(Result::unwrap).find_map(|line| {
            let (_, secret) = line.split_once("type its secret: ")?;
            Some(secret.trim().to_owned())
        });
        let uri = shown.next().unwrap().unwrap();
        assert!(uri.starts_with("otpauth://totp/Muster"), "{uri}");
        writeln!(input, "{}", code(&secret.unwrap())).unwrap();
        let rest: Vec<String> = shown.map(Result::unwrap).collect();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{rest:?}");
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    });
    set_up.await.unwrap()
}

/// As the administrator, whichever context is in use.
async fn admin(server: &Server, arguments: &[&str], input: &str) -> Run {
    let context = server.url().trim_start_matches("https://");
    let arguments = [arguments, &["--context", context]].concat();
    server.run_with(&arguments, input).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_forgot_a_password_gets_one_and_has_to_choose_another() {
    let server = Server::start().await;
    server.log_in().await;
    let create = [
        "users",
        "create",
        "--email",
        "bo@example.com",
        "--role",
        "observer",
    ];
    admin(&server, &create, "bos first password 1\n").await.ok();
    log_in(&server, "bo", "bo@example.com", "bos first password 1\n")
        .await
        .ok();
    let own = admin(&server, &["users", "reset-password", "ann@example.com"], "").await;
    assert!(own.stderr.contains("muster password"), "{}", own.stderr);
    let reset = admin(&server, &["users", "reset-password", "bo@example.com"], "")
        .await
        .ok();
    let temporary = reset.stdout.trim();
    let ended = server.run(&["teams", "--context", "bo"]).await;
    assert_eq!(ended.code, Some(1), "the session ended");
    let weak = log_in(
        &server,
        "bo",
        "bo@example.com",
        &format!("{temporary}\nweak\n"),
    )
    .await;
    assert_eq!(weak.code, Some(1));
    assert!(weak.stderr.contains("at least 1 number"), "{}", weak.stderr);
    let input = format!("{temporary}\nbos second password 2\n");
    log_in(&server, "bo", "bo@example.com", &input).await.ok();
    server.run(&["labels", "--context", "bo"]).await.ok();
    let input = "bos second password 2\nbos third password 3\n";
    server
        .run_with(&["password", "--context", "bo"], input)
        .await
        .ok();
    log_in(&server, "bo", "bo@example.com", "bos third password 3\n")
        .await
        .ok();

    let edit = [
        "users",
        "edit",
        "bo@example.com",
        "--role",
        "maintainer",
        "--name",
        "Bo",
    ];
    admin(&server, &edit, "").await.ok();
    let listed = admin(&server, &["users", "--json"], "").await.ok().stdout;
    let bo = listed
        .lines()
        .find(|line| line.contains("bo@example.com"))
        .unwrap();
    assert!(
        bo.contains("\"maintainer\"") && bo.contains("\"Bo\""),
        "{bo}"
    );
    admin(
        &server,
        &["users", "edit", "bo@example.com", "--disable"],
        "",
    )
    .await
    .ok();
    let refused = log_in(&server, "bo", "bo@example.com", "bos third password 3\n").await;
    assert_eq!(refused.code, Some(1));
    let audit = admin(&server, &["audit", "--action", "failed_login"], "")
        .await
        .ok()
        .stdout;
    assert!(
        audit.contains("disabled"),
        "the reason's class is for admins: {audit}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_is_set_up_used_and_taken_away() {
    let server = Server::start().await;
    server.log_in().await;
    let create = [
        "users",
        "create",
        "--email",
        "bo@example.com",
        "--role",
        "observer",
    ];
    admin(&server, &create, "bos first password 1\n").await.ok();
    log_in(&server, "bo", "bo@example.com", "bos first password 1\n")
        .await
        .ok();
    let none = server.run(&["totp", "--context", "bo"]).await.ok();
    assert!(
        none.stdout.contains("muster totp enable"),
        "{}",
        none.stdout
    );

    let recovery = enable(server.command(&["totp", "enable", "--context", "bo"])).await;
    assert_eq!(recovery.len(), 10);

    let refused = log_in(
        &server,
        "bo",
        "bo@example.com",
        "bos first password 1\n000000\n",
    )
    .await;
    assert!(
        refused.stderr.contains("the code is wrong"),
        "{}",
        refused.stderr
    );
    let input = format!("bos first password 1\n{}\n", recovery[0]);
    log_in(&server, "bo", "bo@example.com", &input).await.ok();
    let state = server.run(&["totp", "--context", "bo"]).await.ok().stdout;
    assert!(state.contains("9 recovery codes are left"), "{state}");
    let input = format!("bos first password 1\n{}\n", recovery[1]);
    let renewed = server
        .run_with(&["totp", "recovery-codes", "--context", "bo"], &input)
        .await
        .ok();
    assert_eq!(
        renewed.stdout.lines().count(),
        10,
        "only the codes go there"
    );

    admin(&server, &["users", "reset-totp", "bo@example.com"], "")
        .await
        .ok();
    log_in(&server, "bo", "bo@example.com", "bos first password 1\n")
        .await
        .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_and_ended() {
    let server = Server::start().await;
    server.log_in().await;
    let create = [
        "users",
        "create",
        "--email",
        "bo@example.com",
        "--role",
        "observer",
    ];
    admin(&server, &create, "bos first password 1\n").await.ok();
    for context in ["bo", "bo2"] {
        log_in(&server, context, "bo@example.com", "bos first password 1\n")
            .await
            .ok();
    }
    let listed = server
        .run(&["sessions", "--json", "--context", "bo"])
        .await
        .ok()
        .stdout;
    let sessions: Vec<serde_json::Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(sessions.len(), 2, "{listed}");
    let other = sessions
        .iter()
        .find(|session| session["current"] == false)
        .unwrap();
    let id = other["id"].to_string();
    server
        .run(&["sessions", "end", &id, "--context", "bo"])
        .await
        .ok();
    assert_eq!(
        server.run(&["labels", "--context", "bo2"]).await.code,
        Some(1)
    );
    server.run(&["labels", "--context", "bo"]).await.ok();
    let anns = server
        .run(&["sessions", "--user", "ann@example.com", "--context", "bo"])
        .await;
    assert_eq!(anns.code, Some(1), "an observer sees only its own");
    admin(
        &server,
        &["sessions", "end", "--all", "--user", "bo@example.com"],
        "",
    )
    .await
    .ok();
    assert_eq!(
        server.run(&["labels", "--context", "bo"]).await.code,
        Some(1)
    );
    let audit = admin(&server, &["audit", "--action", "ended_sessions"], "")
        .await
        .ok()
        .stdout;
    assert!(audit.contains("ann@example.com"), "{audit}");
}
