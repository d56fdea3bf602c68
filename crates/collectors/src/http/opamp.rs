//! The one path of agents, `/v1/opamp`: a POST of protobuf is answered, an upgrade becomes a socket.
//!
//! Whoever may not come is told 401 alike, whatever the reason; a fault of ours is 503 with a time to come again. Agents lose
//! what they sent on any other answer, and never give up.

use std::io::Write as _;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use bytes::Bytes;
use muster_http::{ClientAddress, Problem, read_body};
use muster_wire_opamp::proto::AgentToServer;
use muster_wire_opamp::{
    DecodeError, InstanceUid, MessageLimit, Outgoing, Update, decode_body, encode_body,
};
use tokio_util::sync::CancellationToken;

use super::socket;
use crate::collectors::Session;
use crate::service::{Carrier, SERVER_CAPABILITIES};
use crate::{Collectors, ExchangeError};

/// What messages of both carriers are.
const PROTOBUF: &str = "application/x-protobuf";
/// Answers of fewer bytes are not compressed.
const LEAST_COMPRESSED_BYTES: usize = 512;
/// How soon somebody who sends too much may come again, in seconds.
const TOO_MANY_SECONDS: u32 = 30;

#[derive(Clone)]
struct Shared {
    collectors: Collectors,
    stopping: CancellationToken,
}

/// The route of agents. When `stopping` is cancelled sockets end without their agents counting as gone.
pub fn agent_routes(collectors: Collectors, stopping: CancellationToken) -> Router {
    let shared = Shared {
        collectors,
        stopping,
    };
    Router::new()
        .route("/v1/opamp", any(opamp))
        .with_state(shared)
}

async fn opamp(State(shared): State<Shared>, address: ClientAddress, request: Request) -> Response {
    let headers = request.headers();
    if is_protobuf(headers) {
        if request.method() != Method::POST {
            return Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "OpAMP over plain HTTP is a POST",
            )
            .into_response();
        }
        let answered = plain(&shared.collectors, address, request).await;
        return answered.unwrap_or_else(refusal);
    }
    if headers.contains_key(header::UPGRADE) {
        let upgraded = upgrade(&shared, address, request).await;
        return upgraded.unwrap_or_else(refusal);
    }
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "not_opamp",
        format!(
            "this is an OpAMP endpoint: connect to it by WebSocket, or POST with Content-Type: {PROTOBUF}"
        ),
    )
    .into_response()
}

fn refusal(problem: Problem) -> Response {
    let is_unauthenticated = problem.status() == StatusCode::UNAUTHORIZED;
    let mut response = problem.into_response();
    if is_unauthenticated {
        let scheme = HeaderValue::from_static("Bearer");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

/// Whether a request is OpAMP over plain HTTP: parameters and letter case of the type do not matter.
fn is_protobuf(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|value| value.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(PROTOBUF))
}

/// What some clients send instead of `Authorization`, and can send nowhere else: the secret alone.
const API_KEY: &str = "api-key";

/// What an agent shows: `Authorization` with `Bearer …` or `ApiKey …`, in any case, else `api-key`.
fn secret(headers: &HeaderMap) -> Option<&str> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        let secret = headers.get(API_KEY)?.to_str().ok()?.trim();
        return Some(secret).filter(|secret| !secret.is_empty());
    };
    let value = value.to_str().ok()?.trim();
    let (scheme, secret) = value.split_once(char::is_whitespace)?;
    let is_known = ["bearer", "apikey"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known));
    Some(secret.trim()).filter(|secret| is_known && !secret.is_empty())
}

async fn admit(
    collectors: &Collectors,
    headers: &HeaderMap,
    address: ClientAddress,
    carrier: Carrier,
) -> Result<Session, Problem> {
    let secret = secret(headers).unwrap_or_default();
    collectors
        .admit(secret, address, carrier)
        .await
        .map_err(problem)
}

/// The same for all reasons.
fn unauthenticated() -> Problem {
    Problem::unauthenticated("authentication required")
}

/// Sockets had to be closed a moment ago, since what their agents said could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("the database was away a moment ago")]
struct AwayJustNow;

/// How an exchange that came to nothing is told over HTTP.
fn problem(error: ExchangeError) -> Problem {
    match error {
        ExchangeError::Unauthorized { .. } => unauthenticated(),
        ExchangeError::TooMany => Problem::too_many("too many messages", TOO_MANY_SECONDS),
        ExchangeError::Unavailable(error) => Problem::unavailable(&error),
    }
}

async fn plain(
    collectors: &Collectors,
    address: ClientAddress,
    request: Request,
) -> Result<Response, Problem> {
    let headers = request.headers();
    let session = admit(collectors, headers, address, Carrier::Http).await?;
    let compresses = accepts_gzip(headers);
    let limit = MessageLimit::default();
    let body = read_body(request, limit.bytes()).await?;
    let message: AgentToServer = decode_body(body, limit).map_err(|error| match error {
        DecodeError::TooLarge { .. } => Problem::too_large(error.to_string()),
        _ => Problem::bad_request(error.to_string()),
    })?;
    let reply = collectors
        .exchange(&session, &message)
        .await
        .map_err(problem)?;
    if reply.is_unauthorized {
        return Err(unauthenticated());
    }
    let body = encoded(&reply.outgoing, &message);
    Ok(answer(body, compresses))
}

fn encoded(outgoing: &Outgoing, message: &AgentToServer) -> Bytes {
    let limit = MessageLimit::default();
    match encode_body(outgoing, limit) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::error!(
                error = muster_http::error_chain(&error),
                "an answer to a collector is larger than agents take; it was answered without content"
            );
            encode_body(&without_content(message), limit).unwrap_or_default()
        }
    }
}

/// The least answer to a message.
pub(super) fn without_content(message: &AgentToServer) -> Outgoing {
    let uid = InstanceUid::from_wire(&message.instance_uid);
    let uid = uid.unwrap_or(InstanceUid::from_bytes([0; 16]));
    Outgoing::update(&uid, SERVER_CAPABILITIES, Update::default())
}

fn answer(body: Bytes, compresses: bool) -> Response {
    let compressed = (compresses && body.len() >= LEAST_COMPRESSED_BYTES)
        .then(|| gzip(&body))
        .flatten();
    let is_compressed = compressed.is_some();
    let mut response = compressed.unwrap_or(body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    if is_compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(body).ok()?;
    writer.finish().ok().map(Bytes::from)
}

/// Whether answers may be compressed: `gzip` or `*` stands in a list without being weighed with 0.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut weight = None;
    for item in values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
    {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let is_exact = name.eq_ignore_ascii_case("gzip");
        if is_exact || (name == "*" && weight.is_none()) {
            let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
            weight = Some(quality.unwrap_or(1.0));
            if is_exact {
                break;
            }
        }
    }
    weight.is_some_and(|weight| weight > 0.0)
}

async fn upgrade(
    shared: &Shared,
    address: ClientAddress,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return Ok(rejection.into_response()),
    };
    let collectors = shared.collectors.clone();
    if collectors.was_away() {
        // Clients wait for as long as they are told before they connect, but not when a socket of theirs ends.
        return Err(Problem::unavailable(&AwayJustNow));
    }
    let session = admit(&collectors, &parts.headers, address, Carrier::WebSocket).await?;
    let line = collectors
        .principal(&session)
        .await
        .map_err(problem)?
        .line();
    let stopping = shared.stopping.clone();
    Ok(upgrade
        .read_buffer_size(socket::READ_BUFFER_BYTES)
        .max_message_size(socket::MAX_FRAME_BYTES)
        .max_frame_size(socket::MAX_FRAME_BYTES)
        .on_upgrade(move |socket| socket::serve(socket, collectors, session, line, stopping)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: header::HeaderName, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn both_schemes_are_read_in_any_case() {
        for (value, expected) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("APIKEY abc", Some("abc")),
            ("ApiKey abc", Some("abc")),
            ("Basic abc", None),
            ("abc", None),
            ("Bearer ", None),
        ] {
            assert_eq!(
                secret(&with(header::AUTHORIZATION, value)),
                expected,
                "{value}"
            );
        }
        assert_eq!(secret(&HeaderMap::new()), None);
    }

    #[test]
    fn a_key_in_a_header_of_its_own_is_read_when_there_is_no_other() {
        let own = header::HeaderName::from_static(API_KEY);
        let mut headers = with(own.clone(), "abc");
        assert_eq!(secret(&headers), Some("abc"));
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::from_static("Bearer def"),
        );
        assert_eq!(secret(&headers), Some("def"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic ghi"));
        assert_eq!(
            secret(&headers),
            None,
            "what is shown there is not overruled"
        );
        assert_eq!(secret(&with(own, " ")), None);
    }

    #[test]
    fn the_type_of_a_body_is_read_with_parameters_and_in_any_case() {
        for (value, expected) in [
            ("application/x-protobuf", true),
            ("Application/X-Protobuf; charset=utf-8", true),
            ("application/json", false),
            ("application/x-protobuf-other", false),
        ] {
            assert_eq!(
                is_protobuf(&with(header::CONTENT_TYPE, value)),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn answers_are_compressed_for_those_who_accept_that() {
        for (value, expected) in [
            ("gzip", true),
            ("GZIP", true),
            ("deflate, gzip;q=0.5", true),
            ("gzip;q=0", false),
            ("*", true),
            ("*;q=0", false),
            ("identity", false),
            ("gzip;q=0, *", false),
        ] {
            assert_eq!(
                accepts_gzip(&with(header::ACCEPT_ENCODING, value)),
                expected,
                "{value}"
            );
        }
    }
}
