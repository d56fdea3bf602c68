//! Against the real server.

use std::path::Path;
use std::sync::Arc;

use muster_server::config::{Layered, Settings};
use muster_server::start::{Ambient, Running, start};
use tempfile::TempDir;

use super::{Run, finish, muster};

const EMAIL: &str = "ann@example.com";
const PASSWORD: &str = "correct horse battery 9";

pub(super) struct Server {
    folder: TempDir,
    running: Running,
    url: String,
}

impl Server {
    /// A server with one admin.
    pub(super) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more keys set.
    pub(super) async fn start_with(more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        let mut flags = vec![
            ("data_dir".to_owned(), data_dir.to_str().unwrap().to_owned()),
            ("listen".to_owned(), "127.0.0.1:0".to_owned()),
        ];
        let more = more.iter();
        flags.extend(more.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let layers = Layered::resolve(&flags, &Vec::new(), None).unwrap();
        let settings = Settings::from_layers(&layers).unwrap();
        let running = start(settings, Ambient::default()).await.unwrap();
        let url = format!("https://localhost:{}", running.address.port());
        let server = Self {
            folder,
            running,
            url,
        };
        server.set_up().await;
        server
    }

    /// Trusts the server, and nobody else.
    pub(super) fn client(&self) -> reqwest::Client {
        let authority = self.running.authority_pem.as_deref().unwrap();
        let certificate = reqwest::Certificate::from_pem(authority.as_bytes()).unwrap();
        reqwest::Client::builder()
            .tls_certs_only([certificate])
            .build()
            .unwrap()
    }

    async fn set_up(&self) {
        let link = self.running.setup_link.clone().unwrap();
        let token = link.split("token=").nth(1).unwrap();
        let body = serde_json::json!({ "token": token, "name": "Ann", "email": EMAIL, "password": PASSWORD });
        let answer = self
            .client()
            .post(format!("{}/api/muster/setup", self.url))
            .json(&body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The program, for tests that talk with it.
    pub(super) fn command(&self, arguments: &[&str]) -> std::process::Command {
        muster(self.path(), arguments)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn authority(&self) -> String {
        let path = self.path().join("data/tls/ca.pem");
        path.to_str().unwrap().to_owned()
    }

    pub(super) async fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(arguments, "").await
    }

    pub(super) async fn run_with(&self, arguments: &[&str], input: &str) -> Run {
        finish(muster(self.path(), arguments), input).await
    }

    pub(super) async fn log_in(&self) {
        let authority = self.authority();
        let arguments = [
            "login",
            &self.url,
            "--email",
            EMAIL,
            "--ca-file",
            &authority,
        ];
        self.run_with(&arguments, &format!("{PASSWORD}\n"))
            .await
            .ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_in_keeps_a_session_that_logging_out_ends() {
    let server = Server::start().await;
    let before = server.run(&["teams"]).await;
    assert_eq!(before.code, Some(1));
    assert!(
        before.stderr.contains("log in first: muster login"),
        "{}",
        before.stderr
    );

    let untrusted = server
        .run_with(&["login", &server.url, "--email", EMAIL], "x\n")
        .await;
    assert_eq!(untrusted.code, Some(1));
    assert!(
        untrusted.stderr.contains("--ca-file FILE"),
        "{}",
        untrusted.stderr
    );

    let authority = server.authority();
    let arguments = [
        "login",
        &server.url,
        "--email",
        EMAIL,
        "--ca-file",
        &authority,
    ];
    let wrong = server.run_with(&arguments, "not the password\n").await;
    assert_eq!(wrong.code, Some(1));
    assert!(
        wrong.stderr.contains("refused the login"),
        "{}",
        wrong.stderr
    );

    server.log_in().await;
    let listed = server.run(&["context", "list"]).await.ok();
    assert!(
        listed.stdout.contains(EMAIL) && listed.stdout.contains('*'),
        "{}",
        listed.stdout
    );
    assert!(!listed.stdout.contains("mst_"), "{}", listed.stdout);
    server.run(&["teams"]).await.ok();

    server.run(&["logout"]).await.ok();
    let after = server.run(&["teams"]).await;
    assert!(after.stderr.contains("has no session"), "{}", after.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn teams_users_and_tokens_are_made_listed_and_taken_away() {
    let server = Server::start().await;
    server.log_in().await;
    server
        .run(&["teams", "create", "Servers", "--description", "In racks"])
        .await
        .ok();
    let teams = server.run(&["teams", "--csv"]).await.ok();
    assert_eq!(
        teams.stdout,
        "id,name,description\r\n1,Servers,In racks\r\n"
    );

    let user = [
        "users",
        "create",
        "--email",
        "eve@example.com",
        "--role",
        "observer",
        "--team",
        "servers",
    ];
    server.run_with(&user, "another password 8!\n").await.ok();
    let users = server.run(&["users"]).await.ok();
    assert!(
        users.stdout.contains("Servers: observer"),
        "{}",
        users.stdout
    );

    let token = [
        "tokens",
        "create",
        "--name",
        "racks",
        "--team",
        "Servers",
        "--expires-in",
        "30d",
        "--max-uses",
        "5",
    ];
    let created = server.run(&token).await.ok();
    assert!(created.stdout.starts_with("mst_") && created.stdout.lines().count() == 1);
    let revealed = server.run(&["tokens", "reveal", "1"]).await.ok();
    assert_eq!(revealed.stdout, created.stdout);
    let listed = server.run(&["tokens", "list", "--json"]).await.ok();
    let token: serde_json::Value =
        serde_json::from_str(listed.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&token["name"], &token["max_uses"]),
        (&"racks".into(), &5.into())
    );
    assert!(!listed.stdout.contains(created.stdout.trim()));
    let rotate = ["tokens", "rotate", "1", "--overlap", "2d"];
    let rotated = server.run(&rotate).await.ok();
    assert!(
        rotated.stdout.starts_with("mst_enroll_"),
        "{}",
        rotated.stdout
    );
    assert!(
        rotated.stderr.contains("is good until"),
        "{}",
        rotated.stderr
    );
    let twice = server.run(&rotate).await;
    assert!(
        twice
            .stderr
            .contains("has a successor already, token 2, which can be rotated"),
        "{}",
        twice.stderr
    );
    server.run(&["tokens", "hosts", "1", "--json"]).await.ok();
    server.run(&["labels", "create", "Branch"]).await.ok();
    let bound = [
        "tokens",
        "create",
        "--name",
        "branch",
        "--label",
        "branch",
        "--network",
        "198.51.100.0/24",
        "--network",
        "2001:db8::/32",
    ];
    server.run(&bound).await.ok();
    let listed = server.run(&["tokens", "--csv"]).await.ok();
    let line = listed
        .stdout
        .lines()
        .find(|line| line.contains(",branch,"))
        .unwrap();
    assert!(
        line.contains(r#"Branch,"198.51.100.0/24, 2001:db8::/32""#),
        "{line}"
    );
    let wrong = [
        "tokens",
        "create",
        "--name",
        "x",
        "--network",
        "198.51.100.7/24",
    ];
    let refused = server.run(&wrong).await;
    assert!(
        refused.stderr.contains("write 198.51.100.0/24"),
        "{}",
        refused.stderr
    );
    server.run(&["tokens", "revoke", "3"]).await.ok();
    server.run(&["tokens", "revoke", "2"]).await.ok();
    server.run(&["tokens", "revoke", "1"]).await.ok();
    let twice = server.run(&["tokens", "revoke", "1"]).await.ok();
    assert!(
        twice.stderr.contains("was revoked already, at 20"),
        "{}",
        twice.stderr
    );
    let left = server.run(&["tokens", "--json"]).await.ok();
    assert_eq!(left.stdout, "");

    let mistyped = server.run(&["teams", "delete", "Server"]).await;
    assert_eq!(
        mistyped.stderr,
        "muster: there is no team `Server`; did you mean `Servers`?\n"
    );
    server.run(&["teams", "delete", "Servers"]).await.ok();
    server
        .run(&["users", "delete", "eve@example.com"])
        .await
        .ok();
    let audit = server.run(&["audit"]).await.ok();
    assert!(
        audit.stdout.contains("deleted_team") && audit.stdout.contains(EMAIL),
        "{}",
        audit.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_use_an_api_token_from_the_environment_until_it_is_revoked() {
    let server = Server::start().await;
    server.log_in().await;
    let created = server
        .run(&[
            "api-tokens",
            "create",
            "--name",
            "ci",
            "--expires-in",
            "90d",
        ])
        .await
        .ok();
    let token = Arc::new(created.stdout.trim().to_owned());
    let with_token = || {
        let mut command = muster(&server.path().join("elsewhere"), &["users", "--json"]);
        command
            .env("MUSTER_CLI_URL", &server.url)
            .env("MUSTER_CLI_TOKEN", token.as_str())
            .env("MUSTER_CLI_CA_FILE", server.authority());
        command
    };
    let users = finish(with_token(), "").await.ok();
    assert!(users.stdout.contains(EMAIL));
    server.run(&["api-tokens", "revoke", "1"]).await.ok();
    let refused = finish(with_token(), "").await;
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("MUSTER_CLI_TOKEN"),
        "{}",
        refused.stderr
    );
    assert!(!refused.stderr.contains(token.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_to_nobody_is_refused_with_the_servers_reason() {
    let server = Server::start().await;
    server.log_in().await;
    let asked = server.run(&["query", "--host", "nobody", "SELECT 1"]).await;
    assert_eq!(asked.code, Some(1));
    assert!(asked.stderr.contains("nobody"), "{}", asked.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_found_by_name_shown_refetched_and_deleted() {
    let server = Server::start().await;
    server.log_in().await;
    let secret = server
        .run(&["tokens", "create", "--name", "all"])
        .await
        .ok()
        .stdout;
    let enroll = serde_json::json!({
        "enroll_secret": secret.trim(), "host_identifier": "3d1219c7", "platform_type": "9",
        "host_details": { "os_version": { "platform": "debian", "name": "Debian" },
                          "system_info": { "uuid": "3d1219c7", "hostname": "web-1" } },
    });
    let answer = server
        .client()
        .post(format!("{}/api/osquery/enroll", server.url))
        .body(enroll.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);

    let listed = server.run(&["hosts", "--csv"]).await.ok().stdout;
    assert!(listed.contains("1,web-1,"), "{listed}");
    let unknown = server.run(&["host", "nobody"]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.stderr.contains("muster hosts"),
        "{}",
        unknown.stderr
    );
    server.run(&["teams", "create", "Servers"]).await.ok();
    server
        .run(&["host", "WEB-1", "--team", "Servers"])
        .await
        .ok();
    let listed = server.run(&["hosts", "--csv"]).await.ok().stdout;
    assert!(listed.contains(",Servers,"), "{listed}");
    server.run(&["host", "3d1219c7", "--refetch"]).await.ok();
    let shown = server.run(&["host", "1", "--json"]).await.ok().stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["team_id"], &shown["refetch_requested"]),
        (&serde_json::json!(1), &serde_json::json!(true))
    );
    let shown = server.run(&["host", "1"]).await.ok().stdout;
    for line in [
        "display_name",
        "web-1",
        "\nkeys:\n",
        "\nevents:\n",
        "All Hosts",
    ] {
        assert!(shown.contains(line), "{line:?} is not in {shown}");
    }
    server.run(&["host", "1", "--team", "none"]).await.ok();
    let label = ["labels", "create", "Pilot group", "--host", "web-1"];
    server.run(&label).await.ok();
    let edit = ["labels", "edit", "pilot group", "--description", "go first"];
    server.run(&edit).await.ok();
    let labels = server.run(&["labels", "--json"]).await.ok().stdout;
    assert!(labels.contains("go first"), "{labels}");
    server.run(&["host", "web-1", "--software"]).await.ok();
    let pilot = labels.lines().find(|line| line.contains("Pilot group"));
    assert!(pilot.unwrap().contains("\"hosts_count\":1"), "{labels}");
    assert_eq!(
        server.run(&["host", "web-1", "--ban", " "]).await.code,
        Some(1)
    );
    server.run(&["host", "web-1", "--ban", "stolen"]).await.ok();
    let again = server.run(&["host", "web-1", "--ban", "lost"]).await.ok();
    assert_eq!(again.stderr, "host 1 is banned already: stolen\n");
    server.run(&["host", "web-1", "--delete"]).await.ok();
    assert_eq!(server.run(&["host", "1"]).await.code, Some(1));
    let bans = server.run(&["keys", "bans", "--csv"]).await.ok().stdout;
    assert!(bans.contains("web-1"), "a ban outlives its host: {bans}");
    server.run(&["host", "1", "--unban"]).await.ok();
    let bans = server.run(&["keys", "bans", "--csv"]).await.ok().stdout;
    assert!(!bans.contains("web-1"), "{bans}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_is_renamed_and_its_agent_options_are_printed_set_and_taken_back() {
    let server = Server::start().await;
    server.log_in().await;
    server.run(&["teams", "create", "Servers"]).await.ok();
    let edit = ["teams", "edit", "servers", "--name", "Racks"];
    let renamed = server.run(&edit).await.ok();
    assert_eq!(renamed.stderr, "changed the team `Racks`\n");
    let edit = ["teams", "edit", "Racks", "--description", "In racks"];
    server.run(&edit).await.ok();
    let teams = server.run(&["teams", "--csv"]).await.ok();
    assert_eq!(teams.stdout, "id,name,description\r\n1,Racks,In racks\r\n");
    assert_eq!(server.run(&["teams", "edit", "Racks"]).await.code, Some(2));

    let set = [
        "settings",
        "set",
        "host_expiry_enabled=true",
        "host_expiry_days=60",
    ];
    let settings = server.run(&set).await.ok().stdout;
    assert!(settings.contains("\"host_expiry_days\": 60"), "{settings}");
    let own = ["teams", "expiry", "Racks", "--days", "90"];
    let rule = server.run(&own).await.ok().stdout;
    assert!(
        rule.contains("after 90 days") && rule.contains("its own rule"),
        "{rule}"
    );
    let inherit = ["teams", "expiry", "Racks", "--inherit"];
    let rule = server.run(&inherit).await.ok().stdout;
    assert!(
        rule.contains("after 60 days") && rule.contains("as for all"),
        "{rule}"
    );
    let wrong = server.run(&["settings", "set", "nonsense"]).await;
    assert!(wrong.stderr.contains("NAME=VALUE"), "{}", wrong.stderr);
    let options = ["teams", "agent-options", "Racks"];
    let inherited = server.run(&options).await.ok();
    assert!(
        inherited.stderr.contains("these are the organisation's"),
        "{}",
        inherited.stderr
    );
    // What was printed is edited and set.
    let mut wanted: serde_json::Value = serde_json::from_str(&inherited.stdout).unwrap();
    wanted["config"]["options"]["distributed_interval"] = 42.into();
    let file = server.path().join("options.json");
    std::fs::write(&file, wanted.to_string()).unwrap();
    let set = ["teams", "agent-options", "Racks", file.to_str().unwrap()];
    server.run(&set).await.ok();
    let own = server.run(&options).await.ok();
    assert_eq!(own.stderr, "");
    let shown: serde_json::Value = serde_json::from_str(&own.stdout).unwrap();
    assert_eq!(shown, wanted);
    let piped = ["teams", "agent-options", "Racks", "-"];
    server.run_with(&piped, "{\"config\": {}}").await.ok();
    assert!(!server.run(&options).await.ok().stdout.contains("42"));

    let wrong = server.run_with(&piped, "{\"confg\": {}}").await;
    assert_eq!(wrong.code, Some(1));
    assert!(
        wrong.stderr.contains("did you mean \"config\"?"),
        "{}",
        wrong.stderr
    );
    let no_json = server.run_with(&piped, "config: {}").await;
    assert!(
        no_json.stderr.contains("- is not JSON"),
        "{}",
        no_json.stderr
    );
    let nowhere = ["teams", "agent-options", "Racks", "nowhere.json"];
    let nowhere = server.run(&nowhere).await;
    assert!(
        nowhere.stderr.contains("read nowhere.json"),
        "{}",
        nowhere.stderr
    );

    server
        .run(&["teams", "agent-options", "Racks", "--inherit"])
        .await
        .ok();
    let inherited_again = server.run(&options).await.ok();
    assert_eq!(inherited_again.stdout, inherited.stdout);
}
