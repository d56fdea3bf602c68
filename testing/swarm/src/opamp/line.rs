//! An agent's connection to the server: a socket, or requests over plain HTTP.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::Full;
use hyper::{Request, StatusCode};
use muster_wire_opamp::proto::{AgentToServer, ServerToAgent};
use muster_wire_opamp::{
    DecodeError, EncodeError, Framing, MessageLimit, decode_body, decode_frame, encode_body,
    encode_frame,
};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::header::{HeaderValue, InvalidHeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::Carrier;
use crate::connection::Connection;
use crate::host::Target;

/// Where the server speaks OpAMP.
const PATH: &str = "/v1/opamp";
/// A connection or an answer that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a socket may take to be closed by both.
const CLOSE_TIME: Duration = Duration::from_secs(5);
/// Room for what a peer sends, in bytes; the default is 128 KiB, for each of thousands.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// How much of a message is in one frame: clients in Go have 4 KiB for it, with the frame's header.
const MAX_FRAME_BYTES: usize = 4 * 1024 - 14;

/// What goes wrong on a connection, and what a server should not say.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("the upgrade was answered {0}")]
    Upgrade(StatusCode),
    #[error("socket: {0}")]
    Socket(Box<SocketError>),
    #[error("the server closed the socket: {0}")]
    Closed(String),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("a request was answered {0}")]
    Status(StatusCode),
    #[error("the request cannot be made: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the credential is no header: {0}")]
    Credential(#[from] InvalidHeaderValue),
    #[error("what the server sent cannot be read: {0}")]
    Decode(#[from] DecodeError),
    #[error("the message is too large: {0}")]
    Encode(#[from] EncodeError),
    #[error("no answer within {PATIENCE:?}")]
    Late,
    #[error("the server refused a message: {0}")]
    Refused(String),
    #[error("the first answer offers no key")]
    NoOffer,
    #[error("what was offered cannot be used: {0}")]
    BadOffer(&'static str),
}

impl From<SocketError> for LineError {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Http(response) => Self::Upgrade(response.status()),
            error => Self::Socket(Box::new(error)),
        }
    }
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// A connection on which an agent proved who it is.
pub(super) enum Line {
    Socket(Box<Socket>),
    Http {
        connection: Connection,
        authorization: String,
    },
}

/// Within [`PATIENCE`], or it has failed.
async fn in_time<T>(doing: impl Future<Output = Result<T, LineError>>) -> Result<T, LineError> {
    let done = tokio::time::timeout(PATIENCE, doing).await;
    done.unwrap_or(Err(LineError::Late))
}

impl Line {
    /// A new one.
    pub(super) async fn open(
        target: &Target,
        carrier: Carrier,
        secret: &str,
    ) -> Result<Self, LineError> {
        // It is large, and needed once.
        let opening = Box::pin(async {
            let stream = target.stream().await?;
            let authorization = format!("Bearer {secret}");
            if carrier == Carrier::Http {
                let connection = Connection::over(stream).await?;
                return Ok(Self::Http {
                    connection,
                    authorization,
                });
            }
            let mut request = format!("wss://localhost{PATH}").into_client_request()?;
            let authorization = HeaderValue::from_str(&authorization)?;
            request.headers_mut().insert("authorization", authorization);
            let config = WebSocketConfig::default()
                .read_buffer_size(READ_BUFFER_BYTES)
                .write_buffer_size(0);
            let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
            Ok(Self::Socket(Box::new(opened.await?.0)))
        });
        in_time(opening).await
    }

    /// Says something and waits for an answer.
    pub(super) async fn ask(
        &mut self,
        message: &AgentToServer,
    ) -> Result<ServerToAgent, LineError> {
        let limit = MessageLimit::default();
        in_time(async {
            match self {
                Self::Socket(socket) => {
                    let bytes = encode_frame(message, Framing::Header, limit)?;
                    say(socket, bytes).await?;
                    hear(socket).await
                }
                Self::Http {
                    connection,
                    authorization,
                } => {
                    let request = Request::post(format!("https://localhost{PATH}"))
                        .header("content-type", "application/x-protobuf")
                        .header("authorization", authorization.as_str())
                        .body(Full::new(encode_body(message, limit)?))?;
                    let (status, body) = connection.send(request).await?;
                    if status != StatusCode::OK {
                        return Err(LineError::Status(status));
                    }
                    Ok(decode_body(body, limit)?)
                }
            }
        })
        .await
    }

    /// Waits for what the server says without being asked, which it can on a socket only.
    pub(super) async fn hear(&mut self) -> Result<ServerToAgent, LineError> {
        match self {
            Self::Socket(socket) => hear(socket).await,
            Self::Http { .. } => std::future::pending().await,
        }
    }

    /// Says goodbye, as a client does that stops, and waits until both have closed.
    pub(super) async fn close(mut self, goodbye: &AgentToServer) -> Result<(), LineError> {
        self.ask(goodbye).await?;
        let Self::Socket(mut socket) = self else {
            return Ok(());
        };
        socket.close().await?;
        let closing = async { while let Some(Ok(_)) = socket.next().await {} };
        tokio::time::timeout(CLOSE_TIME, closing)
            .await
            .map_err(|_| LineError::Late)
    }
}

/// Sends a message in frames of at most so much, as clients in Go do.
async fn say(socket: &mut Socket, bytes: Bytes) -> Result<(), LineError> {
    let mut rest = bytes;
    let mut code = Data::Binary;
    while rest.len() > MAX_FRAME_BYTES {
        let frame = Frame::message(rest.split_to(MAX_FRAME_BYTES), OpCode::Data(code), false);
        socket.feed(Message::Frame(frame)).await?;
        code = Data::Continue;
    }
    let frame = Frame::message(rest, OpCode::Data(code), true);
    Ok(socket.send(Message::Frame(frame)).await?)
}

async fn hear(socket: &mut Socket) -> Result<ServerToAgent, LineError> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => return read(bytes),
            Some(Ok(Message::Close(frame))) => {
                let reason = frame.map(|frame| format!("{} {}", frame.code, frame.reason));
                return Err(LineError::Closed(reason.unwrap_or_default()));
            }
            // The library answers pings.
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err(LineError::Closed("without a word".to_owned())),
        }
    }
}

fn read(bytes: Bytes) -> Result<ServerToAgent, LineError> {
    Ok(decode_frame(bytes, MessageLimit::default())?.0)
}
