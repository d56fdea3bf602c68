//! The My device page: as HTTP, as the log sees it, and in a browser.

use std::fs::File;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use muster_clock::{Clock as _, ManualClock, SystemClock};
use muster_server::start::{Ambient, Running, start};
use muster_store::Dialect;
use muster_store::testing::{TestDatabase, on_both_databases};
use reqwest::redirect::Policy;
use serde_json::{Value, json};

use crate::browser::{Browser, DESKTOP, PHONE, Size};
use crate::faults::Way;
use crate::program::{Program, plain};
use crate::settings;
use crate::site::{Site, until};

const TOKEN: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
/// What somebody may call a computer who wishes others ill.
const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&\u{202e}";

/// A server below a prefix whose clock a test turns, with one host that told all about itself.
struct Stage {
    server: Running,
    site: Site,
    clock: Arc<ManualClock>,
    key: String,
    orbit_key: String,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn new(db: &TestDatabase, name: &str) -> Self {
        Self::at(db.address(), name).await
    }

    async fn at(database: &str, name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let ambient = Ambient {
            clock: Arc::clone(&clock) as _,
            ..Ambient::default()
        };
        let more = [
            ("database.url", database),
            ("tls.enabled", "false"),
            ("url_prefix", "/muster"),
        ];
        let server = start(settings(folder.path(), &more), ambient)
            .await
            .unwrap();
        let link = server.setup_link.clone().unwrap();
        let base = format!("http://{}/muster", server.address);
        let http = reqwest::Client::builder().redirect(Policy::none());
        let site = Site::set_up(http.build().unwrap(), base, &link).await;
        let organisation = json!({ "org_info": { "org_name": "Example Ltd",
            "contact_url": "https://help.example.com/it" } });
        let changed = site.patch("/api/latest/fleet/config", &organisation).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        let secret = site.secret("all").await;
        let key = site.enroll(&secret, "a").await;
        let body = json!({ "enroll_secret": secret, "hardware_uuid": "a", "platform": "ubuntu" });
        let orbit = site.agent("/api/fleet/orbit/enroll", &body).await;
        let orbit_key = orbit.body["orbit_node_key"].as_str().unwrap().to_owned();
        let stage = Self {
            server,
            site,
            clock,
            key,
            orbit_key,
            _folder: folder,
        };
        stage.register(TOKEN).await;
        let mapping = json!({ "orbit_node_key": stage.orbit_key, "email": "ann@example.com" });
        let request = stage.site.http.put(format!(
            "{}/api/fleet/orbit/device_mapping",
            stage.site.base
        ));
        let mapped = request.body(mapping.to_string()).send().await.unwrap();
        assert_eq!(mapped.status(), 200);
        let mut software: Vec<Value> = (0..120)
            .map(|number| json!({ "name": format!("package-{number:03}"), "version": "1.0", "source": "deb_packages" }))
            .collect();
        software
            .push(json!({ "name": "zlib1g", "version": "1:1.3.dfsg-3", "source": "deb_packages" }));
        software.push(
            json!({ "name": HOSTILE, "version": "a".repeat(120), "source": "python_packages" }),
        );
        let answered = stage
            .site
            .answer(&stage.key, json!({
                "fleet_detail_query_system_info": [{ "hostname": "ann-laptop", "computer_name": name, "uuid": "a",
                    "hardware_serial": "PF3X9K21", "hardware_vendor": "LENOVO", "hardware_model": "ThinkPad X1 Carbon",
                    "cpu_brand": "12th Gen Intel(R) Core(TM) i7-1260P", "physical_memory": "17179869184" }],
                "fleet_detail_query_os_version": [{ "name": "Ubuntu", "version": "24.04.1 LTS (Noble Numbat)",
                    "platform": "ubuntu", "platform_like": "debian", "major": "24", "minor": "4" }],
                "fleet_detail_query_osquery_info": [{ "version": "5.14.1" }],
                "fleet_detail_query_orbit_info": [{ "version": "1.37.0", "desktop_version": "1.37.1" }],
                "fleet_detail_query_disk_space_unix": [{ "gigs_disk_space_available": "120.42",
                    "percent_disk_space_available": "24", "gigs_total_disk_space": "502.0" }],
                "fleet_detail_query_uptime": [{ "total_seconds": "93600" }],
                "fleet_detail_query_software_linux": software,
            }))
            .await;
        assert_eq!(answered.status, 200, "{answered:?}");
        stage
    }

    async fn register(&self, token: &str) {
        let body = json!({ "orbit_node_key": self.orbit_key, "device_auth_token": token });
        let answer = self
            .site
            .agent("/api/fleet/orbit/device_token", &body)
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    fn url(&self, rest: &str) -> String {
        format!("{}/device/{rest}", self.site.base)
    }

    async fn page(&self, rest: &str) -> (u16, reqwest::header::HeaderMap, String) {
        let response = self.site.http.get(self.url(rest)).send().await.unwrap();
        (
            response.status().as_u16(),
            response.headers().clone(),
            response.text().await.unwrap(),
        )
    }

    async fn refetch(&self) -> reqwest::Response {
        let request = self.site.http.post(self.url(&format!("{TOKEN}/refetch")));
        request.send().await.unwrap()
    }

    /// Whether the host is asked its details at its next check-in.
    async fn is_asked(&self) -> bool {
        let asked = self.site.asked(&self.key).await;
        asked.contains_key("fleet_detail_query_system_info")
    }
}

on_both_databases! {
    async fn the_page_of_a_host_is_whole_escaped_and_kept_by_nobody(db: TestDatabase) {
        let stage = Stage::new(&db, HOSTILE).await;
        for rest in ["", "/", "/software", "/policies", "/self-service/all", "/refetch"] {
            let (status, headers, text) = stage.page(&format!("{TOKEN}{rest}")).await;
            assert_eq!(status, 200, "{rest}");
            for (name, value) in [
                ("referrer-policy", "no-referrer"), ("cache-control", "no-store"), ("x-content-type-options", "nosniff"),
                ("content-type", "text/html; charset=utf-8"),
            ] {
                assert_eq!(headers[name], value, "{rest}");
            }
            let policy = headers["content-security-policy"].to_str().unwrap();
            assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
            assert!(text.contains("<h1>&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;\u{fffd}</h1>"), "{text}");
            assert!(!text.contains("<img") && !text.contains("<script"), "{text}");
            for known in ["PF3X9K21", "Ubuntu 24.04.1 LTS", "16 GB", "120.4 GB of 502 GB free", "ann@example.com", "1.37.1",
                          "5.14.1", "package-000", "1 to 25 of 122", "Example Ltd"] {
                assert!(text.contains(known), "{known}: {text}");
            }
            // Neither in links to elsewhere nor at all but in the one form that needs it.
            assert!(text.matches(TOKEN).count() <= 1, "{text}");
            for secret in [&stage.key, &stage.orbit_key] {
                assert!(!text.contains(secret), "{text}");
            }
        }
        let (_, _, text) = stage.page(&format!("{TOKEN}/software?query=ZLIB")).await;
        assert!(text.contains("zlib1g") && text.contains("1 to 1 of 1") && !text.contains("package-000"), "{text}");
        let (_, _, text) = stage.page(&format!("{TOKEN}?query=package&page=5")).await;
        assert!(text.contains("101 to 120 of 120") && text.contains("?query=package&amp;page=4#software"), "{text}");
        // Whatever is asked for, there is a page.
        for odd in ["query=%00%22%3E%3Cb%3E&page=-1", "query=%ff&page=99999999999999999999", "page=7", "query&page"] {
            let (status, _, text) = stage.page(&format!("{TOKEN}?{odd}")).await;
            assert_eq!(status, 200, "{odd}: {text}");
            assert!(!text.contains("<b>"), "{text}");
        }
        stage.server.shut_down().await;
    }

    async fn the_button_has_details_sent_again_and_not_too_often(db: TestDatabase) {
        let stage = Stage::new(&db, "Ann's laptop").await;
        let (_, _, text) = stage.page(TOKEN).await;
        assert!(text.contains("You can have them refreshed again at") && !text.contains("method=\"post\""), "{text}");
        assert!(!stage.is_asked().await);
        stage.clock.advance(Duration::from_secs(301));
        let (_, _, text) = stage.page(&format!("{TOKEN}/software")).await;
        assert!(text.contains(&format!("<form method=\"post\" action=\"../{TOKEN}/refetch\">")), "{text}");
        let answer = stage.refetch().await;
        assert_eq!((answer.status().as_u16(), answer.headers()["location"].to_str().unwrap()), (303, &*format!("../{TOKEN}")));
        assert!(stage.is_asked().await);
        let (_, _, text) = stage.page(TOKEN).await;
        assert!(text.contains("New details were asked for") && !text.contains("method=\"post\""), "{text}");
        let nobody = stage.site.http.post(stage.url("never/refetch")).send().await.unwrap();
        assert_eq!(nobody.status(), 401);
        stage.server.shut_down().await;
    }

    async fn an_expired_page_says_how_to_get_a_new_one(db: TestDatabase) {
        let stage = Stage::new(&db, "Ann's laptop").await;
        let (status, _, never) = stage.page("never").await;
        assert_eq!(status, 401);
        stage.clock.advance(Duration::from_secs(3_601));
        let (status, headers, text) = stage.page(TOKEN).await;
        assert_eq!((status, &text), (401, &never), "nobody learns that it was good once");
        assert!(text.contains("tray icon") && !text.contains("ann"), "{text}");
        assert_eq!(headers["cache-control"], "no-store");
        stage.register("next").await;
        assert_eq!(stage.page("next").await.0, 200);
        stage.server.shut_down().await;
    }

    async fn whoever_guesses_addresses_of_pages_waits_and_the_audit_log_says_so(db: TestDatabase) {
        let stage = Stage::new(&db, "Ann's laptop").await;
        for number in 0..1_000 {
            assert_eq!(stage.page(&format!("guess-{number}")).await.0, 401, "{number}");
        }
        let (status, headers, text) = stage.page(TOKEN).await;
        assert_eq!((status, headers["retry-after"].to_str().unwrap()), (429, "60"));
        assert!(text.contains("Wait a minute"), "{text}");
        let of_api = stage.site.get(&format!("/api/latest/fleet/device/{TOKEN}/desktop")).await;
        assert_eq!((of_api.status, of_api.header("retry-after")), (429, Some("60")));
        until("it is in the audit log", async || {
            let audit = stage.site.get("/api/muster/audit?action=denied_request").await;
            let entries = audit.body["items"].as_array().cloned().unwrap();
            entries.iter().any(|entry| {
                entry["after"]["reason"] == "guessing" && entry["subject_kind"] == "device_token"
                    && entry["address"] == "127.0.0.1" && !entry.to_string().contains("guess-")
            })
        })
        .await;
        let metrics = stage.site.get("/metrics").await.body;
        let metrics = metrics.as_str().unwrap();
        assert!(metrics.lines().any(|line| line.starts_with("muster_device_bans_total ")), "{metrics}");
        assert!(metrics.contains("muster_refusals_total{reason=\"too_many_requests\"}"), "{metrics}");
        stage.clock.advance(Duration::from_secs(60));
        assert_eq!(stage.page(TOKEN).await.0, 200);
        stage.server.shut_down().await;
    }

    async fn the_servers_own_page_on_transparency_is_found_below_a_prefix(db: TestDatabase) {
        let stage = Stage::new(&db, "Ann's laptop").await;
        let client = reqwest::Client::new();
        for version in ["v1", "2022-04", "latest"] {
            let url = format!("{}/api/{version}/fleet/device/{TOKEN}/transparency", stage.site.base);
            let response = client.get(url).send().await.unwrap();
            assert_eq!(response.url().path(), "/muster/transparency");
            assert_eq!(response.status(), 200);
            let text = response.text().await.unwrap();
            assert!(text.contains("What your administrators can see") && !text.contains(TOKEN), "{text}");
        }
        stage.server.shut_down().await;
    }
}

#[tokio::test]
async fn while_the_database_is_away_nobody_is_told_that_a_page_expired() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let (way, through) = Way::before(&db).await;
    let stage = Stage::at(&through, "Ann's laptop").await;
    assert_eq!(stage.page(TOKEN).await.0, 200);
    way.cut();
    for rest in [TOKEN, "never"] {
        let (status, headers, text) = stage.page(rest).await;
        assert_eq!(
            (status, headers["retry-after"].to_str().unwrap()),
            (503, "5")
        );
        assert!(text.contains("Try again in a moment"), "{text}");
    }
    way.restore();
    until("the page is there again", async || {
        stage.page(TOKEN).await.0 == 200
    })
    .await;
    stage.server.shut_down().await;
}

#[tokio::test]
async fn a_log_of_everything_holds_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let db = TestDatabase::new(Dialect::Sqlite).await;
    let log = folder.path().join("log");
    let mut command = plain(&folder.path().join("data"), db.address());
    let command = command
        .env("MUSTER_LOG_LEVEL", "trace")
        .stdout(Stdio::piped());
    let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
    let program = Program::greeted(child);
    let site = Site::set_up(reqwest::Client::new(), program.base(), program.setup_link()).await;
    let secret = site.secret("all").await;
    let body = json!({ "enroll_secret": secret, "hardware_uuid": "a", "platform": "ubuntu" });
    let orbit = site.agent("/api/fleet/orbit/enroll", &body).await;
    let register =
        json!({ "orbit_node_key": orbit.body["orbit_node_key"], "device_auth_token": TOKEN });
    site.agent("/api/fleet/orbit/device_token", &register).await;
    let wrong = "11111111-d9cb-469f-a165-70867728950e";
    for token in [TOKEN, wrong] {
        for path in [
            format!("/device/{token}"),
            format!("/device/{token}/software?query={token}"),
            format!("/api/latest/fleet/device/{token}/desktop"),
            format!("/api/latest/fleet/device/{token}/nowhere"),
        ] {
            site.get(&path).await;
        }
        site.post(&format!("/device/{token}/refetch"), &json!({}))
            .await;
        let error = json!({ "error_source": "fleet-desktop", "error_message": format!("GET /device/{token}: EOF") });
        let errors = format!("/api/latest/fleet/device/{token}/debug/errors");
        site.post(&errors, &error).await;
    }
    program.terminate();
    assert!(program.wait().success());
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("/device/{token}/debug/errors"), "{log}");
    assert!(log.contains("a program on a host reports"), "{log}");
    for token in [TOKEN, wrong] {
        assert!(!log.contains(token), "{log}");
    }
}

/// Whether text can be read on its ground: the ratio of their luminances is 4.5 or more (WCAG 2, level AA).
const TOO_FAINT: &str = "(() => {
    const light = c => { const p = c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * p[0] + 0.7152 * p[1] + 0.0722 * p[2]; };
    const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (!/, 0\\)$/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
    return [...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
        .filter(e => { const a = light(getComputedStyle(e).color), b = light(ground(e));
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5; }).map(e => e.outerHTML); })()";

async fn walk(stage: &Stage, size: Size, is_dark: bool, name: &str) {
    let browser = Browser::open(size, is_dark).await;
    browser.go(&stage.url(TOKEN)).await;
    assert_eq!(browser.text("h1").await, "Ann's laptop");
    assert!(
        browser
            .text(".state")
            .await
            .starts_with("Online, last seen")
    );
    let software = browser.text("table").await;
    assert!(
        software.contains("package-000") && !software.contains("zlib1g"),
        "{software}"
    );
    assert!(
        browser
            .text("#seen")
            .await
            .contains("What your administrators can see")
    );
    assert_eq!(browser.value("document.documentElement.lang").await, "en");
    let nameless = "[...document.querySelectorAll('input')].filter(e => !e.labels.length).length";
    assert_eq!(browser.value(nameless).await, 0);
    assert_eq!(browser.value(TOO_FAINT).await, json!([]), "{name}");
    browser.assert_fits(name).await;
    browser.picture(&format!("{name}-top")).await;

    // A name of a stranger's choice, and a version that is longer than the screen, are text and fit in.
    browser.write("#query", "onerror").await;
    browser.follow("form[role=search] button").await;
    let software = browser.text("table").await;
    assert!(
        software.contains("<img src=x onerror=alert(1)>"),
        "{software}"
    );
    assert_eq!(browser.value("document.images.length").await, 0);
    browser.assert_fits("a long version").await;
    browser.picture(&format!("{name}-long")).await;
    browser.write("#query", "zlib").await;
    browser.follow("form[role=search] button").await;
    let software = browser.text("table").await;
    assert!(
        software.contains("zlib1g") && !software.contains("package-"),
        "{software}"
    );
    assert_eq!(
        browser.url().await,
        stage.url(&format!("{TOKEN}?query=zlib#software"))
    );
    assert_eq!(
        browser
            .value("document.querySelector('#query').value")
            .await,
        "zlib"
    );
    browser.go(&stage.url(&format!("{TOKEN}/software"))).await;
    browser
        .follow("nav[aria-label='Pages of software'] a")
        .await;
    assert!(browser.text("table").await.contains("package-030"));

    // The button.
    browser.go(&stage.url(TOKEN)).await;
    browser.follow("form[method=post] button").await;
    assert_eq!(browser.url().await, stage.url(TOKEN));
    assert!(
        browser
            .text("main")
            .await
            .contains("New details were asked for")
    );
    assert!(stage.is_asked().await);
    assert_eq!(browser.complaints().await, [""; 0]);

    browser.go(&stage.url("expired")).await;
    assert_eq!(browser.text("h1").await, "This page has expired");
    browser.assert_fits("the expired page").await;
    browser.picture(&format!("{name}-expired")).await;
    // The status itself is an error to a browser, and nothing else.
    let complaints = browser.complaints().await;
    assert!(
        complaints.iter().all(|text| text.contains("status of 401")),
        "{complaints:?}"
    );
    browser.close().await;
}

#[tokio::test]
async fn a_browser_shows_the_page_on_a_phone_and_on_a_desk_without_complaint() {
    for (size, is_dark, name) in [
        (PHONE, false, "phone"),
        (DESKTOP, true, "desktop-dark"),
        (DESKTOP, false, "desktop"),
    ] {
        let db = TestDatabase::new(Dialect::Sqlite).await;
        let stage = Stage::new(&db, "Ann's laptop").await;
        stage.clock.advance(Duration::from_secs(301));
        stage.site.asked(&stage.key).await;
        walk(&stage, size, is_dark, name).await;
        stage.server.shut_down().await;
    }
}

#[tokio::test]
async fn a_browser_makes_the_first_administrator_by_the_setup_link() {
    let folder = tempfile::tempdir().unwrap();
    let server = crate::running(folder.path(), &[("tls.enabled", "false")]).await;
    let link = server.setup_link.clone().unwrap();
    let token = link.split_once("token=").unwrap().1.trim();
    let browser = Browser::open(PHONE, false).await;
    browser
        .go(&format!("http://{}/setup?token={token}", server.address))
        .await;
    browser.assert_fits("the setup page").await;
    browser.picture("setup").await;
    for (field, text) in [
        ("name", "Ann"),
        ("email", "ann@example.com"),
        ("password", "password123#"),
    ] {
        browser.write(&format!("#{field}"), text).await;
    }
    browser.follow("button").await;
    assert_eq!(browser.text("h1").await, "Done");
    browser.assert_fits("the page that says so").await;
    assert_eq!(browser.complaints().await, [""; 0]);
    browser.close().await;
    server.shut_down().await;
}
