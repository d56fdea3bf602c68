//! Against servers of earlier releases.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use muster_skew::{Release, Server};

use super::{Run, finish, muster};

const EMAIL: &str = "ann@example.com";
const PASSWORD: &str = "correct horse battery 9";
/// How long an agent may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is killed when the value goes.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_earlier_releases_are_used_and_say_what_they_do_not_have() {
    for release in Release::all() {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(&release, &folder.path().join("data"));
        let authority = server.authority();
        let trusted = reqwest::Certificate::from_pem(&std::fs::read(&authority).unwrap()).unwrap();
        let http = reqwest::Client::builder().tls_certs_only([trusted]);
        let body = serde_json::json!({ "token": server.setup_token(), "name": "Ann", "email": EMAIL, "password": PASSWORD });
        let setup = http.build().unwrap();
        let setup = setup.post(format!("{}/api/muster/setup", server.url()));
        assert_eq!(setup.json(&body).send().await.unwrap().status(), 200);

        let run = async |arguments: &[&str]| -> Run {
            let mut command = muster(folder.path(), arguments);
            command.env("MUSTER_CLI_CA_FILE", &authority);
            finish(command, &format!("{PASSWORD}\n")).await
        };
        run(&["login", &server.url(), "--email", EMAIL]).await.ok();
        run(&["teams", "create", "Servers"]).await.ok();
        let create = ["tokens", "create", "--name", "all", "--team", "Servers"];
        let secret = run(&create).await.ok().stdout;
        let revealed = run(&["tokens", "reveal", "1"]).await.ok();
        assert_eq!(revealed.stdout, secret);
        let file = folder.path().join("token");
        std::fs::write(&file, &secret).unwrap();
        let mut agent = release.command("muster-agent");
        let agent = agent
            .args(["run", "--server", &server.url()])
            .arg("--enrollment-token-file")
            .arg(&file)
            .arg("--ca-file")
            .arg(&authority)
            .arg("--data-dir")
            .arg(folder.path().join("agent"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let _agent = Process(agent.spawn().unwrap());
        let begun = Instant::now();
        while !run(&["hosts", "--csv"])
            .await
            .ok()
            .stdout
            .contains("Servers")
        {
            assert!(begun.elapsed() < PATIENCE, "the agent never came");
        }
        let asked = ["query", "--all", "--csv", "SELECT 6 * 7 AS answer"];
        let answered = run(&asked).await.ok().stdout;
        assert!(answered.contains("42"), "{answered}");
        for arguments in [
            &["host", "1"][..],
            &["tokens"],
            &["teams"],
            &["users"],
            &["labels"],
            &["campaigns"],
            &["audit"],
            &["api-tokens"],
        ] {
            run(arguments).await.ok();
        }
        let dark = run(&["skew"]).await;
        if release.is_before("0.3.0") {
            assert_eq!(dark.code, Some(1), "{}", dark.stdout);
            assert!(dark.stderr.contains("older release"), "{}", dark.stderr);
        } else {
            dark.ok();
        }
        let is_first = release.is_before("0.2.0");
        for arguments in [
            &["servers"][..],
            &["keys", "refused"],
            &["tokens", "hosts", "1"],
            &["tokens", "rotate", "1"],
        ] {
            let ran = run(arguments).await;
            if !is_first {
                ran.ok();
                continue;
            }
            assert_eq!(ran.code, Some(1), "{arguments:?}: {}", ran.stdout);
            let said = &ran.stderr;
            assert!(said.contains("older release"), "{arguments:?}: {said}");
        }
        let has_access_keys = !release.is_before("0.4.0");
        for arguments in [
            &["keys", "list"][..],
            &["keys", "create", "--name", "gateway"],
            &["keys", "rotate", "--family", "opamp"],
        ] {
            let ran = run(arguments).await;
            if has_access_keys {
                ran.ok();
                continue;
            }
            assert_eq!(ran.code, Some(1), "{arguments:?}: {}", ran.stdout);
            let said = &ran.stderr;
            assert!(said.contains("older release"), "{arguments:?}: {said}");
        }
        if !is_first {
            run(&["keys", "rotations"]).await.ok();
        }
        for more in [&["--known-agents", "deny"][..], &["--ephemeral"]] {
            let create = ["tokens", "create", "--name", "unbound", "--family", "opamp"];
            let refused = run(&[&create[..], more].concat()).await;
            if has_access_keys {
                refused.ok();
                continue;
            }
            assert_eq!((refused.code, &*refused.stdout), (Some(1), ""));
            let said = &refused.stderr;
            assert!(said.contains("is revoked; update the server"), "{said}");
        }
        let left = run(&["tokens", "--json"]).await.ok().stdout;
        assert_eq!(left.contains("unbound"), has_access_keys, "{left}");
        // What an older server would leave out is not left out silently: such a token would admit from everywhere.
        run(&["labels", "create", "Branch"]).await.ok();
        for more in [["--network", "198.51.100.0/24"], ["--label", "Branch"]] {
            let bound = [&["tokens", "create", "--name", "bound"][..], &more].concat();
            let refused = run(&bound).await;
            if !is_first {
                refused.ok();
                continue;
            }
            assert_eq!((refused.code, &*refused.stdout), (Some(1), ""));
            let said = &refused.stderr;
            assert!(said.contains("is revoked; update the server"), "{said}");
        }
        let left = run(&["tokens", "--json"]).await.ok().stdout;
        assert_eq!(left.contains("bound"), !is_first, "{left}");
    }
}
