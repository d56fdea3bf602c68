//! The two APIs that a server speaks to agents, over HTTPS.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_negotiation::{CAPABILITIES_HEADER, Capability, CapabilitySet, Family, Release, Sender};
use muster_wire_fleet::orbit;
use muster_wire_osquery::{
    ConfigAnswer, ConfigRequest, DistributedResult, DistributedWrite, EnrollAnswer, EnrollRequest,
    ReadAnswer, Refusal,
};
use reqwest::{Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long a request may take from start to end.
const REQUEST_TIME: Duration = Duration::from_secs(60);
/// How long a connection may take to be made.
const CONNECT_TIME: Duration = Duration::from_secs(15);
/// The largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// The largest answer that may be a refusal though its status is a success, in bytes.
const MAX_REFUSAL_BYTES: usize = 4 * 1024;

/// A call was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server knows the key no more, or refuses the enrollment.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The agent has no token to enroll with.
    #[error("no enrollment token: {0}")]
    NoToken(String),
    /// The server does not have this.
    #[error("the server does not have {0}")]
    Missing(String),
    /// The server cannot answer now; come again, perhaps after what it asked for.
    #[error("the server answered {status}: {message}")]
    Unavailable {
        /// The status.
        status: u16,
        /// What it said.
        message: String,
        /// When to come again.
        retry_after: Option<Duration>,
    },
    /// The server was not reached, or the connection broke.
    #[error("reach the server")]
    Network(#[source] reqwest::Error),
    /// The answer is not what the protocol has.
    #[error("the server's answer cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// The answer is larger than allowed.
    #[error("the server's answer has more than {MAX_ANSWER_BYTES} bytes")]
    TooLarge,
}

impl CallError {
    /// Whether asking again soon is of no use: it is no fault that passes by itself. A proxy that lets some paths through
    /// only answers so.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Unavailable { status, .. } => {
                (400..500).contains(status) && !matches!(status, 408 | 425 | 429)
            }
            _ => false,
        }
    }

    /// When the server wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// How a server's certificate is trusted.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Only certificates that those in this PEM file issued; without it, the system's. It is read again when the server
    /// cannot be reached: replacing it needs no restart.
    pub ca_file: Option<PathBuf>,
    /// Any certificate at all.
    pub insecure: bool,
}

impl Trust {
    /// The file with authorities as it is now.
    pub fn authorities_pem(&self) -> Result<Option<Vec<u8>>, std::io::Error> {
        self.ca_file.as_ref().map(std::fs::read).transpose()
    }
}

/// The client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The CA file cannot be read.
    #[error("read the CA file")]
    AuthorityFile(#[source] std::io::Error),
    /// The URL is not one of a server.
    #[error("{0:?} is not the URL of a server, such as https://muster.example.com")]
    Url(String),
    /// The CA file holds no certificate.
    #[error("the CA file holds no certificate")]
    Authorities(#[source] reqwest::Error),
    /// TLS.
    #[error("prepare TLS")]
    Tls(#[source] reqwest::Error),
}

/// Calls a server.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    server: String,
    /// What `http` was made with.
    authorities_pem: Option<Vec<u8>>,
    capabilities: String,
    /// What the server said on its last successful answer of the orbit family.
    said: Arc<Mutex<CapabilitySet>>,
}

impl Client {
    /// A client of a server at a URL.
    pub fn new(server: &str, trust: &Trust) -> Result<Self, ClientError> {
        let server = server.trim().trim_end_matches('/');
        let rest = server
            .strip_prefix("https://")
            .or_else(|| server.strip_prefix("http://"));
        if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
            return Err(ClientError::Url(server.to_owned()));
        }
        let authorities_pem = trust
            .authorities_pem()
            .map_err(ClientError::AuthorityFile)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("muster-agent/", env!("CARGO_PKG_VERSION")))
            .timeout(REQUEST_TIME)
            .connect_timeout(CONNECT_TIME)
            // What is sent holds keys and the token: they are for this server alone.
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(Duration::from_secs(90))
            .pool_max_idle_per_host(1);
        if let Some(pem) = &authorities_pem {
            let authorities =
                reqwest::Certificate::from_pem_bundle(pem).map_err(ClientError::Authorities)?;
            builder = builder.tls_certs_only(authorities);
        }
        if trust.insecure {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        let http = builder.build().map_err(ClientError::Tls)?;
        let capabilities =
            CapabilitySet::of(Release::current(), Sender::Agent, Family::Orbit).to_header_value();
        Ok(Self {
            http,
            server: server.to_owned(),
            authorities_pem,
            capabilities,
            said: Arc::default(),
        })
    }

    /// Trusts what the CA file says now, when somebody replaced it; tells whether that was so. A file that cannot be
    /// used, perhaps because it is half written, changes nothing.
    pub fn trust_again(&mut self, trust: &Trust) -> bool {
        let is_new = match trust.authorities_pem() {
            Ok(now) => now != self.authorities_pem,
            Err(_) => false,
        };
        let Some(new) = is_new
            .then(|| Self::new(&self.server, trust).ok())
            .flatten()
        else {
            return false;
        };
        self.http = new.http;
        self.authorities_pem = new.authorities_pem;
        true
    }

    /// The server's URL.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Whether the server said on its last answer that it can do this.
    pub fn server_has(&self, capability: Capability) -> bool {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .has(capability)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        let orbit = path.starts_with("/api/fleet/orbit/");
        let bytes = serde_json::to_vec(body).map_err(CallError::Unreadable)?;
        let mut request = self
            .http
            .post(format!("{}{path}", self.server))
            .header("content-type", "application/json")
            .body(bytes);
        if orbit {
            request = request.header(CAPABILITIES_HEADER, &self.capabilities);
        }
        let response = request.send().await.map_err(CallError::Network)?;
        let status = response.status();
        let retry_after = retry_after(&response);
        if orbit && status.is_success() {
            // The whole set is replaced by each successful answer: a server that says nothing can do nothing.
            let values = response.headers().get_all(CAPABILITIES_HEADER);
            let said =
                CapabilitySet::parse(values.iter().map(reqwest::header::HeaderValue::as_bytes));
            *self.said.lock().unwrap_or_else(PoisonError::into_inner) = said;
        }
        let bytes = read(response).await?;
        if status.is_success() {
            if let Some(message) = refusal_in_success(&bytes, path) {
                return Err(CallError::Refused(message));
            }
            return serde_json::from_slice(&bytes).map_err(CallError::Unreadable);
        }
        Err(refusal(status, &bytes, retry_after, path))
    }

    /// Enrolls by orbit's API.
    pub async fn orbit_enroll(&self, request: &orbit::EnrollRequest) -> Result<String, CallError> {
        let answer: orbit::EnrollAnswer = self.call("/api/fleet/orbit/enroll", request).await?;
        let key = answer.orbit_node_key.into_exposed();
        if key.is_empty() {
            Err(CallError::Refused("it gave no key".to_owned()))
        } else {
            Ok(key)
        }
    }

    /// Asks for orbit's configuration, and so for what the server can do. What stands in it is for orbit: flags of
    /// osqueryd, scripts and software that this agent does not have, in whatever shape.
    pub async fn orbit_config(&self, request: &orbit::KeyRequest) -> Result<(), CallError> {
        self.call::<serde::de::IgnoredAny>("/api/fleet/orbit/config", request)
            .await
            .map(drop)
    }

    /// Enrolls by osquery's API.
    pub async fn enroll(&self, request: &EnrollRequest) -> Result<String, CallError> {
        let answer: EnrollAnswer = self.call("/api/v1/osquery/enroll", request).await?;
        if answer.node_key.is_empty() {
            return Err(CallError::Refused("it gave no key".to_owned()));
        }
        Ok(answer.node_key)
    }

    /// Asks for osquery's configuration.
    pub async fn config(&self, request: &ConfigRequest) -> Result<ConfigAnswer, CallError> {
        self.call("/api/v1/osquery/config", request).await
    }

    /// Asks what to run.
    pub async fn read(&self, node_key: &str) -> Result<ReadAnswer, CallError> {
        self.call(
            "/api/v1/osquery/distributed/read",
            &serde_json::json!({ "node_key": node_key }),
        )
        .await
    }

    /// Says what came of it.
    pub async fn write(
        &self,
        node_key: &str,
        results: &[DistributedResult],
    ) -> Result<(), CallError> {
        let body = DistributedWrite { node_key, results };
        self.call::<serde_json::Value>("/api/v1/osquery/distributed/write", &body)
            .await
            .map(drop)
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let value = response
        .headers()
        .get(reqwest::header::RETRY_AFTER)?
        .to_str()
        .ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

async fn read(mut response: Response) -> Result<Vec<u8>, CallError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(CallError::Network)? {
        if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(CallError::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// osqueryd goes by the body and hardly looks at the status, so there are servers that refuse a key with 200.
fn refusal_in_success(bytes: &[u8], path: &str) -> Option<String> {
    if path.starts_with("/api/fleet/orbit/") || bytes.len() > MAX_REFUSAL_BYTES {
        return None;
    }
    let refusal: Refusal = serde_json::from_slice(bytes).ok()?;
    refusal
        .node_invalid
        .then(|| refusal.error.unwrap_or_default())
}

/// What an answer that is no success means. Only a clear refusal makes an agent throw its key away: a proxy's page or a
/// fault of the server does not.
fn refusal(
    status: StatusCode,
    bytes: &[u8],
    retry_after: Option<Duration>,
    path: &str,
) -> CallError {
    /// What servers say on orbit's paths; both members, as no proxy has them.
    #[derive(serde::Deserialize)]
    struct Answer {
        message: String,
        errors: Vec<serde_json::Value>,
    }
    let osquery: Refusal = serde_json::from_slice(bytes).unwrap_or_default();
    let orbit: Option<Answer> = serde_json::from_slice(bytes).ok();
    let orbit_refuses = path.starts_with("/api/fleet/orbit/")
        && status == StatusCode::UNAUTHORIZED
        && orbit
            .as_ref()
            .is_some_and(|answer| !answer.errors.is_empty());
    let said = orbit.map(|answer| answer.message);
    let message = osquery.error.or(said).unwrap_or_default();
    // A server that has trouble does not know whom it refuses.
    let osquery_refuses = osquery.node_invalid && !status.is_server_error();
    if osquery_refuses || orbit_refuses {
        return CallError::Refused(message);
    }
    if status == StatusCode::NOT_FOUND {
        return CallError::Missing(path.to_owned());
    }
    CallError::Unavailable {
        status: status.as_u16(),
        message,
        retry_after,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(status: u16, body: &str, path: &str) -> &'static str {
        let status = StatusCode::from_u16(status).unwrap();
        match refusal(status, body.as_bytes(), None, path) {
            CallError::Refused(_) => "refused",
            CallError::Missing(_) => "missing",
            CallError::Unavailable { .. } => "unavailable",
            _ => "other",
        }
    }

    #[test]
    fn only_a_clear_refusal_throws_a_key_away() {
        let (osquery, orbit) = ("/api/v1/osquery/config", "/api/fleet/orbit/config");
        assert_eq!(
            meaning(401, r#"{"error":"x","node_invalid":true}"#, osquery),
            "refused"
        );
        let refused = r#"{"message":"x","errors":[{"name":"base","reason":"x"}]}"#;
        assert_eq!(meaning(401, refused, orbit), "refused");
        for page in ["<html>proxy</html>", r#"{"message":"log in first"}"#] {
            assert_eq!(meaning(401, page, osquery), "unavailable");
            assert_eq!(meaning(401, page, orbit), "unavailable");
        }
        assert_eq!(meaning(503, r#"{"error":"x"}"#, osquery), "unavailable");
        let fault = r#"{"error":"x","node_invalid":true}"#;
        assert_eq!(meaning(500, fault, osquery), "unavailable");
        assert_eq!(meaning(502, "<html>", orbit), "unavailable");
        assert_eq!(meaning(404, "404 page not found", orbit), "missing");
    }

    #[test]
    fn a_refusal_may_come_with_a_success() {
        let path = "/api/v1/osquery/distributed/read";
        let refused = refusal_in_success(br#"{"error":"x","node_invalid":true}"#, path);
        assert_eq!(refused.as_deref(), Some("x"));
        for answer in [
            r#"{"queries":{},"discovery":{}}"#,
            r#"{"queries":{"node_invalid":"SELECT true"}}"#,
            r#"{"node_invalid":false}"#,
            "[]",
        ] {
            assert_eq!(refusal_in_success(answer.as_bytes(), path), None);
        }
    }

    #[test]
    fn a_url_must_name_a_server() {
        for good in [
            "https://muster.example.com",
            "http://localhost:8080/prefix/",
        ] {
            assert!(Client::new(good, &Trust::default()).is_ok(), "{good}");
        }
        for bad in ["", "muster.example.com", "https://", "ftp://x"] {
            assert!(
                matches!(
                    Client::new(bad, &Trust::default()),
                    Err(ClientError::Url(_))
                ),
                "{bad}"
            );
        }
    }
}
