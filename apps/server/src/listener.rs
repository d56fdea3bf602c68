//! One port for HTTP/1.1 and HTTP/2, with limits against clients that are slow, many or hostile.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use muster_http::ClientAddress;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::proxies::{Network, client_address};

/// How long a TLS handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long the head of an HTTP/1.1 request may take, idle time of a kept connection included: agents ask every ten
/// seconds to a minute, and load balancers cut at an hour.
const HEAD_TIME: Duration = Duration::from_secs(180);
/// The most bytes of an HTTP/1.1 request's head.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The most bytes of an HTTP/2 request's headers.
const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;
/// The most requests of one HTTP/2 connection at a time.
const MAX_CONCURRENT_STREAMS: u32 = 128;
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
    /// Proxies whose headers are believed.
    pub trusted_proxies: Vec<Network>,
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
    let acceptor = tls.map(TlsAcceptor::from);
    let service = Arc::new(service);
    let slots = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
    let graceful = Arc::new(GracefulShutdown::new());
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
        let connection = connection(
            stream,
            peer,
            acceptor.clone(),
            Arc::clone(&service),
            graceful.watcher(),
        );
        tokio::spawn(async move {
            connection.await;
            drop(slot);
        });
    }
    drop(listener);
    let Ok(graceful) = Arc::try_unwrap(graceful) else {
        return;
    };
    if tokio::time::timeout(patience, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("cut requests that did not finish in time");
    }
}

/// The client went away before it was accepted; nothing is wrong with us.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionAborted | ConnectionReset
    )
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    service: Arc<Service>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // Small answers go out at once.
    let _ = stream.set_nodelay(true);
    match acceptor {
        None => serve_connection(stream, peer, service, watcher).await,
        Some(acceptor) => match tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await
        {
            Ok(Ok(stream)) => serve_connection(stream, peer, service, watcher).await,
            Ok(Err(error)) => {
                tracing::debug!(client.address = %peer, error = %error, "TLS handshake failed");
            }
            Err(_) => tracing::debug!(client.address = %peer, "TLS handshake took too long"),
        },
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    service: Arc<Service>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .keep_alive_interval(KEEP_ALIVE);
    let answer = service_fn(move |request| answer(Arc::clone(&service), peer, request));
    let connection = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), answer)
        .into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(client.address = %peer, error = %error, "a connection ended early");
    }
}

async fn answer(
    service: Arc<Service>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response, std::convert::Infallible> {
    let mut request = request.map(Body::new);
    let address = client_address(peer.ip(), request.headers(), &service.trusted_proxies);
    request.extensions_mut().insert(ClientAddress(address));
    if !service.url_prefix.is_empty() {
        match without_prefix(request.uri(), &service.url_prefix) {
            Some(uri) => *request.uri_mut() = uri,
            // orbit's own calls leave out the prefix, whatever it was given.
            None if request.uri().path().starts_with("/api/fleet/orbit/") => {}
            None => return Ok((StatusCode::NOT_FOUND, "404 page not found\n").into_response()),
        }
    }
    service.router.clone().oneshot(request).await
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
