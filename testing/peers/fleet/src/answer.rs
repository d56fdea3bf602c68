//! An answer of this server, and what of it has to be as it was recorded.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::left_out::{EMPTY_FLAGS, Member, may_differ, other_status};
use crate::recording::Exchange;
use crate::shape::differences;

/// The capabilities of a server that clients look at and that have a meaning without MDM.
const READ_BY_CLIENTS: &[&str] = &["orbit_endpoints", "token_rotation", "end_user_email"];

/// An answer of this server.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: HashMap<String, String>,
    /// Its body: JSON, else text; null when it is empty.
    pub body: Value,
}

impl Answer {
    /// Reads an answer to its end.
    pub async fn read(response: reqwest::Response) -> Self {
        let status = response.status().as_u16();
        let headers = response.headers().iter().filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        });
        let headers = headers.collect();
        let text = response.text().await.expect("the answer has an end");
        let body = match text.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        };
        Self {
            status,
            headers,
            body,
        }
    }
}

/// Compares an answer with the recorded one: status, content type, capabilities, redirects, shape.
pub(crate) fn compare(
    exchange: &Exchange,
    answer: &Answer,
    found: &mut Vec<String>,
    tolerated: &mut BTreeSet<&'static str>,
) {
    let recorded_status = exchange.status.unwrap_or_default();
    if recorded_status != answer.status {
        match other_status(exchange, answer.status) {
            Some(reason) => {
                tolerated.insert(reason);
            }
            None => found.push(format!(
                "recorded {recorded_status}, here {} {:.300}",
                answer.status,
                answer.body.to_string()
            )),
        }
        return;
    }
    let media_type = |value: &str| {
        value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let recorded_type = exchange.answer_header("Content-Type").map(media_type);
    let our_type = answer
        .headers
        .get("content-type")
        .map(|value| media_type(value));
    if !exchange.route().starts_with("/api/") && recorded_status >= 400 {
        return;
    }
    let is_text = exchange.answer.as_ref().is_some_and(Value::is_string);
    if is_text && exchange.answer.as_ref() == Some(&answer.body) {
        return;
    }
    let is_redirect = (300..400).contains(&recorded_status);
    let has_body = exchange.answer.is_some() && exchange.method != "HEAD" && !is_redirect;
    let is_json = exchange
        .answer
        .as_ref()
        .is_some_and(|body| body.is_object() || body.is_array());
    // Errors before a handler are JSON that the recorded server calls text; no client looks.
    let is_error = recorded_status >= 400;
    let wanted = if is_json || is_error {
        Some("application/json".to_owned())
    } else {
        recorded_type
    };
    if has_body && wanted != our_type {
        found.push(format!(
            "content type recorded {wanted:?}, here {our_type:?}"
        ));
    }
    // Clients look at the capabilities of successes only.
    if !is_error && !exchange.fault.contains("Capabilities") {
        match (
            exchange.answer_header("X-Fleet-Capabilities"),
            answer.headers.get("x-fleet-capabilities"),
        ) {
            (Some(_), None) => found.push("capabilities are not said".to_owned()),
            (Some(_), Some(ours)) => {
                let ours: Vec<&str> = ours.split(',').collect();
                for name in READ_BY_CLIENTS {
                    if !ours.contains(name) {
                        found.push(format!("capability {name} is not said in {ours:?}"));
                    }
                }
            }
            (None, Some(_)) => {
                found.push("capabilities are said, which were not recorded".to_owned());
            }
            (None, None) => {}
        }
    }
    for name in ["Retry-After", "Location"] {
        let (recorded, ours) = (
            exchange.answer_header(name),
            answer.headers.get(&name.to_ascii_lowercase()),
        );
        if recorded.is_some() && ours.is_none() {
            found.push(format!("{name} is not there"));
        }
    }
    if is_error && exchange.answer.as_ref().is_some_and(Value::is_string) {
        // Said in text before any handler; here it has the body of an error.
        if answer.body.get("message").is_none() && answer.body.get("error").is_none() {
            found.push(format!("no message: {:.200}", answer.body.to_string()));
        }
    } else if let Some(recorded) = exchange.answer.as_ref().filter(|body| !body.is_string()) {
        for difference in differences(recorded, &answer.body) {
            let member = Member {
                route: exchange.route(),
                difference: &difference,
            };
            // An empty object makes orbit of 2022 restart at each poll, for as long as it lasts.
            let is_silent = exchange.request_header("X-Fleet-Capabilities").is_none();
            if is_silent
                && difference.at == "command_line_startup_flags"
                && recorded[&difference.at] == json!({})
            {
                tolerated.insert(EMPTY_FLAGS);
                continue;
            }
            match may_differ(&member) {
                Some(reason) => {
                    tolerated.insert(reason);
                }
                None => found.push(difference.to_string()),
            }
        }
    }
}
