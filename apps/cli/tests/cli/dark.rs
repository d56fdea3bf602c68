//! Features that are dark on hosts.

use serde_json::{Value, json};

use super::real::Server;

/// Enrolls hosts by orbit's API, which tell what they can do, and one by osquery's.
async fn fleet(server: &Server) {
    let secret = server
        .run(&["tokens", "create", "--name", "all"])
        .await
        .ok()
        .stdout;
    let secret = secret.trim();
    for (name, user_agent, capabilities) in [
        ("laptop-1", "muster-agent/0.1.0", Some("muster_notify")),
        ("laptop-2", "muster-agent/0.1.0", None),
        (
            "orbit-2025",
            "Go-http-client/2.0",
            Some("escrow_buddy,setup_experience"),
        ),
        ("orbit-2022", "Go-http-client/1.1", None),
    ] {
        let body = json!({ "enroll_secret": secret, "hardware_uuid": name, "hostname": name });
        let mut request = server
            .client()
            .post(format!("{}/api/fleet/orbit/enroll", server.url()))
            .header("user-agent", user_agent)
            .body(body.to_string());
        if let Some(capabilities) = capabilities {
            request = request.header("x-fleet-capabilities", capabilities);
        }
        assert_eq!(request.send().await.unwrap().status(), 200, "{name}");
    }
    let body = json!({
        "enroll_secret": secret, "host_identifier": "web-1", "platform_type": "9",
        "host_details": { "osquery_info": { "version": "5.10.2" }, "system_info": { "uuid": "web-1", "hostname": "web-1" } },
    });
    let request = server
        .client()
        .post(format!("{}/api/osquery/enroll", server.url()));
    let enrolled = request.body(body.to_string()).send().await.unwrap();
    assert_eq!(enrolled.status(), 200);
}

/// With one time in place of all.
fn without_times(text: &str) -> String {
    let pattern = "dddd-dd-ddTdd:dd:ddZ";
    let is_time = |text: &str| {
        text.len() >= pattern.len()
            && text.bytes().zip(pattern.bytes()).all(|(found, wanted)| {
                if wanted == b'd' {
                    found.is_ascii_digit()
                } else {
                    found == wanted
                }
            })
    };
    let (mut rest, mut out) = (text, String::new());
    while let Some(character) = rest.chars().next() {
        if is_time(rest) {
            out.push_str("2026-11-23T10:00:00Z");
            rest = &rest[pattern.len()..];
        } else {
            out.push(character);
            rest = &rest[character.len_utf8()..];
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn dark_features_are_counted_and_listed_with_what_to_update() {
    let server = Server::start().await;
    server.log_in().await;
    let nothing = server.run(&["skew"]).await.ok().stdout;
    assert!(
        !nothing.contains("HOST"),
        "there are no hosts yet: {nothing}"
    );
    fleet(&server).await;
    let shown = server.run(&["skew"]).await.ok().stdout;
    insta::assert_snapshot!("skew", without_times(&shown));
    let narrowed = server.run(&["skew", "--process", "orbit", "--csv"]).await;
    let narrowed = narrowed.ok().stdout.replace('\r', "");
    insta::assert_snapshot!("skew_csv", without_times(&narrowed));
    let host = server
        .run(&["skew", "--host", "ORBIT-2025", "--json"])
        .await;
    let host: Value = serde_json::from_str(&host.ok().stdout).unwrap();
    assert_eq!(host["display_name"], "orbit-2025");
    assert_eq!(host["dark_features"][0]["capability"], "muster_notify");
    let summary = [
        "skew",
        "--summary",
        "--json",
        "--capability",
        "muster_notify",
    ];
    let summary = server.run(&summary).await.ok().stdout;
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(
        (&summary["hosts_with"], &summary["hosts_without"]),
        (&json!(1), &json!(4))
    );
    server.run(&["teams", "create", "Branch"]).await.ok();
    let moved = ["host", "orbit-2022", "--team", "Branch"];
    server.run(&moved).await.ok();
    let of_team = server.run(&["skew", "--team", "branch", "--csv"]).await;
    let of_team = of_team.ok().stdout;
    assert!(of_team.contains("orbit-2022") && !of_team.contains("orbit-2025"));
    for (wrong, right) in [
        (["--capability", "escrow_buddy"], "muster_notify"),
        (["--process", "osqueryd"], "osquery"),
        (["--host", "nobody"], "muster hosts"),
        (["--team", "nobody"], "no team"),
    ] {
        let refused = server.run(&[&["skew"][..], &wrong].concat()).await;
        assert_eq!(refused.code, Some(1));
        assert!(refused.stderr.contains(right), "{}", refused.stderr);
    }

    let shown = server.run(&["host", "orbit-2025"]).await.ok().stdout;
    let (_, part) = shown.split_once("\ndark features:\n").unwrap();
    let part = part.split("\n\n").next().unwrap();
    insta::assert_snapshot!("host_part", without_times(part));
    let shown = server.run(&["host", "laptop-1"]).await.ok().stdout;
    assert!(!shown.contains("dark"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_capability_is_named_as_the_reason() {
    let server = Server::start_with(&[("without_capability", "token_rotation")]).await;
    server.log_in().await;
    fleet(&server).await;
    let summary = server.run(&["skew", "--summary"]).await.ok().stdout;
    let line = summary
        .lines()
        .find(|line| line.starts_with("device tokens that run out"));
    let name = format!("muster-server {} on ", env!("CARGO_PKG_VERSION"));
    assert!(line.is_some_and(|line| line.contains(&name)), "{summary}");
    let shown = server.run(&["host", "laptop-1"]).await.ok().stdout;
    assert!(shown.contains("without_capability"), "{shown}");
    let listed = ["skew", "--process", "muster-server", "--csv"];
    let listed = server.run(&listed).await.ok().stdout;
    assert_eq!(listed.lines().count(), 1 + 5, "{listed}");
}
