//! A browser that tests drive: Chromium without a window, by chromedriver's WebDriver API.
//!
//! Everything of it ends with the value. It keeps its data in a folder of its own and asks nobody but the server.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use data_encoding::BASE64;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::site::until;

/// Names a folder into which tests put pictures of the pages that they saw.
const PICTURES: &str = "MUSTER_TEST_PICTURES";
/// How WebDriver names what an element is found by.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A window's inside, in CSS pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size(pub(crate) u32, pub(crate) u32);

pub(crate) const PHONE: Size = Size(360, 740);
pub(crate) const DESKTOP: Size = Size(1280, 900);

pub(crate) struct Browser {
    driver: Child,
    /// The browser's own process, once there is one: its driver would leave it behind.
    process: Option<Pid>,
    http: reqwest::Client,
    session: String,
    _data: TempDir,
}

impl Browser {
    pub(crate) async fn open(size: Size, is_dark: bool) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("HOME", data.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed (Debian packages chromium and chromium-driver)");
        let port = port(&mut driver);
        let mut arguments = vec![
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--no-first-run".to_owned(),
            format!("--user-data-dir={}", data.path().join("profile").display()),
        ];
        if is_dark {
            arguments.push("--blink-settings=preferredColorScheme=0".to_owned());
        }
        let metrics =
            json!({ "width": size.0, "height": size.1, "pixelRatio": 1.0, "touch": size.0 < 600 });
        let options = json!({ "args": arguments, "mobileEmulation": { "deviceMetrics": metrics } });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let mut browser = Self {
            driver,
            process: None,
            http: reqwest::Client::new(),
            session: format!("http://127.0.0.1:{port}/session"),
            _data: data,
        };
        let made = browser.call(Method::POST, "", &wanted).await;
        let process = made["capabilities"]["goog:processID"].as_i64();
        browser.process = process.and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let id = made["sessionId"].as_str().unwrap();
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Value {
        let answer = self.try_call(method.clone(), path, body).await;
        answer.unwrap_or_else(|text| panic!("{method} {path}: {text}"))
    }

    async fn try_call(&self, method: Method, path: &str, body: &Value) -> Result<Value, String> {
        let address = format!("{}{path}", self.session);
        let request = self.http.request(method.clone(), address);
        let request = if method == Method::POST {
            request.body(body.to_string())
        } else {
            request
        };
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        if !status.is_success() {
            return Err(text);
        }
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        Ok(answer["value"].take())
    }

    pub(crate) async fn go(&self, url: &str) {
        self.call(Method::POST, "/url", &json!({ "url": url }))
            .await;
    }

    pub(crate) async fn url(&self) -> String {
        let url = self.call(Method::GET, "/url", &Value::Null).await;
        url.as_str().unwrap().to_owned()
    }

    async fn element(&self, css: &str) -> String {
        let wanted = json!({ "using": "css selector", "value": css });
        let found = self.call(Method::POST, "/element", &wanted).await;
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    /// What a person reads there.
    pub(crate) async fn text(&self, css: &str) -> String {
        let path = format!("/element/{}/text", self.element(css).await);
        let text = self.call(Method::GET, &path, &Value::Null).await;
        text.as_str().unwrap().to_owned()
    }

    /// Clicks what leads to another page, and waits until that is there.
    pub(crate) async fn follow(&self, css: &str) {
        self.value("window.isOld = true").await;
        let path = format!("/element/{}/click", self.element(css).await);
        self.call(Method::POST, &path, &json!({})).await;
        let script = json!({ "args": [], "script": "return !window.isOld && document.readyState === 'complete'" });
        until("the other page is there", async || {
            // Between two pages there is nothing to ask.
            let is_there = self.try_call(Method::POST, "/execute/sync", &script).await;
            is_there.is_ok_and(|is_there| is_there == true)
        })
        .await;
    }

    /// Replaces what stands in a field.
    pub(crate) async fn write(&self, css: &str, text: &str) {
        let element = self.element(css).await;
        self.call(
            Method::POST,
            &format!("/element/{element}/clear"),
            &json!({}),
        )
        .await;
        self.call(
            Method::POST,
            &format!("/element/{element}/value"),
            &json!({ "text": text }),
        )
        .await;
    }

    /// What an expression is in the page.
    pub(crate) async fn value(&self, expression: &str) -> Value {
        let script = json!({ "script": format!("return {expression}"), "args": [] });
        self.call(Method::POST, "/execute/sync", &script).await
    }

    /// What the browser found fault with since the last time: errors, and what a policy kept it from.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self
            .call(Method::POST, "/se/log", &json!({ "type": "browser" }))
            .await;
        let lines = log.as_array().unwrap().iter();
        lines.map(|line| line["message"].to_string()).collect()
    }

    /// Nothing is cut off or pushed out at the side.
    pub(crate) async fn assert_fits(&self, what: &str) {
        let wide = self
            .value(
                "[...document.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5) \
                 .map(e => e.tagName + ' ' + e.className)",
            )
            .await;
        let sizes = self
            .value("[document.documentElement.scrollWidth, innerWidth]")
            .await;
        assert!(
            sizes[0].as_u64() <= sizes[1].as_u64(),
            "{what}: {sizes}, {wide}"
        );
    }

    /// Puts two pictures, of what the window shows and of the whole page, into the folder that the environment names, for
    /// people.
    pub(crate) async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os(PICTURES).map(PathBuf::from) else {
            return;
        };
        for (what, is_whole) in [("window", false), ("page", true)] {
            let how = json!({ "cmd": "Page.captureScreenshot", "params": { "captureBeyondViewport": is_whole } });
            let picture = self.call(Method::POST, "/goog/cdp/execute", &how).await;
            let bytes = BASE64.decode(picture["data"].as_str().unwrap().as_bytes());
            std::fs::write(folder.join(format!("{name}-{what}.png")), bytes.unwrap()).unwrap();
        }
    }

    /// Ends it, and the browser before its driver.
    pub(crate) async fn close(mut self) {
        self.call(Method::DELETE, "", &Value::Null).await;
        self.process = None;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Only after a test that failed.
        if let Some(process) = self.process.take() {
            let _ = kill_process(process, Signal::KILL);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Where chromedriver listens, as it says.
fn port(driver: &mut Child) -> u16 {
    let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        if let Some((_, rest)) = line.split_once("started successfully on port ") {
            return rest.trim_end_matches('.').parse().unwrap();
        }
    }
    panic!("chromedriver ended before it listened");
}
