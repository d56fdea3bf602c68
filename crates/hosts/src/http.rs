//! The HTTP rooms: thin, one per family of peers.

pub mod capabilities;
pub mod device;
mod fleet_hosts;
mod fleet_labels;
mod fleet_picker;
mod fleet_report;
mod fleet_shape;
mod native;
mod native_keys;
mod native_skew;
pub mod orbit;
pub mod osquery;
pub mod software;

pub use fleet_hosts::fleet_host_routes;
pub use native::native_host_routes;
pub use native_keys::native_key_routes;
pub use native_skew::native_skew_routes;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use muster_http::{Problem, parse_json};
use serde::Deserialize;

/// Parses the body of an agent's request: an object, or `null`, which counts as an empty one. Anything else is 400.
fn parse_object<'a, T: Deserialize<'a> + Default>(bytes: &'a [u8]) -> Result<T, Problem> {
    match bytes.trim_ascii_start().first() {
        // A type that is read from an object could be read from a list as well; agents never mean that.
        Some(b'[') => Err(
            Problem::bad_request("the JSON body is a list, not an object").with_code("bad_json"),
        ),
        _ => Ok(parse_json::<Option<T>>(bytes)?.unwrap_or_default()),
    }
}

/// A JSON answer from bytes.
fn json(bytes: Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes));
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The answer when there is nothing to say.
fn nothing() -> Response {
    json(Bytes::from_static(b"{}"))
}
