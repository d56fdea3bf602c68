//! The socket by which a server says "ask now".
//!
//! Held only while the server's last answer had the capability `muster_notify`. It carries no data; losing it means
//! asking at the interval, as with a server that does not have it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use muster_clock::Randomness;
use rustls_pki_types::pem::PemObject as _;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::backoff::Backoff;
use crate::client::Trust;
use crate::config::Settings;
use crate::runner::chain;

/// Without any sign of life for so long the socket counts as dead; the server pings every half minute.
const SILENCE: Duration = Duration::from_secs(90);
/// How long the socket may take to be opened.
const OPENING_TIME: Duration = Duration::from_secs(20);
/// The largest message, in bytes.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// A socket that lasted so long was good: the next one is tried soon.
const LASTED: Duration = Duration::from_secs(60);
/// The least wait before it is tried again; it grows while it cannot be had.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// The socket could not be opened, or broke.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The connection.
    #[error("hold the notification socket")]
    Socket(#[from] tungstenite::Error),
    /// The server took too long.
    #[error("the notification socket was silent for too long")]
    Silent,
    /// TLS.
    #[error("prepare TLS for the notification socket")]
    Tls(#[from] rustls::Error),
    /// The network.
    #[error("reach the server for the notification socket")]
    Network(#[from] std::io::Error),
    /// The URL.
    #[error("the server's URL names no host")]
    Url,
}

/// Holds the socket while there is a key for it.
pub(crate) async fn keep(
    settings: Settings,
    mut key: watch::Receiver<Option<String>>,
    ask: mpsc::Sender<()>,
    randomness: Arc<dyn Randomness>,
) {
    let mut backoff = Backoff::default();
    loop {
        let Some(current) = key.borrow_and_update().clone() else {
            if key.changed().await.is_err() {
                return;
            }
            continue;
        };
        let server = settings.server.trim_end_matches('/');
        let began = Instant::now();
        tokio::select! {
            held = hold(server, &current, &settings.trust, &ask) => {
                let reason = held.err().map_or_else(|| "closed".to_owned(), |error| chain(&error));
                if began.elapsed() >= LASTED {
                    backoff.reset();
                }
                let wait = backoff.failed(Some(FIRST_WAIT), &*randomness);
                let wait_ms = wait.as_millis() as u64;
                tracing::debug!(reason, wait_ms, "the notification socket ended; asking at the interval");
                tokio::time::sleep(wait).await;
            }
            changed = key.changed() => if changed.is_err() { return },
        }
    }
}

/// Holds the socket until it breaks; sends into `ask` whenever the server says to ask.
pub async fn hold(
    server: &str,
    orbit_node_key: &str,
    trust: &Trust,
    ask: &mpsc::Sender<()>,
) -> Result<(), NotifyError> {
    let plain = server.starts_with("http://");
    let (_, rest) = server.split_once("://").ok_or(NotifyError::Url)?;
    let authority = rest.split('/').next().unwrap_or_default();
    let scheme = if plain { "ws" } else { "wss" };
    // orbit's own paths are served without the URL's prefix.
    let url = format!("{scheme}://{authority}/api/fleet/orbit/muster_notify");
    let mut request = url.into_client_request()?;
    let value = format!("NodeKey {orbit_node_key}")
        .parse()
        .map_err(|_| NotifyError::Url)?;
    request.headers_mut().insert("authorization", value);
    let uri = request.uri().clone();
    let host = uri
        .host()
        .ok_or(NotifyError::Url)?
        .trim_matches(['[', ']'])
        .to_owned();
    let port = uri.port_u16().unwrap_or(if plain { 80 } else { 443 });
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let opening = async {
        let stream = tokio::net::TcpStream::connect((host.as_str(), port)).await?;
        if plain {
            let (socket, _) = tokio_tungstenite::client_async_with_config(
                request,
                Boxed(Box::new(stream)),
                Some(config),
            )
            .await?;
            return Ok::<_, NotifyError>(socket);
        }
        let name = rustls_pki_types::ServerName::try_from(host).map_err(|_| NotifyError::Url)?;
        let tls = tokio_rustls::TlsConnector::from(tls(trust)?)
            .connect(name, stream)
            .await?;
        let (socket, _) = tokio_tungstenite::client_async_with_config(
            request,
            Boxed(Box::new(tls)),
            Some(config),
        )
        .await?;
        Ok(socket)
    };
    let mut socket = tokio::time::timeout(OPENING_TIME, opening)
        .await
        .map_err(|_| NotifyError::Silent)??;
    loop {
        let message = tokio::time::timeout(SILENCE, socket.next())
            .await
            .map_err(|_| NotifyError::Silent)?;
        match message {
            None => return Ok(()),
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(Message::Text(text))) if says_ask(&text) => {
                // Full means that asking is under way already.
                let _ = ask.try_send(());
            }
            Some(Ok(_)) => {}
        }
    }
}

/// Unknown messages mean nothing to this release.
fn says_ask(text: &str) -> bool {
    let message: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    message["type"] == "distributed/read"
}

fn tls(trust: &Trust) -> Result<Arc<rustls::ClientConfig>, NotifyError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let mut roots = rustls::RootCertStore::empty();
    let pem = match trust.authorities_pem()? {
        Some(pem) => pem,
        None => system_authorities(),
    };
    let certificates =
        rustls_pki_types::CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    roots.add_parsable_certificates(certificates);
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    if trust.insecure {
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(Anything(provider)));
    }
    Ok(Arc::new(config))
}

/// The system's bundle, where distributions keep it.
fn system_authorities() -> Vec<u8> {
    const BUNDLES: [&str; 3] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/cert.pem",
    ];
    BUNDLES
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .unwrap_or_default()
}

/// Trusts any certificate: what `--insecure` asks for.
#[derive(Debug)]
struct Anything(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls_pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls_pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Stream for T {}

/// A plain or a TLS connection.
struct Boxed(Box<dyn Stream>);

impl tokio::io::AsyncRead for Boxed {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Boxed {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::says_ask;

    #[test]
    fn unknown_messages_mean_nothing() {
        assert!(says_ask(
            r#"{"type":"distributed/read","reason":"live-1","later":[1]}"#
        ));
        for text in ["", "{", "[]", r#"{"type":"orbit/config"}"#, r#"{"type":7}"#] {
            assert!(!says_ask(text), "{text}");
        }
    }
}
