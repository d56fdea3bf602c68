//! Collectors, which come by real exchanges of OpAMP, against the real server.

use muster_wire_opamp::proto::{
    AgentConfigMap, AgentConfigObject, AgentDescription, AgentDisconnect, AgentToServer,
    ComponentHealth, EffectiveConfig, KeyValue, RemoteConfigStatus, RemoteConfigStatuses,
    ServerToAgent,
};
use muster_wire_opamp::{AgentCapabilities, MessageLimit, decode_body, encode_body};
use serde_json::Value;

use crate::real::Server;

mod deleting;
mod finding;
mod hosts;
mod renewing;

/// An agent that talks over plain HTTP, one message at a time.
struct Agent<'a> {
    server: &'a Server,
    uid: u8,
    name: String,
    host: String,
    capabilities: AgentCapabilities,
    secret: String,
    sequence: u64,
}

impl<'a> Agent<'a> {
    fn new(server: &'a Server, token: &str, uid: u8, name: &str, host: &str) -> Self {
        Self {
            server,
            uid,
            name: name.to_owned(),
            host: host.to_owned(),
            capabilities: AgentCapabilities::from_bits(0x1),
            secret: token.to_owned(),
            sequence: 0,
        }
    }

    fn with(mut self, capabilities: u64) -> Self {
        self.capabilities = AgentCapabilities::from_bits(self.capabilities.bits() | capabilities);
        self
    }

    fn uid(&self) -> String {
        let byte = format!("{:02x}", self.uid);
        [4, 2, 2, 2, 6].map(|bytes| byte.repeat(bytes)).join("-")
    }

    /// Everything about itself.
    fn status(&self) -> AgentToServer {
        AgentToServer {
            agent_description: Some(AgentDescription {
                identifying_attributes: vec![
                    KeyValue::text("service.name", &self.name),
                    KeyValue::text("service.version", "0.158.0"),
                    KeyValue::text("service.instance.id", format!("instance-{}", self.uid)),
                ],
                non_identifying_attributes: vec![
                    KeyValue::text("host.name", &self.host),
                    KeyValue::text("os.type", "linux"),
                ],
            }),
            health: Some(ComponentHealth {
                healthy: true,
                status: "StatusOK".to_owned(),
                ..ComponentHealth::default()
            }),
            ..AgentToServer::default()
        }
    }

    /// Sends a message; nothing when it is refused by 401.
    async fn send(&mut self, message: AgentToServer) -> Option<ServerToAgent> {
        let message = AgentToServer {
            instance_uid: vec![self.uid; 16].into(),
            sequence_num: self.sequence,
            capabilities: self.capabilities.bits(),
            ..message
        };
        self.sequence += 1;
        let answer = self
            .server
            .client()
            .post(format!("{}/v1/opamp", self.server.url()))
            .header("content-type", "application/x-protobuf")
            .header("authorization", format!("Bearer {}", self.secret))
            .body(encode_body(&message, MessageLimit::default()).unwrap())
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await.unwrap();
        if status == 401 {
            return None;
        }
        assert_eq!(status, 200, "{bytes:?}");
        Some(decode_body(bytes, MessageLimit::default()).unwrap())
    }

    async fn report(&mut self) -> Option<ServerToAgent> {
        self.send(self.status()).await
    }

    /// Takes the key that is offered, and shows it.
    async fn adopt(&mut self) {
        let answer = self.report().await.unwrap();
        self.secret = key_of(&answer).expect("an offer");
        self.sequence = 0;
        assert!(self.report().await.is_some());
    }
}

const RESTARTS: u64 = 0x400;
const TAKES_KEYS: u64 = 0x100;

/// The key in an offer.
fn key_of(answer: &ServerToAgent) -> Option<String> {
    let settings = answer.connection_settings.as_ref()?.opamp.as_ref()?;
    let headers = &settings.headers.as_ref()?.headers;
    let header = headers
        .iter()
        .find(|header| header.key == "Authorization")?;
    header.value.strip_prefix("Bearer ").map(str::to_owned)
}

async fn token(server: &Server, more: &[&str]) -> String {
    let create = ["tokens", "create", "--name", "it", "--family", "opamp"];
    let made = server.run(&[&create[..], more].concat()).await.ok();
    made.stdout.trim().to_owned()
}

async fn lines(server: &Server, arguments: &[&str]) -> Vec<Value> {
    let run = server.run(&[arguments, &["--json"]].concat()).await.ok();
    let lines = run.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Waits until so many are seen online: when they were heard is written once a second.
async fn until_online(server: &Server, number: usize) {
    for _ in 0..100 {
        if lines(server, &["collectors", "--status", "online"])
            .await
            .len()
            == number
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("not so many came online");
}

async fn look(server: &Server, name: &str) -> Value {
    let shown = server.run(&["collector", name, "--json"]).await.ok();
    serde_json::from_str(&shown.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn collectors_are_listed_filtered_and_counted() {
    let server = Server::start().await;
    server.log_in().await;
    server.run(&["teams", "create", "Edge"]).await.ok();
    let empty = server.run(&["collectors"]).await.ok();
    assert_eq!(empty.stdout.lines().count(), 1, "only the head");
    let token = token(&server, &["--team", "Edge"]).await;
    let mut restarts = Agent::new(&server, &token, 1, "otelcol", "box-1").with(RESTARTS);
    restarts.report().await.unwrap();
    let mut sick = Agent::new(&server, &token, 2, "otelcol", "box-2").with(TAKES_KEYS);
    let mut message = sick.status();
    message.health = Some(ComponentHealth {
        last_error: "cannot bind".to_owned(),
        ..ComponentHealth::default()
    });
    sick.send(message).await.unwrap();
    until_online(&server, 2).await;
    for (arguments, expected) in [
        (&["--sort", "-host_name"][..], &["box-2", "box-1"][..]),
        (&["--search", "BOX-2"], &["box-2"]),
        (&["--status", "online"], &["box-1", "box-2"]),
        (&["--status", "offline"], &[]),
        (
            &["--state", "enrolled", "--team", "edge"],
            &["box-1", "box-2"],
        ),
        (&["--team", "none"], &[]),
        (&["--unhealthy"], &["box-2"]),
        (&["--healthy"], &["box-1"]),
        (&["--key", "offered"], &["box-2"]),
        (&["--config", "failed"], &[]),
        (&["--capability", "accepts_restart_command"], &["box-1"]),
        (
            &[
                "--attribute",
                "os.type=linux",
                "--attribute",
                "host.name=box-1",
            ],
            &["box-1"],
        ),
        (&["--attribute", "service.namespace"], &[]),
        (&["--version", "0.158.0"], &["box-1", "box-2"]),
        (&["--version", "0.1"], &[]),
    ] {
        let listed = lines(&server, &[&["collectors"], arguments].concat()).await;
        let hosts = listed.iter().map(|one| one["host_name"].as_str().unwrap());
        assert_eq!(hosts.collect::<Vec<_>>(), expected, "{arguments:?}");
    }
    let table = server.run(&["collectors", "--search", "box-1"]).await.ok();
    let (head, row) = table.stdout.split_once('\n').unwrap();
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let heads = "ID NAME VERSION HOST TEAM STATUS STATE HEALTHY KEY CONFIG SEEN";
    assert_eq!(words(head).join(" "), heads);
    let row = words(row);
    let expected = "1 otelcol 0.158.0 box-1 Edge online enrolled yes none unset";
    assert_eq!(row[..10].join(" "), expected);
    let counts = server.run(&["collectors", "--summary", "--csv"]).await.ok();
    assert_eq!(
        counts.stdout,
        "state,key,collectors,online\r\nenrolled,none,1,1\r\nenrolled,offered,1,1\r\n"
    );
    let wrong = server.run(&["collectors", "--capability", "flies"]).await;
    assert_eq!(wrong.code, Some(1));
    assert!(
        wrong.stderr.contains("capability") && wrong.stderr.contains("accepts_restart_command"),
        "{}",
        wrong.stderr
    );
    for wrong in [
        &["collectors", "--healthy", "--unhealthy"][..],
        &["collectors", "--summary", "--search", "x"],
    ] {
        assert_eq!(server.run(wrong).await.code, Some(2), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_shown_with_its_health_its_keys_and_what_it_runs() {
    let server = Server::start().await;
    server.log_in().await;
    let token = token(&server, &[]).await;
    let mut agent = Agent::new(&server, &token, 7, "otelcol", "box-7").with(TAKES_KEYS | 0x6);
    let nothing = async |what: &str| {
        let run = server.run(&["collector", "box-7", what]).await;
        assert_eq!(run.code, Some(1));
        run.stderr
    };
    agent.adopt().await;
    let said = nothing("--effective-config").await;
    assert!(
        said.contains("has not said which configuration it runs"),
        "{said}"
    );
    let said = nothing("--components").await;
    assert!(said.contains("reports_available_components"), "{said}");
    let mut message = agent.status();
    let part = ComponentHealth {
        last_error: "port\u{1b}[2J is taken".to_owned(),
        status: "StatusPermanentError".to_owned(),
        ..ComponentHealth::default()
    };
    message.health = Some(ComponentHealth {
        component_health_map: [("pipeline:logs".to_owned(), part)].into(),
        ..ComponentHealth::default()
    });
    let file = AgentConfigObject {
        body: "receivers:\n  otlp: {}\n".into(),
        ..AgentConfigObject::default()
    };
    let secret = AgentConfigObject {
        body: "exporters: {otlp: {headers: {api-key: hunter2}}}\n".into(),
        ..AgentConfigObject::default()
    };
    message.effective_config = Some(EffectiveConfig {
        config_map: Some(AgentConfigMap {
            config_map: [("a.yaml".to_owned(), file), ("b.yaml".to_owned(), secret)].into(),
        }),
    });
    message.remote_config_status = Some(RemoteConfigStatus {
        last_remote_config_hash: vec![0x1f].into(),
        status: RemoteConfigStatuses::Failed.into(),
        error_message: "no such exporter".to_owned(),
    });
    agent.send(message).await.unwrap();
    let shown = server.run(&["collector", "box-7"]).await.ok().stdout;
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines_of_it: Vec<String> = shown.lines().map(words).collect();
    for expected in [
        "name otelcol",
        "key adopted",
        "remote config failed: no such exporter",
        "keys:",
        "service.instance.id instance-7",
        "accepts_opamp_connection_settings",
    ] {
        let is_there = lines_of_it.iter().any(|line| line == expected);
        assert!(is_there, "{expected:?} is not in\n{shown}");
    }
    let health = "\nhealth:\notelcol on box-7: unhealthy\n  pipeline:logs: unhealthy, StatusPermanentError: \
        port\\u{1b}[2J is taken\n";
    assert!(shown.contains(health), "{shown}");
    assert!(!shown.contains("mst_"), "no secret is shown");
    let config = ["collector", "box-7", "--effective-config"];
    let config = server.run(&config).await.ok().stdout;
    assert_eq!(
        config,
        "# file: a.yaml\nreceivers:\n  otlp: {}\n# file: b.yaml\nexporters: {otlp: {headers: {api-key: \"[MASKED]\"}}}\n"
    );
    let events = server.run(&["collector", "box-7", "--events"]).await.ok();
    let events: Vec<&str> = events.stdout.lines().collect();
    assert!(
        events[1].contains("config reported") && events[1].contains("error=no such exporter"),
        "{events:?}"
    );
    assert!(events.last().unwrap().contains("enrolled"), "{events:?}");
    let events = lines(&server, &["collector", "box-7", "--events"]).await;
    assert_eq!(events[0]["kind"], "config_reported");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_revoked_and_let_in_again_while_its_neighbour_goes_on() {
    let server = Server::start().await;
    server.log_in().await;
    let token = token(&server, &[]).await;
    let mut agent = Agent::new(&server, &token, 7, "otelcol", "box-7").with(TAKES_KEYS);
    let mut neighbour = Agent::new(&server, &token, 8, "otelcol", "box-8").with(TAKES_KEYS);
    agent.adopt().await;
    neighbour.adopt().await;
    let revoke = ["collector", "box-7", "--revoke", "stolen"];
    let revoked = server.run(&revoke).await.ok();
    let shown = look(&server, "box-7").await;
    let (id, used) = (shown["id"].clone(), &shown["enrollment_token_id"]);
    assert_eq!(
        revoked.stderr,
        format!(
            "collector {id} (otelcol on box-7) is revoked: its keys are refused from now on, and so is its uid\n  \
                let it come again: muster collector {id} --unrevoke\n  \
                whoever has its files may know the enrollment token {used}, and can enroll as a new collector by it; end that, \
                too:\n    \
                muster tokens rotate {used} --now        # the secret of its successor is printed\n    \
                muster tokens revoke {used}              # without a successor\n"
        )
    );
    assert!(agent.report().await.is_none(), "401");
    assert!(neighbour.report().await.is_some());
    let mut again = Agent::new(&server, &token, 7, "otelcol", "box-7").with(TAKES_KEYS);
    assert!(again.report().await.is_none(), "not by its uid");
    let revoked = lines(&server, &["collectors", "--state", "revoked"]).await;
    assert_eq!((revoked.len(), &revoked[0]["id"]), (1, &id));
    let event = look(&server, "box-7").await["events"][0].clone();
    assert_eq!(
        (&event["kind"], &event["details"]["reason"]),
        (&"revoked".into(), &"stolen".into())
    );

    let unrevoke = ["collector", "box-7", "--unrevoke", "--with-its-key"];
    server.run(&unrevoke).await.ok();
    assert!(agent.report().await.is_some(), "the same key");
    server.run(&revoke).await.ok();
    let unrevoked = server.run(&unrevoke[..3]).await.ok();
    assert!(
        unrevoked
            .stderr
            .contains("may come again by an enrollment token"),
        "{}",
        unrevoked.stderr
    );
    assert!(
        agent.report().await.is_none(),
        "its key is not good any more"
    );
    server.run(&revoke).await.ok();
    let promised = server.run(&unrevoke).await;
    assert_eq!(promised.code, Some(1));
    assert!(
        promised.stderr.contains("no key that could be good again"),
        "{}",
        promised.stderr
    );
    server.run(&unrevoke[..3]).await.ok();
    let twice = server.run(&unrevoke[..3]).await.ok();
    assert!(
        twice.stderr.contains("is not revoked: nothing was changed"),
        "{}",
        twice.stderr
    );
    again.sequence = 0;
    again.adopt().await;
    assert_eq!(look(&server, "box-7").await["key_status"], "adopted");
    for wrong in [
        &["collector", "box-7", "--with-its-key"][..],
        &["collector", "box-7", "--revoke", "x", "--delete"],
        &["collector", "box-7", "--revoke"],
        &["collector"],
    ] {
        assert_eq!(server.run(wrong).await.code, Some(2), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_token_of_a_revoked_collector_is_kept_out_by_ending_that() {
    let server = Server::start().await;
    server.log_in().await;
    let token = token(&server, &[]).await;
    let mut agent = Agent::new(&server, &token, 7, "otelcol", "box-7").with(TAKES_KEYS);
    agent.adopt().await;
    server
        .run(&["collector", "box-7", "--revoke", "stolen"])
        .await
        .ok();
    let mut same = Agent::new(&server, &token, 7, "otelcol", "box-7");
    assert!(same.report().await.is_none(), "not by its uid");
    let mut thief = Agent::new(&server, &token, 9, "otelcol", "box-7");
    assert!(thief.report().await.is_some(), "but by any other");
    let used = look(&server, &thief.uid()).await["enrollment_token_id"].to_string();
    let end = ["tokens", "revoke", &used, "--cut-off"];
    server.run(&end).await.ok();
    assert!(thief.report().await.is_none());
    let mut thief = Agent::new(&server, &token, 10, "otelcol", "box-7");
    assert!(thief.report().await.is_none(), "and now by none");
    let uid = "09090909-0909-0909-0909-090909090909";
    let revoked = server
        .run(&["collector", uid, "--revoke", "the same"])
        .await;
    let revoked = revoked.ok().stderr;
    assert!(
        !revoked.contains("tokens"),
        "its token has ended: {revoked}"
    );
    let made = server.run(&["keys", "create", "--name", "it"]).await.ok();
    let mut premade = Agent::new(&server, made.stdout.trim(), 11, "sdk", "box-11");
    premade.report().await.unwrap();
    let revoked = server.run(&["collector", "sdk", "--revoke", "x"]).await;
    let revoked = revoked.ok().stderr;
    assert!(!revoked.contains("tokens"), "it came by none: {revoked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_another_key_restarts_moves_and_goes() {
    let server = Server::start().await;
    server.log_in().await;
    server.run(&["teams", "create", "Edge"]).await.ok();
    let token = token(&server, &[]).await;
    let mut agent = Agent::new(&server, &token, 7, "otelcol", "box-7").with(TAKES_KEYS | RESTARTS);
    agent.adopt().await;
    let mut plain = Agent::new(&server, &token, 8, "sdk", "box-8");
    plain.report().await.unwrap();

    let restart = server.run(&["collector", "box-7", "--restart"]).await.ok();
    assert!(
        restart.stderr.contains("is told to restart"),
        "{}",
        restart.stderr
    );
    let answer = agent.report().await.unwrap();
    assert!(answer.command.is_some(), "{answer:?}");
    let cannot = server.run(&["collector", "box-8", "--restart"]).await;
    assert_eq!(cannot.code, Some(1));
    let why = "does not accept the command to restart";
    assert!(cannot.stderr.contains(why), "{}", cannot.stderr);

    let rotate = ["collector", "box-7", "--rotate-key"];
    server.run(&rotate).await.ok();
    let old = agent.secret.clone();
    agent.adopt().await;
    assert_ne!(agent.secret, old);
    let cannot = server.run(&["collector", "box-8", "--rotate-key"]).await;
    assert!(
        cannot.stderr.contains("make one for it in advance"),
        "{}",
        cannot.stderr
    );

    let moved = server
        .run(&["collector", "box-7", "--team", "edge"])
        .await
        .ok();
    assert!(
        moved.stderr.contains("to the team `edge`"),
        "{}",
        moved.stderr
    );
    assert_eq!(look(&server, "box-7").await["team_name"], "Edge");
    server
        .run(&["collector", "box-7", "--team", "none"])
        .await
        .ok();
    assert_eq!(look(&server, "box-7").await["team_id"], Value::Null);
    let waits = server.run(&["collector", "box-7", "--approve"]).await;
    assert!(
        waits.stderr.contains("does not wait for an approval"),
        "{}",
        waits.stderr
    );

    let deleted = server.run(&["collector", "box-7", "--delete"]).await.ok();
    assert!(
        deleted.stderr.starts_with("deleted collector "),
        "{}",
        deleted.stderr
    );
    assert!(agent.report().await.is_none(), "its key went with it");
    let left = lines(&server, &["collectors"]).await;
    assert_eq!((left.len(), &left[0]["host_name"]), (1, &"box-8".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_comes_back_is_approved_where_its_token_wants_that() {
    let server = Server::start().await;
    server.log_in().await;
    let token = token(&server, &["--known-agents", "approve"]).await;
    let mut agent = Agent::new(&server, &token, 7, "otelcol", "box-7").with(TAKES_KEYS);
    agent.adopt().await;
    let goodbye = AgentToServer {
        agent_disconnect: Some(AgentDisconnect::default()),
        ..AgentToServer::default()
    };
    agent.send(goodbye).await.unwrap();
    let mut restarted = Agent::new(&server, &token, 7, "otelcol", "box-7").with(TAKES_KEYS);
    let answer = restarted.report().await.unwrap();
    assert_eq!(key_of(&answer), None);
    let waiting = lines(&server, &["collectors", "--state", "waiting"]).await;
    assert_eq!(waiting[0]["instance_uid"], restarted.uid());
    let approved = server
        .run(&["collector", &restarted.uid(), "--approve"])
        .await
        .ok();
    assert!(
        approved.stderr.contains("may come back"),
        "{}",
        approved.stderr
    );
    restarted.adopt().await;
    assert_eq!(
        look(&server, &restarted.uid()).await["standing"],
        "enrolled"
    );
}
