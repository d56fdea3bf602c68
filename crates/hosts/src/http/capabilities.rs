//! The one middleware of `X-Fleet-Capabilities`.
//!
//! It reads what the peer says into the request's extensions (as [`Saying`]) and writes what this server says on every
//! success. The peer replaces all it knows with each success, so the header must stand on every one of them; on errors
//! and for an empty set it is absent.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use muster_negotiation::{CAPABILITIES_HEADER, CapabilitySet};

use crate::capability::Saying;

const NAME: HeaderName = HeaderName::from_static(CAPABILITIES_HEADER);

/// What this server says, ready to be written; none when it says nothing.
#[derive(Debug, Clone)]
pub struct Said(Option<HeaderValue>);

impl Said {
    /// The header of a set.
    pub fn new(set: &CapabilitySet) -> Self {
        let value = (!set.is_empty()).then(|| set.to_header_value());
        // Names are graphic ASCII, which any header value may hold.
        Self(value.and_then(|value| HeaderValue::try_from(value).ok()))
    }
}

/// Reads and writes the header. Use it as `from_fn_with_state(Said::new(&set), exchange)`.
pub async fn exchange(State(said): State<Said>, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    let values = headers.get_all(NAME);
    let user_agent = headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok());
    let saying = Saying {
        capabilities: CapabilitySet::parse(values.iter().map(HeaderValue::as_bytes)),
        user_agent: user_agent.unwrap_or_default().to_owned(),
    };
    request.extensions_mut().insert(saying);
    let mut response = next.run(request).await;
    if let Said(Some(value)) = said
        && response.status().is_success()
    {
        response.headers_mut().insert(NAME, value);
    }
    response
}
