//! Certificates: the operator's, or a certificate authority and certificate of the server's own.
//!
//! The server's own lie in `tls/` of the data folder: `ca.pem` (give it to agents), `ca.key`, `server.pem`, `server.key`.
//! The authority is made once and kept; the certificate is made anew when its names change or it runs out soon. Either
//! kind is read again without a restart; new files that cannot be used are logged and the old ones stay in force.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use muster_clock::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

mod facts;

use crate::config::TlsSettings;

pub use facts::{CertificateFacts, inspect};
pub(crate) use facts::{is_issued_by, is_key_of};

/// How long the server's own authority is valid.
const AUTHORITY_DAYS: u64 = 20 * 365;
/// How long the server's own certificate is valid; Apple's limit for what browsers accept.
const CERTIFICATE_DAYS: u64 = 397;
/// It is made anew when less than this is left.
const RENEW_DAYS: u64 = 30;
/// How many TLS sessions are remembered for resumption, beside tickets.
const SESSION_CACHE: usize = 16_384;

/// Certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read or written.
    #[error("{attempt} {}", path.display())]
    File {
        /// What was being done.
        attempt: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no usable {what}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A certificate could not be made.
    #[error("make a certificate")]
    Make(#[from] rcgen::Error),
    /// Certificate and key do not go together, or TLS does not accept them.
    #[error("use the certificate")]
    Use(#[from] rustls::Error),
}

/// The certificate that is in force; new connections get the newest.
#[derive(Debug)]
struct Current(RwLock<InForce>);

/// A certificate with its chain and its key.
#[derive(Debug, Clone)]
struct InForce {
    key: Arc<CertifiedKey>,
    /// The chain as PEM, and nothing else.
    chain_pem: String,
}

impl Current {
    fn get(&self) -> InForce {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current.key))
    }
}

/// How a certificate begins and ends in PEM.
const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const PEM_END: &str = "-----END CERTIFICATE-----";

/// The certificates of a text in PEM, each by itself. What else is in it, such as a private key, is left out.
pub(crate) fn certificates(pem: &str) -> impl Iterator<Item = &str> {
    pem.match_indices(PEM_BEGIN).filter_map(|(begin, _)| {
        let rest = &pem[begin..];
        let end = rest.find(PEM_END)?;
        Some(&rest[..end + PEM_END.len()])
    })
}

/// They joined to one text.
pub(crate) fn joined<'a>(certificates: impl Iterator<Item = &'a str>) -> String {
    certificates.flat_map(|one| [one, "\n"]).collect()
}

/// TLS for the listener.
pub struct Tls {
    config: Arc<ServerConfig>,
    current: Arc<Current>,
    source: Source,
    authority_pem: Option<String>,
}

enum Source {
    Own { folder: PathBuf, names: Vec<String> },
    Files { certificate: PathBuf, key: PathBuf },
}

impl Tls {
    /// Reads or makes the certificates. `names` go into a certificate of the server's own. None when TLS is off.
    pub fn open(
        settings: &TlsSettings,
        data_dir: &Path,
        names: Vec<String>,
        now: Timestamp,
    ) -> Result<Option<Self>, TlsError> {
        let source = match settings {
            TlsSettings::Off => return Ok(None),
            TlsSettings::Own => Source::Own {
                folder: data_dir.join("tls"),
                names,
            },
            TlsSettings::Files { certificate, key } => Source::Files {
                certificate: certificate.clone(),
                key: key.clone(),
            },
        };
        let (certified, authority_pem) = source.load(now)?;
        let current = Arc::new(Current(RwLock::new(certified)));
        let mut provider = aws_lc_rs::default_provider();
        // Processors compute SHA-256 themselves, but not SHA-384: a handshake takes a tenth less with the former. Both are
        // good; clients that speak to others first say the larger number.
        let is_aes_128 = |suite: &rustls::SupportedCipherSuite| {
            suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
        };
        provider
            .cipher_suites
            .sort_by_key(|suite| !is_aes_128(suite));
        let provider = Arc::new(provider);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Current>::clone(&current));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ignore_client_order = true;
        // Whoever comes back brings one ticket.
        config.send_tls13_tickets = 1;
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSION_CACHE);
        Ok(Some(Self {
            config: Arc::new(config),
            current,
            source,
            authority_pem,
        }))
    }

    /// For the listener.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// What agents must trust, as PEM, when the server made its own authority.
    pub fn authority_pem(&self) -> Option<&str> {
        self.authority_pem.as_deref()
    }

    /// What clients that ask are told to trust, as PEM: the server's own authority, or the chain in force.
    pub fn trusted_pem(&self) -> String {
        match &self.source {
            Source::Own { .. } => self.authority_pem.clone().unwrap_or_default(),
            Source::Files { .. } => self.current.get().chain_pem,
        }
    }

    /// The chain in force, from the server's certificate upwards, and the same as PEM.
    pub(crate) fn chain(&self) -> (Vec<CertificateDer<'static>>, String) {
        let current = self.current.get();
        (current.key.cert.clone(), current.chain_pem)
    }

    /// When the certificate in force ends, in seconds since 1970.
    pub fn ends_at(&self) -> Option<i64> {
        let current = self.current.get();
        let (_, parsed) = x509_parser::parse_x509_certificate(current.key.cert.first()?).ok()?;
        Some(parsed.validity().not_after.timestamp())
    }

    /// Reads the files again, or renews the server's own certificate. What cannot be used is not taken.
    pub fn reload(&self, now: Timestamp) -> Result<(), TlsError> {
        let (certified, _) = self.source.load(now)?;
        let mut current = self
            .current
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if current.key.cert != certified.key.cert {
            *current = certified;
            tracing::info!("took the new certificate");
        }
        Ok(())
    }
}

impl Source {
    fn load(&self, now: Timestamp) -> Result<(InForce, Option<String>), TlsError> {
        match self {
            Self::Files { certificate, key } => Ok((certified(certificate, key)?, None)),
            Self::Own { folder, names } => {
                let authority = own(folder, names, now)?;
                Ok((
                    certified(&folder.join("server.pem"), &folder.join("server.key"))?,
                    Some(authority),
                ))
            }
        }
    }
}

fn read(path: &Path) -> Result<String, TlsError> {
    fs::read_to_string(path).map_err(|source| TlsError::File {
        attempt: "read",
        path: path.to_owned(),
        source,
    })
}

/// Replaces a file as a whole.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let file_error = |source| TlsError::File {
        attempt: "write",
        path: path.to_owned(),
        source,
    };
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .map_err(file_error)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(file_error)?;
    fs::rename(&new, path).map_err(file_error)
}

fn certified(certificate: &Path, key: &Path) -> Result<InForce, TlsError> {
    let content = |path: &Path, what| TlsError::Content {
        path: path.to_owned(),
        what,
    };
    let text = read(certificate)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let chain = chain
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| content(certificate, "certificate"))?;
    let private = PrivateKeyDer::from_pem_slice(read(key)?.as_bytes())
        .map_err(|_| content(key, "private key"))?;
    if chain.first().is_some_and(is_authority) {
        tracing::warn!(
            certificate = %certificate.display(),
            "the server's certificate is one of an authority (CA:TRUE): many clients, muster-agent among them, refuse it; \
             make one with basicConstraints CA:FALSE"
        );
    }
    let certified = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())?;
    certified.keys_match()?;
    Ok(InForce {
        key: Arc::new(certified),
        chain_pem: joined(certificates(&text)),
    })
}

fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, certificate)| certificate.is_ca())
}

/// Sees to it that the server's own certificate is there, right and fresh; gives the authority's PEM.
fn own(folder: &Path, names: &[String], now: Timestamp) -> Result<String, TlsError> {
    let make = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder);
    make.map_err(|source| TlsError::File {
        attempt: "make the folder",
        path: folder.to_owned(),
        source,
    })?;
    let (ca_pem, ca_key) = (folder.join("ca.pem"), folder.join("ca.key"));
    if !ca_pem.exists() || !ca_key.exists() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "Muster certificate authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, AUTHORITY_DAYS);
        let certificate = params.self_signed(&key)?;
        write(&ca_key, &key.serialize_pem(), 0o600)?;
        write(&ca_pem, &certificate.pem(), 0o644)?;
    }
    let authority = read(&ca_pem)?;
    let leaf = folder.join("server.pem");
    let is_usable = is_usable(&leaf, &folder.join("server.key"), names, now)
        && is_issued_by(&leaf, &ca_pem).unwrap_or(false);
    if !is_usable {
        if !is_key_of(&ca_key, &ca_pem)? {
            // Signed with it, the certificate would name an authority that agents could not verify it by.
            return Err(TlsError::Content {
                path: ca_key,
                what: "key of the authority in ca.pem: put both files of one authority there",
            });
        }
        let ca = KeyPair::from_pem(&read(&ca_key)?)?;
        let issuer = Issuer::from_ca_cert_pem(&authority, ca)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names.to_vec())?;
        let common_name = names.first().map_or("muster-server", String::as_str);
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, CERTIFICATE_DAYS);
        let certificate = params.signed_by(&key, &issuer)?;
        write(&folder.join("server.key"), &key.serialize_pem(), 0o600)?;
        write(&leaf, &(certificate.pem() + &authority), 0o644)?;
    }
    Ok(authority)
}

/// Valid from a day ago, since clocks of clients differ.
fn set_validity(params: &mut CertificateParams, now: Timestamp, days: u64) {
    let day = |at: Timestamp| {
        let text = at.to_string();
        let mut parts = text
            .split(['-', 'T'])
            .filter_map(|part| part.parse::<i32>().ok());
        let mut next = || parts.next().unwrap_or(1);
        rcgen::date_time_ymd(next(), next() as u8, next() as u8)
    };
    params.not_before = day(now.minus(Duration::from_secs(86_400)));
    params.not_after = day(now.plus(Duration::from_secs(days * 86_400)));
}

/// Whether there is a certificate that has all names and is valid for a while.
fn is_usable(certificate: &Path, key: &Path, names: &[String], now: Timestamp) -> bool {
    let Ok(facts) = inspect(certificate, Some(key)) else {
        return false;
    };
    let renew_at = now
        .plus(Duration::from_secs(RENEW_DAYS * 86_400))
        .as_seconds();
    facts.ends_at > renew_at
        && facts.begins_at <= now.as_seconds()
        && names.iter().all(|name| facts.names.contains(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_795_392_000);

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn open(folder: &Path, with: &[&str], now: Timestamp) -> Tls {
        Tls::open(&TlsSettings::Own, folder, names(with), now)
            .unwrap()
            .unwrap()
    }

    fn leaf(folder: &Path) -> String {
        fs::read_to_string(folder.join("tls/server.pem")).unwrap()
    }

    #[test]
    fn the_authority_stays_and_the_certificate_follows_its_names_and_its_age() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let first = open(folder, &["localhost", "127.0.0.1", "::1"], NOW);
        let authority = first.authority_pem().unwrap().to_owned();
        let certificate = leaf(folder);
        for private in ["ca.key", "server.key"] {
            let mode = fs::metadata(folder.join("tls").join(private))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{private}");
        }
        let again = open(
            folder,
            &["localhost", "127.0.0.1", "::1"],
            NOW.plus(Duration::from_secs(86_400)),
        );
        assert_eq!(again.authority_pem(), Some(authority.as_str()));
        assert_eq!(leaf(folder), certificate, "nothing changed");
        open(folder, &["localhost", "muster.example.com"], NOW);
        let renamed = leaf(folder);
        assert_ne!(renamed, certificate);
        let old = open(
            folder,
            &["localhost"],
            NOW.plus(Duration::from_secs(380 * 86_400)),
        );
        assert_ne!(leaf(folder), renamed, "it was about to run out");
        assert_eq!(old.authority_pem(), Some(authority.as_str()));
    }

    #[test]
    fn a_certificate_of_another_authority_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        open(&first, &["localhost"], NOW);
        open(&second, &["localhost"], NOW);
        let discarded = leaf(&second);
        for file in ["tls/ca.pem", "tls/ca.key"] {
            fs::copy(first.join(file), second.join(file)).unwrap();
        }
        let (certificate, authority) = (second.join("tls/server.pem"), second.join("tls/ca.pem"));
        assert!(!is_issued_by(&certificate, &authority).unwrap());
        let moved = open(&second, &["localhost"], NOW);
        assert_ne!(leaf(&second), discarded);
        assert!(is_issued_by(&certificate, &authority).unwrap());
        let of_first = fs::read_to_string(first.join("tls/ca.pem")).unwrap();
        assert_eq!(moved.authority_pem(), Some(of_first.as_str()));
        let checked = std::process::Command::new("openssl")
            .arg("verify")
            .arg("-CAfile")
            .args([&authority, &certificate])
            .output();
        let checked = checked.unwrap();
        assert!(checked.status.success(), "{checked:?}");
        let kept = leaf(&second);
        open(&second, &["localhost"], NOW);
        assert_eq!(leaf(&second), kept, "nothing changed");
    }

    #[test]
    fn an_authority_without_its_own_key_signs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        open(&first, &["localhost"], NOW);
        open(&second, &["localhost"], NOW);
        let kept = leaf(&second);
        fs::copy(first.join("tls/ca.pem"), second.join("tls/ca.pem")).unwrap();
        let refused = Tls::open(&TlsSettings::Own, &second, names(&["localhost"]), NOW);
        let refused = refused.err().unwrap().to_string();
        assert!(
            refused.contains("ca.key holds no usable key of the authority"),
            "{refused}"
        );
        assert_eq!(leaf(&second), kept);
    }

    #[test]
    fn own_files_are_read_again_and_broken_ones_are_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        open(&one, &["one.example.com"], NOW);
        open(&two, &["two.example.com"], NOW);
        let certificate = folder.path().join("cert.pem");
        let key = folder.path().join("key.pem");
        let install = |from: &Path| {
            fs::copy(from.join("tls/server.pem"), &certificate).unwrap();
            fs::copy(from.join("tls/server.key"), &key).unwrap();
        };
        install(&one);
        let settings = TlsSettings::Files {
            certificate: certificate.clone(),
            key: key.clone(),
        };
        let tls = Tls::open(&settings, folder.path(), vec![], NOW)
            .unwrap()
            .unwrap();
        let in_force = || tls.chain().0;
        let before = in_force();
        fs::copy(two.join("tls/server.pem"), &certificate).unwrap();
        assert!(
            tls.reload(NOW).is_err(),
            "certificate and key do not go together"
        );
        fs::write(&certificate, "nonsense").unwrap();
        assert!(matches!(tls.reload(NOW), Err(TlsError::Content { .. })));
        assert_eq!(in_force(), before);
        install(&two);
        tls.reload(NOW).unwrap();
        assert_ne!(in_force(), before);
    }
}
