//! A proxy that cuts connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Where a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cut {
    /// Nothing of the request arrives.
    BeforeTheRequest = 0,
    /// The request arrives whole, nothing of the answer comes back.
    AfterTheRequest = 1,
    /// Half of the answer comes back.
    InTheAnswer = 2,
}

impl Cut {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::BeforeTheRequest,
        Self::AfterTheRequest,
        Self::InTheAnswer,
    ];
}

/// A proxy in front of a server without TLS, for clients that make a connection per request.
pub struct Proxy {
    address: SocketAddr,
    cut: Arc<AtomicU8>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Starts one on a free port of loopback.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let cut = Arc::new(AtomicU8::new(0));
        let task = tokio::spawn({
            let cut = Arc::clone(&cut);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let cut = cut.load(Ordering::SeqCst);
                    tokio::spawn(async move {
                        // What fails here is what is played.
                        let _ = Box::pin(pass(client, server, cut)).await;
                    });
                }
            }
        });
        Self { address, cut, task }
    }

    /// Where clients find it.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it cuts from now on.
    pub fn cut(&self, cut: Cut) {
        self.cut.store(cut as u8, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut client: TcpStream, server: SocketAddr, cut: u8) -> std::io::Result<()> {
    if cut == Cut::BeforeTheRequest as u8 {
        // A byte is read, so that the client has begun.
        client.read_u8().await?;
        return Ok(());
    }
    let mut method = [0; 4];
    while client.peek(&mut method).await? < method.len() {}
    let is_head = &method == b"HEAD";
    let mut upstream = TcpStream::connect(server).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = upstream.split();
    let mut answer = Vec::new();
    let requests = tokio::io::copy(&mut from_client, &mut to_server);
    let answers = async {
        let mut buffer = [0; 16 * 1024];
        // An answer is whole when its headers say so; what follows within the same reading is enough here.
        loop {
            let read = from_server.read(&mut buffer).await?;
            answer.extend_from_slice(&buffer[..read]);
            if read == 0 || is_whole(&answer, is_head) {
                return std::io::Result::Ok(());
            }
        }
    };
    tokio::select! {
        _ = requests => {}
        done = answers => done?,
    }
    if cut == Cut::InTheAnswer as u8 {
        to_client.write_all(&answer[..answer.len() / 2]).await?;
    }
    Ok(())
}

/// Whether an HTTP/1.1 answer is there to its end; one to `HEAD` has no body, whatever its length says.
fn is_whole(answer: &[u8], is_head: bool) -> bool {
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse::<usize>().ok());
    let has_none = is_head
        || [" 204 ", " 304 "].iter().any(|status| {
            head.lines()
                .next()
                .is_some_and(|line| line.contains(status))
        });
    match length {
        _ if has_none => true,
        Some(length) => answer.len() >= end + 4 + length,
        None => answer.ends_with(b"0\r\n\r\n"),
    }
}
