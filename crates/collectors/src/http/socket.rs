//! A socket of an agent, or of several behind a gateway: one task that answers messages one after the other, and in between
//! tells what there is to tell.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::extract::ws::{CloseCode, CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use muster_clock::Timestamp;
use muster_http::error_chain;
use muster_identity::CollectorId;
use muster_wire_opamp::proto::AgentToServer;
use muster_wire_opamp::{DecodeError, Framing, Outgoing, Refusal, decode_frame, encode_frame};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Error as SocketError;
use tokio_util::sync::CancellationToken;

use super::opamp::without_content;
use crate::collectors::Session;
use crate::limits::{MAX_MESSAGE_BYTES, message_limit};
use crate::live::{Handle, Wishes};
use crate::pace::Pace;
use crate::record::LineKey;
use crate::{Collectors, ExchangeError};

/// Room for what an agent sends, in bytes; more is found when it is needed. The default is 128 KiB, for each of thousands.
pub(super) const READ_BUFFER_BYTES: usize = 4 * 1024;
/// The largest frame that is read at all, in bytes.
pub(super) const MAX_FRAME_BYTES: usize = MAX_MESSAGE_BYTES + 16;
/// How often the server tries whether a peer is there that says nothing.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Without any sign of life for so long a socket is closed.
const SILENCE: Duration = Duration::from_secs(90);
/// How soon after an agent's first message its credential is looked at again: it may have been taken away at that moment.
const SECOND_LOOK: Duration = Duration::from_millis(500);
/// How long a peer may take to read what it is sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// When it is tried again to tell agents what could not be read.
const PUSH_AGAIN: Duration = Duration::from_secs(5);
/// How many messages are taken at once.
const BURST_MESSAGES: u32 = 100;
/// How often a further one is taken, per agent on the socket.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(100);
/// How many frames in a row may make no sense.
const MAX_BAD_FRAMES: u32 = 20;

/// Why a socket ends.
enum End {
    /// The peer went.
    Gone,
    /// The server stops, or wants it closed: with this code.
    Close(CloseCode, &'static str),
}

type Going = Result<(), End>;

const UNAUTHORIZED: End = End::Close(close_code::POLICY, "");
const TOO_LARGE: End = End::Close(close_code::SIZE, "the message is too large");
const TRY_AGAIN: End = End::Close(close_code::AGAIN, "try again");

struct Actor {
    socket: WebSocket,
    collectors: Collectors,
    session: Session,
    line: LineKey,
    handle: Handle,
    framing: Framing,
    opened: Instant,
    heard: Instant,
    pace: Pace,
    read_after: Instant,
    bad_frames: u32,
    look_at: Option<Instant>,
    /// Whether the peer owes an answer to a ping.
    is_tried: bool,
    /// Agents that could not be told what there is, since a dependency was away.
    owed: BTreeSet<CollectorId>,
}

/// Serves a socket until it ends.
pub(super) async fn serve(
    socket: WebSocket,
    collectors: Collectors,
    session: Session,
    line: LineKey,
    stopping: CancellationToken,
) {
    let now = collectors.now();
    let mut actor = Actor {
        handle: collectors.live().open(session.connection.id, now),
        socket,
        session,
        line,
        framing: Framing::Header,
        opened: Instant::now(),
        heard: Instant::now(),
        pace: Pace::new(Timestamp::EPOCH),
        read_after: Instant::now(),
        bad_frames: 0,
        look_at: None,
        is_tried: false,
        owed: BTreeSet::new(),
        collectors,
    };
    let end = actor.run(&stopping).await;
    // Agents whose server stops are not gone: they come again at once, or to another.
    if !stopping.is_cancelled() {
        let held = actor.handle.held();
        actor
            .collectors
            .closed(&actor.session, actor.line, held)
            .await;
    }
    if let End::Close(code, reason) = end {
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        let _ = actor.write(Message::Close(Some(frame))).await;
    }
}

impl Actor {
    async fn run(&mut self, stopping: &CancellationToken) -> End {
        let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let look_at = self.look_at.unwrap_or_else(|| Instant::now() + SILENCE);
            let may_read = Instant::now() >= self.read_after;
            let going = tokio::select! {
                () = stopping.cancelled() => Err(End::Close(close_code::RESTART, "the server stops")),
                wishes = self.handle.wishes() => self.look(wishes).await,
                frame = self.socket.recv(), if may_read => match frame {
                    Some(Ok(message)) => self.take(message).await,
                    Some(Err(error)) => Err(end_of(error)),
                    None => Err(End::Gone),
                },
                () = tokio::time::sleep_until(self.read_after), if !may_read => Ok(()),
                () = tokio::time::sleep_until(look_at), if self.look_at.is_some() => {
                    self.look_at = None;
                    let owed = std::mem::take(&mut self.owed);
                    match self.check().await {
                        Ok(()) => self.push(owed).await,
                        end => end,
                    }
                }
                _ = ping.tick() => self.ping().await,
            };
            if let Err(end) = going {
                return end;
            }
        }
    }

    async fn take(&mut self, message: Message) -> Going {
        self.heard = Instant::now();
        let now = self.collectors.now();
        self.handle.heard(now);
        match message {
            Message::Binary(bytes) => {
                self.slow_down();
                self.answer(bytes).await
            }
            Message::Pong(_) => {
                // Only what was asked for is taken for an answer.
                if std::mem::take(&mut self.is_tried) {
                    let held = self.handle.held();
                    self.collectors.alive(&self.session, self.line, held).await;
                } else {
                    self.slow_down();
                }
                Ok(())
            }
            Message::Close(_) => Err(End::Gone),
            Message::Text(_) => {
                self.slow_down();
                tracing::debug!("a collector sent a text frame, which is not OpAMP; it is ignored");
                Ok(())
            }
            Message::Ping(_) => {
                self.slow_down();
                Ok(())
            }
        }
    }

    /// Who sends more than its agents need is read more slowly; what it sends waits at its end.
    fn slow_down(&mut self) {
        // By a clock that nobody puts back.
        let elapsed = i64::try_from(self.opened.elapsed().as_micros()).unwrap_or(i64::MAX);
        let now = Timestamp::from_micros(elapsed);
        let agents = u32::try_from(self.handle.held().len())
            .unwrap_or(u32::MAX)
            .max(1);
        let wait = self
            .pace
            .take(now, MESSAGE_INTERVAL / agents, BURST_MESSAGES);
        if !wait.is_zero() {
            self.read_after = Instant::now() + wait;
        }
    }

    async fn answer(&mut self, bytes: Bytes) -> Going {
        let limit = message_limit();
        let message: AgentToServer = match decode_frame(bytes, limit) {
            Ok((message, framing)) => {
                self.framing = framing;
                message
            }
            Err(DecodeError::TooLarge { .. }) => return Err(TOO_LARGE),
            Err(DecodeError::UnknownHeader { .. }) => {
                return Err(End::Close(
                    close_code::PROTOCOL,
                    "the header of the message is not known",
                ));
            }
            Err(error) => {
                self.bad_frames += 1;
                if self.bad_frames > MAX_BAD_FRAMES {
                    return Err(End::Close(
                        close_code::PROTOCOL,
                        "these are no OpAMP messages",
                    ));
                }
                let outgoing =
                    Outgoing::refusal(Bytes::new(), Refusal::BadRequest, error.to_string());
                return self.send(&outgoing).await;
            }
        };
        self.bad_frames = 0;
        let reply = self
            .collectors
            .exchange(&self.session, &message)
            .await
            .map_err(end_by)?;
        if reply.is_unauthorized {
            // Others on the same socket are not to suffer for it.
            return if self.handle.held().is_empty() {
                Err(UNAUTHORIZED)
            } else {
                self.send(&reply.outgoing).await
            };
        }
        if let Some(id) = reply.collector {
            let uid = muster_wire_opamp::InstanceUid::from_wire(&message.instance_uid);
            if !self.handle.held().contains_key(&id) {
                self.look_soon(SECOND_LOOK);
            }
            if let Ok(uid) = uid
                && !self.handle.hold(id, uid, reply.is_told)
            {
                return Err(End::Close(
                    close_code::POLICY,
                    "too many agents on one connection",
                ));
            }
        }
        if encode_frame(&reply.outgoing, self.framing, message_limit()).is_err() {
            tracing::error!(
                "an answer to a collector is larger than agents take; it was answered without content"
            );
            self.send(&without_content(&message)).await?;
        } else {
            self.send(&reply.outgoing).await?;
        }
        if reply.closes {
            Err(UNAUTHORIZED)
        } else {
            Ok(())
        }
    }

    async fn send(&mut self, outgoing: &Outgoing) -> Going {
        let limit = message_limit();
        match encode_frame(outgoing, self.framing, limit) {
            Ok(bytes) => self.write(Message::Binary(bytes)).await,
            Err(error) => {
                tracing::error!(
                    error = error_chain(&error),
                    "a message to a collector is larger than agents take; it was not sent"
                );
                Ok(())
            }
        }
    }

    async fn look(&mut self, wishes: Wishes) -> Going {
        if wishes.check {
            self.check().await?;
        }
        if wishes.probe {
            self.try_peer().await?;
        }
        self.push(wishes.push).await
    }

    /// Tells agents what there is. What cannot be read now is tried again: that a dependency is away is no reason to let
    /// everybody connect anew.
    async fn push(&mut self, wishes: BTreeSet<CollectorId>) -> Going {
        for id in wishes {
            let Some(uid) = self.handle.held().get(&id).copied() else {
                continue;
            };
            match self.collectors.push(&self.session, id, uid).await {
                Ok(Some(outgoing)) => self.send(&outgoing).await?,
                Ok(None) => {}
                Err(ExchangeError::Unavailable(_) | ExchangeError::TooMany) => {
                    self.owed.insert(id);
                    self.look_soon(PUSH_AGAIN);
                }
                Err(error) => return Err(end_by(error)),
            }
        }
        Ok(())
    }

    /// Whether the credential is still good, and every agent on it still there. A database that is away takes nothing away.
    async fn check(&mut self) -> Going {
        let held = self.handle.held();
        let admits = self.collectors.still_admits(&self.session, held).await;
        match admits {
            Ok(gone) => {
                self.handle.let_go(&gone);
                Ok(())
            }
            Err(ExchangeError::Unavailable(_) | ExchangeError::TooMany) => Ok(()),
            Err(ExchangeError::Unauthorized { .. }) => Err(UNAUTHORIZED),
        }
    }

    async fn ping(&mut self) -> Going {
        if self.heard.elapsed() > SILENCE {
            return Err(End::Gone);
        }
        self.check().await?;
        if self.heard.elapsed() + Duration::from_secs(1) < PING_INTERVAL {
            return Ok(());
        }
        self.try_peer().await
    }

    async fn try_peer(&mut self) -> Going {
        self.is_tried = true;
        self.write(Message::Ping(Bytes::new())).await
    }

    /// A peer that reads nothing is gone: it must not keep this socket from hearing that it has to end.
    async fn write(&mut self, message: Message) -> Going {
        match tokio::time::timeout(SEND_TIMEOUT, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }

    /// The credential is looked at again after this time, or earlier when that was meant already.
    fn look_soon(&mut self, wait: Duration) {
        self.look_at.get_or_insert(Instant::now() + wait);
    }
}

fn end_by(error: ExchangeError) -> End {
    match error {
        ExchangeError::Unauthorized { .. } => UNAUTHORIZED,
        ExchangeError::TooMany => TRY_AGAIN,
        ExchangeError::Unavailable(error) => {
            tracing::warn!(
                error = error_chain(&error),
                "closed the socket of a collector: a dependency is unavailable"
            );
            TRY_AGAIN
        }
    }
}

fn end_of(error: axum::Error) -> End {
    let inner = error.into_inner();
    match inner.downcast_ref::<SocketError>() {
        Some(SocketError::Capacity(_)) => TOO_LARGE,
        _ => End::Gone,
    }
}
