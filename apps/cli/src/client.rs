//! Requests to the server's own API, and failures that say what to do.

use std::error::Error as _;
use std::time::Duration;

use muster_negotiation::{NATIVE_VERSION_HEADER, NativeVersion};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

use crate::contexts::Context;
use crate::error::{CliError, again};

/// How long it may take to be connected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// How long an answer may take; streams are apart.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How much is asked for at once.
const PAGE_ROWS: usize = 500;
/// Where the API is.
const ROOT: &str = "api/muster";

/// What servers of all releases say of a path that they do not serve.
const NO_SUCH_PATH: &str = "this path does not exist";

/// Talks to one server as one user.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    context: Context,
}

/// How the server says no.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    message: String,
}

/// A page of a list.
#[derive(Deserialize)]
struct Page {
    items: Vec<Value>,
    #[serde(default)]
    next_cursor: Option<String>,
}

impl Client {
    /// Nothing is sent yet.
    pub(crate) fn new(context: Context) -> Result<Self, CliError> {
        let base = parse_url(&context.url)?;
        if base.scheme() == "http" && !context.insecure && !is_loopback(&base) {
            return Err(CliError::Unencrypted {
                url: base.to_string(),
            });
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("muster-cli/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = &context.ca_pem {
            let authorities = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
                .map_err(CliError::Authority)?;
            builder = builder.tls_certs_only(authorities);
        } else if base.scheme() == "http" {
            builder = builder.tls_certs_only([]);
        }
        if context.insecure {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        Ok(Self {
            http: builder.build().map_err(CliError::Authority)?,
            base,
            context,
        })
    }

    /// The server's address, as people write it.
    pub(crate) fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Reads one thing.
    pub(crate) async fn get(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<Value, CliError> {
        self.json(Method::GET, path, query, None).await
    }

    /// Does something; there may be no answer.
    pub(crate) async fn post(&self, path: &[&str], body: &Value) -> Result<Value, CliError> {
        self.json(Method::POST, path, &[], Some(body)).await
    }

    /// Changes something.
    pub(crate) async fn patch(&self, path: &[&str], body: &Value) -> Result<Value, CliError> {
        self.json(Method::PATCH, path, &[], Some(body)).await
    }

    /// Replaces something.
    pub(crate) async fn put(&self, path: &[&str], body: &Value) -> Result<Value, CliError> {
        self.json(Method::PUT, path, &[], Some(body)).await
    }

    /// Deletes something.
    pub(crate) async fn delete(&self, path: &[&str]) -> Result<(), CliError> {
        self.json(Method::DELETE, path, &[], None).await.map(drop)
    }

    /// Reads a list over all its pages, up to a number of rows.
    pub(crate) async fn list(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        limit: usize,
    ) -> Result<Vec<Value>, CliError> {
        self.pages(Method::GET, path, query, None, limit).await
    }

    /// Reads a list that is asked for by a body over all its pages, up to a number of rows.
    pub(crate) async fn list_by(
        &self,
        path: &[&str],
        body: &Value,
        limit: usize,
    ) -> Result<Vec<Value>, CliError> {
        self.pages(Method::POST, path, &[], Some(body), limit).await
    }

    async fn pages(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&Value>,
        limit: usize,
    ) -> Result<Vec<Value>, CliError> {
        let mut items: Vec<Value> = Vec::new();
        let mut cursor = None;
        while items.len() < limit {
            let before: Option<String> = cursor.clone();
            let mut query = query.to_vec();
            let rows = PAGE_ROWS.min(limit - items.len());
            query.push(("limit", rows.to_string()));
            if let Some(cursor) = cursor.take() {
                query.push(("cursor", cursor));
            }
            let answer = self.json(method.clone(), path, &query, body).await?;
            let page: Page =
                serde_json::from_value(answer).map_err(|source| self.not_muster(source))?;
            let was_empty = page.items.is_empty();
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() || was_empty {
                break;
            }
            if cursor == before {
                // It would go on for ever.
                return Err(CliError::NotMuster {
                    url: self.url().to_owned(),
                    source: None,
                });
            }
        }
        items.truncate(limit);
        Ok(items)
    }

    /// Begins to read what goes on for long.
    pub(crate) async fn stream(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<Response, CliError> {
        let request = self.request(Method::GET, path, query);
        let response = match tokio::time::timeout(ANSWER_TIMEOUT, request.send()).await {
            Ok(sent) => sent.map_err(|error| self.failed(error))?,
            Err(_) => return Err(self.timed_out()),
        };
        self.accepted(response).await
    }

    async fn json(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        let mut request = self.request(method, path, query).timeout(ANSWER_TIMEOUT);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.failed(error))?;
        let response = self.accepted(response).await?;
        let bytes = self.read(response).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|source| self.not_muster(source))
    }

    /// A whole answer, of which nobody else's server decides how large it is.
    async fn read(&self, mut response: Response) -> Result<Vec<u8>, CliError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(error))? {
            if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(CliError::NotMuster {
                    url: self.url().to_owned(),
                    source: None,
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn request(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
    ) -> reqwest::RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(ROOT.split('/')).extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self
            .http
            .request(method, url)
            .header(NATIVE_VERSION_HEADER, NativeVersion::NEWEST.to_string());
        match &self.context.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn accepted(&self, response: Response) -> Result<Response, CliError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after_seconds = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = self.read(response).await.unwrap_or_default();
        let Ok(problem) = serde_json::from_slice::<Problem>(&bytes) else {
            return Err(self.not_ours(status, retry_after_seconds));
        };
        if problem.message.is_empty() {
            return Err(self.not_ours(status, retry_after_seconds));
        }
        let (url, message) = (self.url().to_owned(), problem.message);
        Err(match status {
            StatusCode::UNAUTHORIZED if self.context.token.is_some() => CliError::Unauthenticated {
                again: again(&self.context),
                message,
            },
            StatusCode::UNAUTHORIZED => CliError::LoginRefused {
                code: problem.code,
                message,
            },
            _ if problem.code == "unsupported_version" => CliError::Version { url, message },
            StatusCode::NOT_FOUND if message == NO_SUCH_PATH => CliError::NotServed { url },
            _ => CliError::Refused {
                status: status.as_u16(),
                message,
                retry_after_seconds,
            },
        })
    }

    /// A proxy's error page, or another server altogether.
    fn not_ours(&self, status: StatusCode, retry_after_seconds: Option<u64>) -> CliError {
        if status.is_server_error() {
            return CliError::Refused {
                status: status.as_u16(),
                message: format!("{} answered {status}", self.url()),
                retry_after_seconds,
            };
        }
        CliError::NotMuster {
            url: self.url().to_owned(),
            source: None,
        }
    }

    fn not_muster(&self, source: serde_json::Error) -> CliError {
        CliError::NotMuster {
            url: self.url().to_owned(),
            source: Some(source),
        }
    }

    fn timed_out(&self) -> CliError {
        CliError::Refused {
            status: StatusCode::GATEWAY_TIMEOUT.as_u16(),
            message: format!("{} does not answer", self.url()),
            retry_after_seconds: None,
        }
    }

    /// What kind of failure it is. The address is taken out of it, since it is said anyway.
    pub(crate) fn failed(&self, error: reqwest::Error) -> CliError {
        let url = self.url().to_owned();
        let source = error.without_url();
        let mut cause = source.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if text.contains("invalid peer certificate") || text.contains("CA certificates") {
                return CliError::Certificate { url, source };
            }
            cause = error.source();
        }
        CliError::Unreachable { url, source }
    }
}

/// The address with a slash at its end and nothing behind.
fn parse_url(text: &str) -> Result<Url, CliError> {
    let wrong = || CliError::Url {
        url: text.to_owned(),
    };
    let mut url = Url::parse(text.trim()).map_err(|_| wrong())?;
    let usable = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none();
    if !usable {
        return Err(wrong());
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let address = host.trim_matches(['[', ']']);
        host == "localhost"
            || address
                .parse()
                .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Result<Client, CliError> {
        Client::new(Context {
            url: url.to_owned(),
            ca_pem: None,
            insecure: false,
            ..Context::default()
        })
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        for url in ["muster.example.com", "ftp://x", "https://", "https://a:b@c"] {
            assert!(matches!(client(url), Err(CliError::Url { .. })), "{url}");
        }
    }

    #[test]
    fn tokens_do_not_travel_in_the_clear_but_on_this_machine() {
        assert!(matches!(
            client("http://muster.example.com"),
            Err(CliError::Unencrypted { .. })
        ));
        assert!(client("http://localhost:8080/prefix").is_ok());
        assert!(client("http://[::1]:8080").is_ok());
    }
}
