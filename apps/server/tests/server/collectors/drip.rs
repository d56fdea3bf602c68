//! Agents that drip what they send, or say nothing.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// How many connections of each kind hang.
const CLIENTS: usize = 10;
/// How long a head or a body may take, and a message on a socket at most, in seconds.
const REQUEST_SECONDS: usize = 35;
const SOCKET_SECONDS: usize = 125;

/// What comes until the server ends the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A connection that is reset has ended as well as one that is closed.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn agents_that_drip_are_cut_off_on_both_carriers_and_hold_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[("tls.enabled", "false")]).await;
    let base = format!("http://{}", server.address);
    let link = server.setup_link.clone().unwrap();
    let site = Site::set_up(reqwest::Client::new(), base, &link).await;
    let (_, token) = token(&site).await;
    let connect = async |begin: &str| {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        stream
    };
    let start = "/v1/opamp HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n";
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let upgrade = "/v1/opamp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let (mut heads, mut bodies, mut chunks, mut frames) = (vec![], vec![], vec![], vec![]);
    for _ in 0..CLIENTS {
        heads.push(connect(&format!("POST {start}X-Long: ")).await);
        heads.push(connect(&format!("GET {upgrade}X-Long: ")).await);
        bodies.push(connect(&format!("POST {start}{bearer}Content-Length: 1000\r\n\r\n")).await);
        chunks.push(
            connect(&format!(
                "POST {start}{bearer}Transfer-Encoding: chunked\r\n\r\n3e8\r\n"
            ))
            .await,
        );
        let mut socket = connect(&format!("GET {upgrade}{bearer}\r\n")).await;
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
        // A binary frame of a thousand bytes begins.
        socket
            .write_all(&[0x82, 0xfe, 0x03, 0xe8, 1, 2, 3, 4])
            .await
            .unwrap();
        frames.push(socket);
    }
    let mut silent = Vec::new();
    for _ in 0..CLIENTS {
        silent.push(connect(&format!("GET {upgrade}{bearer}\r\n")).await);
    }
    let mut neighbour = open_plain(server.address, &token).await.unwrap();
    assert!(
        ask(&mut neighbour, &described(7, 0))
            .await
            .error_response
            .is_none(),
        "nobody waits for them"
    );

    tokio::time::pause();
    for second in 0..SOCKET_SECONDS {
        let requests = heads.iter_mut().chain(&mut bodies).chain(&mut chunks);
        for stream in requests
            .take_while(|_| second < REQUEST_SECONDS)
            .chain(&mut frames)
        {
            // Fails for those that were cut off already.
            let _ = stream.write_all(b" ").await;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    tokio::time::resume();
    for stream in &mut heads {
        assert_eq!(rest(stream).await, "");
    }
    for stream in bodies.iter_mut().chain(&mut chunks) {
        let answer = rest(stream).await;
        assert!(
            answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
            "{answer}"
        );
    }
    // They are cut without a word, or the connection would still be open.
    for stream in frames.iter_mut().chain(&mut silent) {
        let ended = tokio::time::timeout(Duration::from_secs(10), rest(stream)).await;
        assert!(ended.is_ok(), "it is still open");
    }
    let mut neighbour = open_plain(server.address, &token).await.unwrap();
    assert!(
        ask(&mut neighbour, &described(7, 1))
            .await
            .error_response
            .is_none()
    );
    server.shut_down().await;
}
