//! A server as its peers see it: an operator with a session, and hosts with keys.

use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};

pub(crate) const PASSWORD: &str = "password123#";

/// A server that is set up, and the session of its first administrator.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) http: Client,
    pub(crate) base: String,
    pub(crate) session: String,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) async fn read(response: reqwest::Response) -> Self {
        Self::try_read(response).await.unwrap()
    }

    /// Fails when the connection ends before the answer does.
    pub(crate) async fn try_read(response: reqwest::Response) -> reqwest::Result<Self> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Self {
            status,
            headers,
            body,
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Site {
    /// Makes the first administrator by the setup link.
    pub(crate) async fn set_up(http: Client, base: String, link: &str) -> Self {
        let token = link.trim().split("token=").nth(1).unwrap();
        let body = json!({ "token": token, "name": "Ann", "email": "ann@example.com", "password": PASSWORD });
        let mut site = Self {
            http,
            base,
            session: String::new(),
        };
        let answer = site.post("/api/muster/setup", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["token"]
            .as_str()
            .unwrap()
            .clone_into(&mut site.session);
        site
    }

    /// The session's token, for what does not take it in a header.
    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let request = request.bearer_auth(&self.session);
        Answer::read(request.send().await.unwrap()).await
    }

    /// As the operator of a server that may end at any time.
    pub(crate) async fn try_post(&self, path: &str, body: &Value) -> reqwest::Result<Answer> {
        let request = self.http.post(format!("{}{path}", self.base));
        let request = request.bearer_auth(&self.session).body(body.to_string());
        Answer::try_read(request.send().await?).await
    }

    /// As the operator.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.http.get(format!("{}{path}", self.base)))
            .await
    }

    /// As the operator.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self.http.post(format!("{}{path}", self.base));
        self.send(request.body(body.to_string())).await
    }

    /// As the operator.
    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        let request = self.http.put(format!("{}{path}", self.base));
        self.send(request.body(body.to_string())).await
    }

    /// As the operator.
    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Answer {
        let request = self.http.patch(format!("{}{path}", self.base));
        self.send(request.body(body.to_string())).await
    }

    /// As the operator.
    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.http.delete(format!("{}{path}", self.base)))
            .await
    }

    /// As the operator, naming in a body what is meant.
    pub(crate) async fn delete_with(&self, path: &str, body: &Value) -> Answer {
        let request = self.http.delete(format!("{}{path}", self.base));
        self.send(request.body(body.to_string())).await
    }

    /// The same server as somebody else sees it.
    pub(crate) fn with_session(&self, session: &str) -> Self {
        Self {
            http: self.http.clone(),
            base: self.base.clone(),
            session: session.to_owned(),
        }
    }

    /// The answer of a stream, not read yet.
    pub(crate) async fn open(&self, path: &str) -> reqwest::Response {
        let request = self.http.get(format!("{}{path}", self.base));
        request.bearer_auth(&self.session).send().await.unwrap()
    }

    /// A new enrollment token's secret.
    pub(crate) async fn secret(&self, name: &str) -> String {
        let answer = self
            .post("/api/muster/enrollment-tokens", &json!({ "name": name }))
            .await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.body["secret"].as_str().unwrap().to_owned()
    }

    /// As an agent: neither a session nor a content type.
    pub(crate) async fn agent(&self, path: &str, body: &Value) -> Answer {
        self.try_agent(path, body).await.unwrap()
    }

    /// As an agent of a server that may end at any time.
    pub(crate) async fn try_agent(&self, path: &str, body: &Value) -> reqwest::Result<Answer> {
        let request = self.http.post(format!("{}{path}", self.base));
        Answer::try_read(request.body(body.to_string()).send().await?).await
    }

    /// The node key of a new host.
    pub(crate) async fn enroll(&self, secret: &str, identifier: &str) -> String {
        let body = json!({
            "enroll_secret": secret, "host_identifier": identifier, "platform_type": "9",
            "host_details": { "os_version": { "platform": "ubuntu", "name": "Ubuntu" },
                              "system_info": { "uuid": identifier, "hostname": identifier } },
        });
        let answer = self.agent("/api/v1/osquery/enroll", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["node_key"].as_str().unwrap().to_owned()
    }

    /// The queries that a host is asked now.
    pub(crate) async fn asked(&self, key: &str) -> serde_json::Map<String, Value> {
        let answer = self
            .agent("/api/osquery/distributed/read", &json!({ "node_key": key }))
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["queries"].as_object().cloned().unwrap()
    }

    /// Writes what a host answers.
    pub(crate) async fn answer(&self, key: &str, queries: Value) -> Answer {
        let body = json!({ "node_key": key, "queries": queries, "statuses": {} });
        self.agent("/api/osquery/distributed/write", &body).await
    }

    /// Sends one line of results.
    pub(crate) async fn log(&self, key: &str, name: &str) -> Answer {
        let body = json!({ "node_key": key, "log_type": "result", "data": [{ "name": name }] });
        self.agent("/api/osquery/log", &body).await
    }
}

/// Waits until a condition holds, which the server brings about by itself.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("this never came about: {what}"));
}
