//! The notification socket: an agent holds it and is told "ask now".
//!
//! `GET /api/fleet/orbit/muster_notify` with `Authorization: NodeKey <orbit node key>`, offered by the capability
//! `muster_notify`. The server sends `{"type":"distributed/read","reason":"live-7"}`: the agent asks at once what it would
//! ask at its interval anyway. Unknown types are ignored by agents. The agent sends nothing but answers to pings.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use axum::routing::get;
use muster_http::Problem;
use muster_identity::{AgentAuthError, AgentKeys, Family, HostId};
use serde_json::json;

use crate::Queries;

/// How soon after it was opened a socket's key is looked at again: it may have been taken away at that moment.
const FIRST_CHECK_AFTER: Duration = Duration::from_millis(500);
/// How often the server tries whether the agent is still there, and its key still good.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Without any sign of life for so long the socket is closed.
const SILENCE: Duration = Duration::from_secs(90);
/// Room for what an agent sends, in bytes. The default is 128 KiB, for each of thousands of sockets.
const READ_BUFFER_BYTES: usize = 1_024;
/// The largest message of an agent, in bytes: it has nothing to say.
const MAX_MESSAGE_BYTES: usize = 1_024;

/// The route, relative to `/api/fleet/orbit`.
pub fn notify_routes(queries: Queries, keys: AgentKeys) -> Router {
    Router::new()
        .route("/muster_notify", get(upgrade))
        .with_state((queries, keys))
}

async fn upgrade(
    State((queries, keys)): State<(Queries, AgentKeys)>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    let value = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let key = match value.trim().split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("nodekey") => key.trim(),
        _ => "",
    };
    let host = keys.authenticate(key, Family::Orbit).await?.host_id;
    let key = Key {
        keys,
        text: key.to_owned(),
    };
    Ok(upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .on_upgrade(move |socket| serve(socket, queries, host, key)))
}

/// The key by which a socket was opened.
struct Key {
    keys: AgentKeys,
    text: String,
}

impl Key {
    /// Whether it was taken away. A database that is away takes nothing away.
    async fn is_revoked(&self) -> bool {
        let known = self.keys.authenticate(&self.text, Family::Orbit).await;
        matches!(known, Err(AgentAuthError::Unknown))
    }
}

async fn serve(mut socket: WebSocket, queries: Queries, host: HostId, key: Key) {
    let mut notifications = queries.notifier.open(host);
    let mut checks = queries.notifier.checks();
    let first_check = tokio::time::sleep(FIRST_CHECK_AFTER);
    tokio::pin!(first_check);
    let mut is_checked = false;
    // What was asked before the socket was there, and what an agent that began anew has forgotten.
    queries.live.came_back(host);
    if queries.campaigns.owes(host) && tell(&mut socket, "live").await.is_err() {
        return;
    }
    let mut ping = tokio::time::interval(PING_INTERVAL);
    let mut heard = tokio::time::Instant::now();
    loop {
        let sent = tokio::select! {
            reason = notifications.next() => match reason {
                Some(reason) => tell(&mut socket, &reason).await,
                None => break,
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {
                    heard = tokio::time::Instant::now();
                    Ok(())
                }
            },
            () = &mut first_check, if !is_checked => {
                is_checked = true;
                if key.is_revoked().await {
                    break;
                }
                Ok(())
            }
            Ok(()) = checks.changed() => {
                if key.is_revoked().await {
                    break;
                }
                Ok(())
            }
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE || key.is_revoked().await {
                    break;
                }
                socket.send(Message::Ping(bytes::Bytes::new())).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
    let close = CloseFrame {
        code: close_code::NORMAL,
        reason: "".into(),
    };
    let _ = socket.send(Message::Close(Some(close))).await;
}

async fn tell(socket: &mut WebSocket, reason: &str) -> Result<(), axum::Error> {
    let text = json!({ "type": "distributed/read", "reason": reason }).to_string();
    socket.send(Message::Text(text.into())).await
}
