//! Fleet's result stream: a raw WebSocket on which a client names itself and a campaign, and then listens.
//!
//! Unlike with Fleet, nothing depends on the listener: it may come late, leave and come back; the campaign ends by time,
//! and its results are kept.

use std::time::Duration;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use muster_http::{ClientAddress, Problem};
use muster_identity::Principal;
use muster_wire_fleet::live::{
    ClientMessage, ServerMessage, StreamHost, StreamResult, StreamStatus, StreamTotals,
};
use muster_wire_fleet::{Row, Stats};

use super::FleetState;
use crate::{Campaign, Event, HostResult, QueriesError};

/// How long a client may take to name itself and its campaign.
const OPENING_TIME: Duration = Duration::from_secs(30);
/// The largest message of a client, in bytes.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// How often a silent stream says that it is alive.
const PING_INTERVAL: Duration = Duration::from_secs(20);

pub(super) fn routes() -> Router<FleetState> {
    Router::new().route("/results/websocket", get(upgrade))
}

async fn upgrade(State(state): State<FleetState>, request: Request) -> Response {
    if is_foreign(request.headers()) {
        return Problem::forbidden("requests from pages of other origins are refused")
            .into_response();
    }
    let (mut parts, _) = request.into_parts();
    let Ok(address) = ClientAddress::from_request_parts(&mut parts, &()).await;
    match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade
            .max_message_size(MAX_MESSAGE_BYTES)
            .max_frame_size(MAX_MESSAGE_BYTES)
            .on_upgrade(move |socket| serve(socket, state, address)),
        Err(rejection) => rejection.into_response(),
    }
}

/// Whether a browser sends this from a page of another origin. Programs send no `Origin`.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &header::HeaderValue| value.to_str().ok())
    };
    match (text(header::ORIGIN), text(header::HOST)) {
        (None, _) => false,
        (Some(origin), host) => origin.split("://").nth(1) != host,
    }
}

async fn serve(mut socket: WebSocket, state: FleetState, address: ClientAddress) {
    let opened = tokio::time::timeout(OPENING_TIME, open(&mut socket, &state, address)).await;
    match opened {
        Ok(Some(Ok((campaign, principal)))) => {
            listen(&mut socket, &state, campaign, principal).await;
        }
        Ok(Some(Err(message))) => {
            let _ = send(&mut socket, &message).await;
        }
        Ok(None) | Err(_) => {}
    }
    let close = CloseFrame {
        code: close_code::NORMAL,
        reason: "".into(),
    };
    let _ = socket.send(Message::Close(Some(close))).await;
}

/// Reads the client's two messages. None: the client went away, or said nothing that makes sense.
async fn open(
    socket: &mut WebSocket,
    state: &FleetState,
    address: ClientAddress,
) -> Option<Result<(Campaign, Principal), ServerMessage>> {
    let error = |text: &str| Some(Err(ServerMessage::Error(text.to_owned())));
    let ClientMessage::Auth { token } = read(socket).await? else {
        return None;
    };
    let principal = match state
        .identity
        .sessions
        .authenticate(token.expose(), address)
        .await
    {
        Ok(Some(principal)) if !principal.must_reset_password => principal,
        Ok(_) => return error(ServerMessage::UNAUTHORIZED),
        Err(_) => return error("the service is unavailable for the moment; try again"),
    };
    let ClientMessage::SelectCampaign { campaign_id: id } = read(socket).await? else {
        return error(ServerMessage::EXPECTED_SELECT_CAMPAIGN);
    };
    if id <= 0 {
        return Some(Err(ServerMessage::invalid_campaign(id)));
    }
    let campaigns = &state.queries.campaigns;
    match campaigns.find(&principal, id).await {
        Ok(campaign) => Some(Ok((campaign, principal))),
        // Fleet tells what is not there from what may not be seen.
        Err(QueriesError::NotFound { .. }) if campaigns.find_unchecked(id).await.is_ok() => {
            error(ServerMessage::FORBIDDEN)
        }
        Err(QueriesError::NotFound { .. }) => Some(Err(ServerMessage::unknown_campaign(id))),
        Err(_) => error("the service is unavailable for the moment; try again"),
    }
}

async fn read(socket: &mut WebSocket) -> Option<ClientMessage> {
    loop {
        match socket.recv().await?.ok()? {
            Message::Text(text) => return ClientMessage::parse(text.as_str()),
            Message::Binary(bytes) => {
                return ClientMessage::parse(std::str::from_utf8(&bytes).ok()?);
            }
            Message::Close(_) => return None,
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
}

async fn send(socket: &mut WebSocket, message: &ServerMessage) -> Result<(), axum::Error> {
    let text = serde_json::to_string(message).unwrap_or_default();
    socket.send(Message::Text(text.into())).await
}

/// Sends totals and status, then results as they come, and status whenever it changed.
async fn listen(
    socket: &mut WebSocket,
    state: &FleetState,
    campaign: Campaign,
    principal: Principal,
) {
    let id = campaign.id;
    let stream = state.queries.campaigns.stream_unchecked(id, 0);
    let mut stream = stream.checking(principal);
    let mut shown: Option<StreamStatus> = None;
    let totals = totals(&campaign);
    if send(socket, &ServerMessage::Totals(totals)).await.is_err() {
        return;
    }
    if show_status(socket, &campaign, &mut shown).await.is_err() {
        return;
    }
    let mut ping = tokio::time::interval(PING_INTERVAL);
    ping.tick().await;
    let mut ended = false;
    loop {
        let sent = tokio::select! {
            event = stream.next(), if !ended => match event {
                Ok(Some(Event::Result(result))) => send(socket, &ServerMessage::Result(shown_result(id, &result))).await,
                Ok(Some(Event::Progress(campaign))) => show_status(socket, &campaign, &mut shown).await,
                Ok(Some(Event::End(campaign))) => {
                    // The stream stays open; the client closes when it has seen enough.
                    ended = true;
                    show_status(socket, &campaign, &mut shown).await
                }
                Ok(None) => return,
                Err(QueriesError::NoLonger) => {
                    let _ = send(socket, &ServerMessage::Error(ServerMessage::UNAUTHORIZED.to_owned())).await;
                    return;
                }
                Err(error) => {
                    tracing::warn!(error = muster_http::error_chain(&error), "a result stream broke off");
                    return;
                }
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => Ok(()),
            },
            _ = ping.tick() => socket.send(Message::Ping(bytes::Bytes::new())).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

fn totals(campaign: &Campaign) -> StreamTotals {
    StreamTotals {
        count: campaign.hosts.targeted,
        online: campaign.hosts.online,
        offline: campaign.hosts.targeted - campaign.hosts.online,
        missing_in_action: 0,
    }
}

/// Expected are the hosts that were online; a host that came back can make more answers than that.
async fn show_status(
    socket: &mut WebSocket,
    campaign: &Campaign,
    shown: &mut Option<StreamStatus>,
) -> Result<(), axum::Error> {
    let answered = campaign.hosts.answered + campaign.hosts.failed;
    let mut status = StreamStatus::new(campaign.hosts.online, answered);
    if campaign.status != crate::CampaignStatus::Running {
        // Nothing more will come: clients that wait for the rest would wait for ever.
        status = StreamStatus::new(answered, answered);
    }
    if shown.as_ref() == Some(&status) {
        return Ok(());
    }
    *shown = Some(status);
    send(socket, &ServerMessage::Status(status)).await
}

fn shown_result(campaign_id: i64, result: &HostResult) -> StreamResult {
    let host = StreamHost {
        id: result.host_id.0,
        hostname: result.hostname.clone(),
        display_name: result.display_name.clone(),
    };
    if let Some(error) = &result.error {
        return StreamResult::failed(campaign_id, host, error.clone());
    }
    let rows: Vec<Row> = serde_json::from_str(result.rows.get()).unwrap_or_default();
    let stats: Option<Stats> = result
        .stats
        .as_ref()
        .and_then(|stats| serde_json::from_str(stats.get()).ok());
    StreamResult::answered(campaign_id, host, &rows, stats)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn pages_of_other_origins_are_refused_and_programs_are_not() {
        let headers = |origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::HOST,
                HeaderValue::from_static("muster.example.com:8443"),
            );
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            headers
        };
        assert!(!is_foreign(&headers(None)));
        assert!(!is_foreign(&headers(Some(
            "https://muster.example.com:8443"
        ))));
        for origin in [
            "https://evil.example.com",
            "https://muster.example.com",
            "null",
        ] {
            assert!(is_foreign(&headers(Some(origin))), "{origin}");
        }
    }
}
