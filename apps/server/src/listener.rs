//! One port for HTTP/1.1 and HTTP/2, with limits against clients that are slow, many or hostile.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use muster_http::{BodyBudget, ClientAddress};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::ServiceExt as _;

use crate::guard::{Guarded, Watch};
use crate::observe::REQUEST_ID;
use crate::proxies::{Forwarded, Proxies};

/// How long a TLS handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long a kept HTTP/1.1 connection may be idle: agents ask every ten seconds to some minutes.
const IDLE_TIME: Duration = Duration::from_secs(180);
/// How many connections may wait in the kernel to be accepted: after a restart all agents come at once.
const BACKLOG: u32 = 4_096;
/// The most bytes of an HTTP/1.1 request's head.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The most bytes of an HTTP/2 request's headers.
const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;
/// The most requests of one HTTP/2 connection at a time.
const MAX_CONCURRENT_STREAMS: u32 = 64;
/// How many bytes of bodies a client may send on one HTTP/2 connection, or stream of it, before they are read.
const HTTP2_WINDOW_BYTES: u32 = 256 * 1024;
/// How many bytes of bodies may wait in memory, over all connections, until they are complete.
const MAX_BODY_BYTES_UNDER_WAY: usize = 256 * 1024 * 1024;
/// How long connections that were cut may take to notice.
const CUT_TIME: Duration = Duration::from_secs(1);
/// How often an HTTP/2 connection without traffic is tried.
const KEEP_ALIVE: Duration = Duration::from_secs(120);
/// How long to wait after `accept` failed, for want of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What every connection needs.
pub struct Service {
    /// The routes, without the URL prefix.
    pub router: Router,
    /// The URL prefix; empty for none.
    pub url_prefix: String,
    /// Proxies whose header is believed.
    pub proxies: Proxies,
}

/// Binds the listener.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // A restart must not wait for connections of the former process to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves connections until it is told to stop; then finishes what is under way, for at most `patience`.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    service: Service,
    max_connections: usize,
    stop: CancellationToken,
    patience: Duration,
) {
    let connections = TaskTracker::new();
    let serving = Arc::new(Serving {
        acceptor: tls.map(TlsAcceptor::from),
        service,
        bodies: BodyBudget::new(MAX_BODY_BYTES_UNDER_WAY),
        stop: stop.clone(),
    });
    let cut = CancellationToken::new();
    let slots = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
    loop {
        // Beyond the limit, clients wait in the kernel's queue rather than in our memory.
        let slot = tokio::select! {
            () = stop.cancelled() => break,
            slot = Arc::clone(&slots).acquire_owned() => slot.expect("the semaphore is never closed"),
        };
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_connection_error(&error) {
                        tracing::warn!(error = %error, "could not accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            },
        };
        let (serving, cut) = (Arc::clone(&serving), cut.clone());
        let held = Held {
            _slot: slot,
            _token: connections.token(),
            _counted: Counted::new(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = connection(stream, peer, serving, held) => {}
            }
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(patience, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            connections = connections.len(),
            "cut requests that did not finish in time"
        );
        cut.cancel();
        let _ = tokio::time::timeout(CUT_TIME, connections.wait()).await;
    }
}

/// What a connection holds while it lasts: also when it was upgraded to a WebSocket, which outlives its request.
#[derive(Debug)]
struct Held {
    _slot: OwnedSemaphorePermit,
    _token: TaskTrackerToken,
    _counted: Counted,
}

/// Counts itself among the open connections while it lives.
#[derive(Debug)]
struct Counted(metrics::Gauge);

impl Counted {
    fn new() -> Self {
        let gauge = metrics::gauge!("muster_connections");
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// What every connection shares.
struct Serving {
    acceptor: Option<TlsAcceptor>,
    service: Service,
    bodies: BodyBudget,
    stop: CancellationToken,
}

/// The client went away before it was accepted; nothing is wrong with us.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionAborted | ConnectionReset
    )
}

async fn connection(stream: TcpStream, peer: SocketAddr, serving: Arc<Serving>, held: Held) {
    // Small answers go out at once.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = serving.acceptor.clone() else {
        return serve_connection(stream, peer, serving, held).await;
    };
    let handshake = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream));
    let shaken = tokio::select! {
        () = serving.stop.cancelled() => return,
        shaken = handshake => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => serve_connection(stream, peer, serving, held).await,
        Ok(Err(error)) => {
            tracing::debug!(client.address = %peer, error = %error, "TLS handshake failed");
        }
        Err(_) => tracing::debug!(client.address = %peer, "TLS handshake took too long"),
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    serving: Arc<Serving>,
    held: Held,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIME)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .initial_stream_window_size(HTTP2_WINDOW_BYTES)
        .keep_alive_interval(KEEP_ALIVE);
    let watch = Arc::new(Watch::default());
    let stop = serving.stop.clone();
    let guarded = Guarded::new(stream, Arc::clone(&watch), stop.clone(), held);
    let stream = TokioIo::new(guarded);
    let answer = service_fn(move |request| {
        let (serving, watch) = (Arc::clone(&serving), Arc::clone(&watch));
        async move {
            watch.begin();
            let response = answer(&serving, peer, request).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                watch.upgrade();
            }
            watch.end();
            Ok::<_, Infallible>(breakable(response, &serving.stop))
        }
    });
    let mut connection = pin!(builder.serve_connection_with_upgrades(stream, answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            // Finishes the requests that have begun and takes no more.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(client.address = %peer, error = %error, "a connection ended early");
    }
}

async fn answer(serving: &Serving, peer: SocketAddr, request: Request<Incoming>) -> Response {
    let service = &serving.service;
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(serving.bodies.clone());
    if !service.proxies.is_trusted(peer.ip()) {
        // Anybody else could give requests the ids of others, and lead those astray who read the log.
        request.headers_mut().remove(REQUEST_ID);
    }
    let (address, forwarded) = service.proxies.client(peer.ip(), request.headers());
    request.extensions_mut().insert(ClientAddress(address));
    if forwarded {
        request.extensions_mut().insert(Forwarded);
    }
    if !service.url_prefix.is_empty() {
        match without_prefix(request.uri(), &service.url_prefix) {
            Some(uri) => *request.uri_mut() = uri,
            // orbit's own calls leave out the prefix, whatever it was given.
            None if request.uri().path().starts_with("/api/fleet/orbit/") => {}
            None => return (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
        }
    }
    let Ok(response) = service.router.clone().oneshot(request).await;
    response
}

/// An answer without a known length: a stream that may go on for hours. When the server is told to stop it breaks, so that
/// its reader comes again and resumes, rather than keep everybody waiting.
struct Streaming {
    body: Body,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl hyper::body::Body for Streaming {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // What there is goes out first.
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending if self.stopped.as_mut().poll(context).is_ready() => {
                let error = io::Error::new(io::ErrorKind::ConnectionAborted, "the server stops");
                Poll::Ready(Some(Err(axum::Error::new(error))))
            }
            polled => polled,
        }
    }
}

fn breakable(response: Response, stop: &CancellationToken) -> Response {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| {
        let stopped = Box::pin(stop.clone().cancelled_owned());
        Body::new(Streaming { body, stopped })
    })
}

/// The address below the prefix; none when it is not below.
fn without_prefix(uri: &Uri, prefix: &str) -> Option<Uri> {
    let path = uri.path().strip_prefix(prefix)?;
    let path = if path.is_empty() { "/" } else { path };
    if !path.starts_with('/') {
        return None;
    }
    let query = uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    format!("{path}{query}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_taken_off_whole_segments_only() {
        for (uri, expected) in [
            ("/muster/api/x?a=1", Some("/api/x?a=1")),
            ("/muster", Some("/")),
            ("/muster/", Some("/")),
            ("/musters/api", None),
            ("/api/x", None),
            ("https://host/muster/api", Some("/api")),
        ] {
            let stripped =
                without_prefix(&uri.parse().unwrap(), "/muster").map(|uri| uri.to_string());
            assert_eq!(stripped.as_deref(), expected, "{uri}");
        }
    }
}
