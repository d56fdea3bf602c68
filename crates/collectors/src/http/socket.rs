//! A socket of an agent, or of several behind a gateway: one task that answers messages one after the other, and in between
//! tells what there is to tell.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::time::Duration;

use axum::extract::ws::{CloseCode, CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use muster_clock::Timestamp;
use muster_http::error_chain;
use muster_identity::CollectorId;
use muster_wire_opamp::limits::DEFAULT_MESSAGE_BYTES;
use muster_wire_opamp::proto::AgentToServer;
use muster_wire_opamp::{
    DecodeError, Framing, InstanceUid, MessageLimit, Outgoing, Refusal, decode_frame, encode_frame,
};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Error as SocketError;
use tokio_util::sync::CancellationToken;

use super::opamp::without_content;
use crate::collectors::{Reply, Session};
use crate::knocks::{Hold, Knocker};
use crate::live::{Handle, Overdue, Wishes};
use crate::pace::Pace;
use crate::record::LineKey;
use crate::{Collectors, ExchangeError};

/// Room for what an agent sends, in bytes; more is found when it is needed. The default is 128 KiB, for each of thousands, and so
/// much is overwritten at each read.
pub(super) const READ_BUFFER_BYTES: usize = 1024;
/// The largest frame that is read at all, in bytes: a little more than a message may have, so that most that are too large are
/// told so in good order.
pub(super) const MAX_FRAME_BYTES: usize = DEFAULT_MESSAGE_BYTES + 16;
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
/// What an agent is told to wait that is one too many, on a socket that others share.
const TOO_MANY_WAIT: Duration = Duration::from_secs(60);
/// How many frames in a row may make no sense.
const MAX_BAD_FRAMES: u32 = 20;

/// Why a socket ends.
enum End {
    /// The peer went.
    Gone,
    /// The server stops, or wants it closed: with this code.
    Close(CloseCode, &'static str),
    /// The same; whoever comes again and again for the same is told later each time.
    CloseLater(CloseCode, &'static str, Knocker),
}

type Going = Result<(), End>;

const UNAUTHORIZED: End = End::Close(close_code::POLICY, "");
const TRY_AGAIN: End = End::Close(close_code::AGAIN, "try again");

/// Whoever came by this socket was turned away; it stays open for a while.
struct HeldOff {
    until: Instant,
    /// An agent that is revoked: when it is let in again, it is to come at once.
    revoked: Option<CollectorId>,
    _hold: Hold,
}

struct Actor {
    socket: WebSocket,
    collectors: Collectors,
    session: Session,
    line: LineKey,
    handle: Handle,
    framing: Framing,
    opened: Instant,
    pace: Pace,
    read_after: Instant,
    bad_frames: u32,
    look_at: Option<Instant>,
    /// Whether the peer owes an answer to a ping.
    is_tried: bool,
    /// Agents that could not be told what there is, since a dependency was away.
    owed: BTreeSet<CollectorId>,
    held_off: Option<HeldOff>,
    /// The last message, if it was large, until there is nothing to read. While it is held the next reading begins in a small
    /// buffer of its own; else the socket would keep the room for its largest message for ever, which is the one that tells
    /// everything.
    large: Option<Bytes>,
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
    collectors.live().watch();
    let mut actor = Actor {
        handle: collectors.live().open(session.connection.id, now),
        socket,
        session,
        line,
        framing: Framing::Header,
        opened: Instant::now(),
        pace: Pace::new(Timestamp::EPOCH),
        read_after: Instant::now(),
        bad_frames: 0,
        look_at: None,
        is_tried: false,
        owed: BTreeSet::new(),
        held_off: None,
        large: None,
        collectors,
    };
    let end = actor.run(&stopping).await;
    // Agents whose server stops are not gone: they come again at once, or to another.
    if !stopping.is_cancelled() {
        let held = actor.handle.held();
        let closed = actor.collectors.closed(&actor.session, actor.line, held);
        Box::pin(closed).await;
    }
    let Actor {
        mut socket,
        collectors,
        handle,
        ..
    } = actor;
    // Nobody is reached here any more.
    drop(handle);
    let (code, reason) = match end {
        End::Gone => return,
        End::Close(code, reason) => (code, reason),
        End::CloseLater(code, reason, who) => {
            linger(&collectors, who, &stopping).await;
            (code, reason)
        }
    };
    let frame = CloseFrame {
        code,
        reason: reason.into(),
    };
    let closing = socket.send(Message::Close(Some(frame)));
    let _ = tokio::time::timeout(SEND_TIMEOUT, closing).await;
}

/// The next message; lets go of the last large one when it has to be waited for.
async fn receive(
    socket: &mut WebSocket,
    large: &mut Option<Bytes>,
) -> Option<Result<Message, axum::Error>> {
    let mut next = std::pin::pin!(socket.recv());
    poll_fn(|context| {
        let polled = next.as_mut().poll(context);
        if polled.is_pending() {
            *large = None;
        }
        polled
    })
    .await
}

/// Before somebody is told why its socket ends: clients connect again at once, and do the same.
async fn linger(collectors: &Collectors, who: Knocker, stopping: &CancellationToken) {
    let hold = collectors.knocks().hold(who, collectors.now());
    if let Some(hold) = hold {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = tokio::time::sleep(hold.wait) => {}
        }
    }
}

impl Actor {
    async fn run(&mut self, stopping: &CancellationToken) -> End {
        loop {
            let now = Instant::now();
            let look_at = self.look_at.unwrap_or(now);
            let held_until = self.held_off.as_ref().map(|held| held.until);
            let may_read = now >= self.read_after;
            let going = tokio::select! {
                () = stopping.cancelled() => Err(End::Close(close_code::RESTART, "the server stops")),
                wishes = self.handle.wishes() => self.look(wishes).await,
                frame = receive(&mut self.socket, &mut self.large), if may_read => match frame {
                    Some(Ok(message)) => self.take(message).await,
                    Some(Err(error)) => Err(self.end_of(error)),
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
                () = tokio::time::sleep_until(held_until.unwrap_or(look_at)), if held_until.is_some() => Err(UNAUTHORIZED),
            };
            if let Err(end) = going {
                return end;
            }
        }
    }

    async fn take(&mut self, message: Message) -> Going {
        let now = self.collectors.now();
        self.handle.heard(now);
        match message {
            Message::Binary(bytes) => {
                self.slow_down();
                self.large = Some(bytes.clone()).filter(|bytes| bytes.len() > READ_BUFFER_BYTES);
                self.answer(bytes).await
            }
            Message::Pong(_) => {
                // Only what was asked for is taken for an answer.
                if std::mem::take(&mut self.is_tried) {
                    let held = self.handle.held();
                    Box::pin(self.collectors.alive(&self.session, self.line, held)).await;
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
        let limit = MessageLimit::default();
        let message: AgentToServer = match decode_frame(bytes, limit) {
            Ok((message, framing)) => {
                self.framing = framing;
                message
            }
            Err(DecodeError::TooLarge { .. }) => return Err(self.too_large()),
            Err(DecodeError::UnknownHeader { .. }) => {
                return Err(End::CloseLater(
                    close_code::PROTOCOL,
                    "the header of the message is not known",
                    self.knocker(),
                ));
            }
            Err(error) => {
                self.bad_frames += 1;
                if self.bad_frames > MAX_BAD_FRAMES {
                    return Err(End::CloseLater(
                        close_code::PROTOCOL,
                        "these are no OpAMP messages",
                        self.knocker(),
                    ));
                }
                let outgoing =
                    Outgoing::refusal(Bytes::new(), Refusal::BadRequest, error.to_string());
                return self.send(&outgoing).await;
            }
        };
        self.bad_frames = 0;
        self.handle.spoke();
        let uid = InstanceUid::from_wire(&message.instance_uid).ok();
        let who = uid.map_or_else(|| self.knocker(), Knocker::Agent);
        // On the heap only while it lasts: thousands of sockets have nothing to answer.
        let exchange = Box::pin(self.collectors.exchange(&self.session, &message));
        let reply = match exchange.await {
            Ok(reply) => reply,
            // Others on the same socket are not to suffer for one agent that is too many.
            Err(ExchangeError::TooMany) if !self.handle.held().is_empty() => {
                let retry_after = Some(TOO_MANY_WAIT);
                let refusal = Refusal::Unavailable { retry_after };
                let outgoing = Outgoing::refusal(message.instance_uid, refusal, "too many agents");
                return self.send(&outgoing).await;
            }
            Err(error) => return Err(self.end_by(error, who)),
        };
        if reply.is_unauthorized || reply.closes {
            return self.turn_away(reply, who).await;
        }
        if let Some(id) = reply.collector {
            if !self.handle.held().contains_key(&id) {
                self.look_soon(SECOND_LOOK);
                self.let_in(uid);
            }
            if let Some(uid) = uid
                && !self.handle.hold(id, uid, reply.is_told)
            {
                return Err(End::Close(
                    close_code::POLICY,
                    "too many agents on one connection",
                ));
            }
        }
        if encode_frame(&reply.outgoing, self.framing, MessageLimit::default()).is_err() {
            tracing::error!(
                "an answer to a collector is larger than agents take; it was answered without content"
            );
            self.send(&without_content(&message)).await
        } else {
            self.send(&reply.outgoing).await
        }
    }

    /// Tells somebody that it may not come. Others on the same socket are not to suffer for it; when there are none, the socket
    /// is closed, later each time.
    async fn turn_away(&mut self, reply: Reply, who: Knocker) -> Going {
        if !self.handle.held().is_empty() {
            self.send(&reply.outgoing).await?;
            return if reply.is_unauthorized {
                Ok(())
            } else {
                Err(UNAUTHORIZED)
            };
        }
        if self.held_off.is_none() {
            let hold = self.collectors.knocks().hold(who, self.collectors.now());
            let Some(hold) = hold else {
                if !reply.is_unauthorized {
                    self.send(&reply.outgoing).await?;
                }
                return Err(UNAUTHORIZED);
            };
            if let Some(id) = reply.collector {
                self.handle.watch(id);
                // It may have been let in at this moment.
                self.look_soon(SECOND_LOOK);
            }
            self.held_off = Some(HeldOff {
                until: Instant::now() + hold.wait,
                revoked: reply.collector,
                _hold: hold,
            });
        }
        self.send(&reply.outgoing).await
    }

    /// An agent speaks on this socket that may.
    fn let_in(&mut self, uid: Option<InstanceUid>) {
        self.held_off = None;
        self.handle.watch_nobody();
        if let Some(uid) = uid {
            self.collectors.knocks().forget(uid);
        }
    }

    /// Who is on the other end, when no message says it.
    fn knocker(&self) -> Knocker {
        Knocker::line(self.line, self.session.address)
    }

    fn too_large(&self) -> End {
        let who = self.knocker();
        End::CloseLater(close_code::SIZE, "the message is too large", who)
    }

    fn end_of(&self, error: axum::Error) -> End {
        match error.into_inner().downcast_ref::<SocketError>() {
            Some(SocketError::Capacity(_)) => self.too_large(),
            _ => End::Gone,
        }
    }

    fn end_by(&self, error: ExchangeError, who: Knocker) -> End {
        match error {
            ExchangeError::Unauthorized { .. } => UNAUTHORIZED,
            ExchangeError::TooMany => End::CloseLater(close_code::AGAIN, "try again", who),
            ExchangeError::Unavailable(error) => {
                self.collectors.found_away(&error);
                tracing::warn!(
                    error = error_chain(&error),
                    "closed the socket of a collector: a dependency is unavailable"
                );
                if error.is_unavailable() {
                    TRY_AGAIN
                } else {
                    // It will not be better at once.
                    End::CloseLater(close_code::AGAIN, "try again", who)
                }
            }
        }
    }

    async fn send(&mut self, outgoing: &Outgoing) -> Going {
        let limit = MessageLimit::default();
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
        match self.handle.overdue().filter(|_| wishes.overdue) {
            Some(Overdue::Silent) => return Err(End::Gone),
            Some(Overdue::NeverSpoke) => {
                return Err(End::Close(close_code::POLICY, "no message came"));
            }
            None => {}
        }
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
            match Box::pin(self.collectors.push(&self.session, id, uid)).await {
                Ok(Some(outgoing)) => self.send(&outgoing).await?,
                Ok(None) => {}
                Err(ExchangeError::Unavailable(_) | ExchangeError::TooMany) => {
                    self.owed.insert(id);
                    self.look_soon(PUSH_AGAIN);
                }
                Err(error) => return Err(self.end_by(error, Knocker::Agent(uid))),
            }
        }
        Ok(())
    }

    /// Whether the credential is still good, and every agent on it still there. A database that is away takes nothing away.
    async fn check(&mut self) -> Going {
        let held = self.handle.held();
        let admits = Box::pin(self.collectors.still_admits(&self.session, held)).await;
        match admits {
            Ok(gone) => {
                self.handle.let_go(&gone);
                match self.held_off.as_ref().and_then(|held| held.revoked) {
                    Some(id) if Box::pin(self.collectors.may_come(id)).await => Err(TRY_AGAIN),
                    _ => Ok(()),
                }
            }
            Err(ExchangeError::Unavailable(_) | ExchangeError::TooMany) => Ok(()),
            Err(ExchangeError::Unauthorized { .. }) => Err(UNAUTHORIZED),
        }
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
