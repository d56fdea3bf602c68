//! A connection's watch: cuts clients that hold it without getting anywhere.
//!
//! Hyper bounds how long a kept connection may be idle, which for agents has to be minutes. That is far too long for a
//! client that has begun a request and drips it byte by byte, or that never reads its answer. Here both are bounded
//! beneath hyper, where bytes move:
//!
//! - a first request must be complete within [`FIRST_REQUEST_TIME`] of the connection,
//! - a head that has begun must be complete within [`HEAD_TIME`],
//! - an answer must move on at least every [`WRITE_TIME`],
//! - an upgraded connection ends when the server stops: its owner sees the client leave.
//!
//! Not responsible for: bodies of requests (`muster_http::read_body` bounds them), HTTP/2 (it has its own pings and
//! limits; only its first request and its writes are watched), upgraded connections (their owners bound them).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long a new connection may take until its first request is complete.
pub const FIRST_REQUEST_TIME: Duration = Duration::from_secs(30);
/// How long the head of a later HTTP/1.1 request may take once it has begun.
pub const HEAD_TIME: Duration = Duration::from_secs(15);
/// How long a client may leave an answer waiting without reading any of it.
pub const WRITE_TIME: Duration = Duration::from_secs(60);

/// How HTTP/2 begins.
const HTTP2_PREFACE: &[u8] = b"PRI ";

/// What the requests of a connection tell its guard.
#[derive(Debug, Default)]
pub struct Watch {
    /// How many requests had a complete head.
    begun: AtomicU32,
    /// How many of them have no answer yet.
    under_way: AtomicU32,
    upgraded: AtomicBool,
}

impl Watch {
    /// A request's head is complete.
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// Its answer begins.
    pub fn end(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// From now on the connection speaks something else.
    pub fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }
}

/// A connection that is watched.
///
/// `H` is held while the connection lasts, upgraded or not.
pub struct Guarded<T, H> {
    stream: T,
    watch: Arc<Watch>,
    stop: CancellationToken,
    /// Made when the connection was upgraded.
    stopped: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _held: H,
    /// How many requests had begun when bytes were last looked at.
    seen: u32,
    /// Whether bytes have come since then that belong to no request yet.
    has_begun_head: bool,
    is_http2: bool,
    is_new: bool,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl<T, H> Guarded<T, H> {
    /// Watches a connection that has just been made.
    pub fn new(stream: T, watch: Arc<Watch>, stop: CancellationToken, held: H) -> Self {
        Self {
            stream,
            watch,
            stop,
            stopped: None,
            _held: held,
            seen: 0,
            has_begun_head: false,
            is_http2: false,
            is_new: true,
            // Made when it is first needed: most requests arrive whole.
            reading: None,
            writing: None,
        }
    }

    /// How long the client may take for what is waited for now; none when nothing bounds it here.
    fn patience(&mut self) -> Option<Duration> {
        let begun = self.watch.begun.load(Ordering::Relaxed);
        if begun != self.seen {
            self.seen = begun;
            self.has_begun_head = false;
            self.reading = None;
        }
        let is_busy = self.watch.under_way.load(Ordering::Relaxed) > 0;
        if is_busy || self.watch.upgraded.load(Ordering::Relaxed) {
            None
        } else if begun == 0 {
            Some(FIRST_REQUEST_TIME)
        } else {
            (self.has_begun_head && !self.is_http2).then_some(HEAD_TIME)
        }
    }

    /// Whether the connection is an upgraded one and the server stops.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        if !self.watch.upgraded.load(Ordering::Relaxed) {
            return false;
        }
        let stop = &self.stop;
        let stopped = self
            .stopped
            .get_or_insert_with(|| Box::pin(stop.clone().cancelled_owned()));
        stopped.as_mut().poll(context).is_ready()
    }

    /// Nothing moves for now: whether it has been so for too long.
    fn wait(
        timer: &mut Option<Pin<Box<Sleep>>>,
        patience: Option<Duration>,
        context: &mut Context<'_>,
    ) -> io::Result<()> {
        let Some(patience) = patience else {
            *timer = None;
            return Ok(());
        };
        let timer = timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        match timer.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client was too slow",
            )),
        }
    }

    fn wrote<R>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        match result {
            Poll::Ready(result) => {
                self.writing = None;
                Poll::Ready(result)
            }
            Poll::Pending => match Self::wait(&mut self.writing, Some(WRITE_TIME), context) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }
}

impl<T: AsyncRead + Unpin, H: Unpin> AsyncRead for Guarded<T, H> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_over(context) {
            return Poll::Ready(Ok(()));
        }
        let patience = this.patience();
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
            Poll::Ready(result) => {
                let bytes = &buffer.filled()[before..];
                if this.is_new && !bytes.is_empty() {
                    this.is_new = false;
                    this.is_http2 = bytes.starts_with(HTTP2_PREFACE);
                }
                // The time of a head runs from its first byte; further ones do not begin it anew.
                this.has_begun_head |=
                    !bytes.is_empty() && this.watch.under_way.load(Ordering::Relaxed) == 0;
                Poll::Ready(result)
            }
            Poll::Pending => match Self::wait(&mut this.reading, patience, context) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }
}

impl<T: AsyncWrite + Unpin, H: Unpin> AsyncWrite for Guarded<T, H> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.wrote(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.wrote(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.wrote(context, result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn guarded() -> (DuplexStream, Guarded<DuplexStream, ()>, Arc<Watch>) {
        let (client, server) = duplex(64);
        let watch = Arc::new(Watch::default());
        let stop = CancellationToken::new();
        let guarded = Guarded::new(server, Arc::clone(&watch), stop, ());
        (client, guarded, watch)
    }

    /// How many seconds a read waits until it is given up; none when it is not within an hour.
    async fn patience(stream: &mut Guarded<DuplexStream, ()>) -> Option<u64> {
        let start = tokio::time::Instant::now();
        let mut buffer = [0; 64];
        let read = tokio::time::timeout(Duration::from_secs(3_600), stream.read(&mut buffer));
        match read.await {
            Err(_) => None,
            Ok(result) => {
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
                Some(start.elapsed().as_secs())
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_or_drips_its_first_request_is_cut() {
        let (_client, mut stream, _) = guarded();
        assert_eq!(patience(&mut stream).await, Some(30));
        let (mut client, mut stream, _) = guarded();
        let dripping = tokio::spawn(async move {
            for byte in b"GET / HTTP/1.1\r\nA: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb" {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if client.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        });
        let start = tokio::time::Instant::now();
        let error = loop {
            if let Err(error) = stream.read(&mut [0; 64]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 30);
        drop(stream);
        dripping.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_nothing_is_cut_here_but_a_later_head_that_has_begun_is() {
        let (mut client, mut stream, watch) = guarded();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        stream.read_exact(&mut [0; 18]).await.unwrap();
        watch.begin();
        assert_eq!(patience(&mut stream).await, None, "a body is not a head");
        watch.end();
        assert_eq!(patience(&mut stream).await, None, "kept connections wait");
        client.write_all(b"G").await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        assert_eq!(patience(&mut stream).await, Some(15));
    }

    #[tokio::test(start_paused = true)]
    async fn http2_and_upgraded_connections_may_send_what_belongs_to_no_request() {
        for preface in [b"PRI * HTTP/2.0".as_slice(), b"GET / HTTP/1.1"] {
            let (mut client, mut stream, watch) = guarded();
            client.write_all(preface).await.unwrap();
            stream.read_exact(&mut [0; 14]).await.unwrap();
            watch.begin();
            if preface.starts_with(b"GET") {
                watch.upgrade();
            }
            watch.end();
            client.write_all(b"ping").await.unwrap();
            stream.read_exact(&mut [0; 4]).await.unwrap();
            assert_eq!(patience(&mut stream).await, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upgraded_connection_ends_when_the_server_stops_and_gives_its_place_back() {
        let (_client, server) = duplex(64);
        let (watch, stop, held) = (
            Arc::new(Watch::default()),
            CancellationToken::new(),
            Arc::new(()),
        );
        let mut stream = Guarded::new(server, Arc::clone(&watch), stop.clone(), Arc::clone(&held));
        watch.begin();
        watch.upgrade();
        watch.end();
        assert!(
            tokio::time::timeout(Duration::from_secs(3_600), stream.read(&mut [0; 4]))
                .await
                .is_err()
        );
        stop.cancel();
        assert_eq!(stream.read(&mut [0; 4]).await.unwrap(), 0);
        drop(stream);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_reads_its_answer_is_cut() {
        let (mut client, mut stream, _) = guarded();
        let start = tokio::time::Instant::now();
        let error = stream.write_all(&[0; 1_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 60);
        client.read_exact(&mut [0; 64]).await.unwrap();
    }
}
