//! By which rule enrollments are refused, as an operator sees it.

use serde_json::json;

use crate::program::{Program, plain};
use crate::site::Site;

#[tokio::test]
async fn every_rule_that_refuses_an_enrollment_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("muster.db");
    let mut command = plain(&folder.path().join("data"), database.to_str().unwrap());
    command.env("MUSTER_TRUSTED_PROXIES", "127.0.0.1");
    let program = Program::start(&mut command);
    let http = reqwest::Client::new();
    let site = Site::set_up(http, program.base(), program.setup_link()).await;
    let token = async |body: serde_json::Value| -> (i64, String) {
        let answer = site.post("/api/muster/enrollment-tokens", &body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let secret = answer.body["secret"].as_str().unwrap().to_owned();
        (answer.body["token"]["id"].as_i64().unwrap(), secret)
    };
    let (_, once) = token(json!({ "name": "once", "max_uses": 1 })).await;
    let (_, orbit) = token(json!({ "name": "orbit", "families": ["orbit"] })).await;
    let (_, branch) = token(json!({ "name": "branch", "networks": ["198.51.100.0/24"] })).await;
    let (gone, revoked) = token(json!({ "name": "gone" })).await;
    let path = format!("/api/muster/enrollment-tokens/{gone}");
    assert_eq!(site.delete(&path).await.status, 204);
    site.enroll(&once, "a").await;
    let banned = site.enroll(&site.secret("all").await, "b").await;
    site.asked(&banned).await;
    let hosts = site.get("/api/muster/hosts?search=b").await;
    let host = hosts.body["items"][0]["id"].as_i64().unwrap();
    let ban = json!({ "reason": "stolen" });
    let ban = site
        .put(&format!("/api/muster/hosts/{host}/ban"), &ban)
        .await;
    assert!(ban.status < 300, "{ban:?}");

    let secret = site.secret("more").await;
    for (reason, secret, identifier) in [
        ("unknown", "wrong", "c"),
        ("used_up", &*once, "c"),
        ("other_family", &*orbit, "c"),
        ("other_network", &*branch, "c"),
        ("revoked", &*revoked, "c"),
        ("banned", &*secret, "b"),
    ] {
        let body = json!({ "enroll_secret": secret, "host_identifier": identifier });
        let refused = site.agent("/api/osquery/enroll", &body).await;
        assert_eq!(refused.status, 401, "{reason}: {refused:?}");
        let metrics = site.get("/metrics").await.body;
        let counted = format!("muster_enrollment_refusals_total{{reason=\"{reason}\"}} 1");
        assert!(metrics.as_str().unwrap().contains(&counted), "{metrics}");
    }
    // Whom a trusted proxy speaks for counts, not the proxy.
    let body = json!({ "enroll_secret": branch, "host_identifier": "c" }).to_string();
    let request = site
        .http
        .post(format!("{}/api/osquery/enroll", program.base()));
    let request = request.header("x-forwarded-for", "198.51.100.7").body(body);
    assert_eq!(request.send().await.unwrap().status(), 200);
    program.terminate();
    assert!(program.wait().success());
}
