//! Certificates while the server runs: they are read again now and then, and collectors are offered what verifies those in
//! force.
//!
//! An agent that takes an offer trusts nothing but what the offer names, and never goes back by itself. So offers name what
//! operators say (`opamp.ca_file`), else what signs this server's certificate as far as that is known; and when the certificate
//! that agents find does not verify against it, nothing is offered.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_clock::{Clock, Timestamp};
use muster_collectors::{Collectors, MAX_AUTHORITY_BYTES};
use muster_http::error_chain;
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::aws_lc_rs;
use rustls::server::ParsedCertificate;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_util::sync::CancellationToken;

use crate::config::{Settings, TlsSettings};
use crate::start::{self, StartError};
use crate::tls::{self, Tls};

/// How often certificates are looked at again.
const INTERVAL: Duration = Duration::from_secs(30);

/// The server's certificates and what agents are told of them.
pub(crate) struct Certificates {
    tls: Option<Arc<Tls>>,
    /// `opamp.ca_file`.
    file: Option<PathBuf>,
    public_url: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the file said when it could last be used.
    named: Option<String>,
    /// Why nothing is offered, or what else is wrong, as it was last said.
    said: Option<String>,
}

impl Certificates {
    pub(crate) fn new(settings: &Settings, tls: Option<Arc<Tls>>, public_url: &str) -> Self {
        Self {
            tls,
            file: settings.opamp_ca_file.clone(),
            public_url: public_url.to_owned(),
            state: Mutex::default(),
        }
    }

    /// Looks at them again until `stop` is cancelled.
    pub(crate) async fn watch(
        &self,
        collectors: &Collectors,
        clock: &dyn Clock,
        stop: CancellationToken,
    ) {
        if self.tls.is_none() && self.file.is_none() {
            return;
        }
        let mut timer = tokio::time::interval(INTERVAL);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timer.tick() => {}
            }
            self.reload(collectors, clock.now());
        }
    }

    /// Takes new certificates and authorities. What cannot be used is not taken. Gives what became of the certificate, for the
    /// log.
    pub(crate) fn reload(&self, collectors: &Collectors, now: Timestamp) -> &'static str {
        let reloaded = match &self.tls {
            None => "none, TLS is off",
            Some(tls) => match tls.reload(now) {
                Ok(()) => "read again",
                Err(error) => {
                    tracing::error!(error = error_chain(&error), "kept the old certificate");
                    "kept the old one"
                }
            },
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = self.read(&mut state).err();
        let trouble = trouble.map(|error| {
            let error = error_chain(&error);
            format!("opamp.ca_file is taken as it was before: {error}")
        });
        collectors.set_authority(self.judged(&mut state, trouble, now));
        reloaded
    }

    /// What agents are told to trust when the server starts.
    ///
    /// # Errors
    ///
    /// `opamp.ca_file` cannot be read, or is too large.
    pub(crate) fn authority(&self, now: Timestamp) -> Result<Option<String>, StartError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.read(&mut state)?;
        Ok(self.judged(&mut state, None, now))
    }

    fn read(&self, state: &mut State) -> Result<(), StartError> {
        if let Some(path) = &self.file {
            state.named = Some(named(path)?);
        }
        Ok(())
    }

    /// What may be offered; says once what is wrong.
    fn judged(&self, state: &mut State, trouble: Option<String>, now: Timestamp) -> Option<String> {
        let judged = judge(
            state.named.as_deref(),
            self.tls.as_ref().map(|tls| tls.chain()),
            &self.public_url,
            now,
        );
        let (authority, trouble) = match judged {
            Ok(authority) => (authority, trouble),
            Err(reason) => {
                let reason = format!("collectors are not offered keys of their own: {reason}");
                (None, Some(reason))
            }
        };
        if state.said != trouble {
            if let Some(trouble) = &trouble {
                tracing::warn!("{trouble}");
            } else {
                tracing::info!("collectors are offered keys of their own again");
            }
            state.said = trouble;
        }
        authority
    }
}

/// Why a server with these settings would offer no keys, if it would not; none also when its files cannot be read.
pub(crate) fn refused(
    settings: &Settings,
    public_url: &str,
    now: Timestamp,
) -> Option<&'static str> {
    let certificate = match &settings.tls {
        TlsSettings::Off => None,
        TlsSettings::Own => Some(settings.data_dir.join("tls/server.pem")),
        TlsSettings::Files { certificate, .. } => Some(certificate.clone()),
    };
    let chain = certificate.map(fs::read_to_string).transpose().ok()?;
    let chain = chain.map(|pem| (parsed(&pem), pem));
    let named = settings.opamp_ca_file.as_deref().map(named);
    let named = named.transpose().ok()?;
    judge(named.as_deref(), chain, public_url, now).err()
}

fn parsed(pem: &str) -> Vec<CertificateDer<'static>> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    certificates.filter_map(Result::ok).collect()
}

/// The certificates in `opamp.ca_file`.
fn named(path: &Path) -> Result<String, StartError> {
    let file_error = |attempt, source| StartError::Folder {
        attempt,
        path: path.to_owned(),
        source,
    };
    let read = fs::read_to_string(path);
    let read = read.map_err(|source| file_error("read opamp.ca_file", source))?;
    if read.len() > MAX_AUTHORITY_BYTES {
        let reason = format!(
            "it has {} bytes; at most {MAX_AUTHORITY_BYTES} are allowed, since every offer of a key has them: name only \
             those authorities that sign this server's certificate",
            read.len()
        );
        let source = io::Error::new(io::ErrorKind::InvalidData, reason);
        return Err(file_error("use opamp.ca_file", source));
    }
    Ok(tls::joined(tls::certificates(&read)))
}

/// What offers name: `named`, else the end of the chain in force. The reason when nothing may be offered.
fn judge(
    named: Option<&str>,
    chain: Option<(Vec<CertificateDer<'_>>, String)>,
    public_url: &str,
    now: Timestamp,
) -> Result<Option<String>, &'static str> {
    if !public_url.starts_with("https://") {
        return Ok(None);
    }
    match (named, chain) {
        (Some(""), _) => Err("there is no certificate in opamp.ca_file"),
        (None, None) => Err(
            "agents have to be told the authority of this server's certificate, which is not known; set opamp.ca_file",
        ),
        (Some(named), chain) => {
            // One for other names is none that agents find: something before this server shows them another.
            let found = chain.filter(|(chain, _)| is_for(chain, start::host_of(public_url)));
            if found.is_some_and(|(chain, _)| !verifies(&chain, named, now)) {
                return Err(
                    "the server's certificate does not verify against opamp.ca_file, and agents would trust nothing else; \
                     name the authorities that sign it",
                );
            }
            Ok(Some(named.to_owned()))
        }
        (None, Some((chain, pem))) => {
            // Of a chain its end: the certificate itself changes with each renewal.
            let end = tls::joined(tls::certificates(&pem).last().into_iter());
            if !verifies(&chain, &end, now) {
                return Err(
                    "the server's certificate does not verify against the last one of its chain; put the chain into \
                     tls.certificate in the order from the server's upwards, or set opamp.ca_file",
                );
            }
            Ok(Some(end))
        }
    }
}

fn is_for(chain: &[CertificateDer<'_>], host: &str) -> bool {
    let Some(Ok(certificate)) = chain.first().map(ParsedCertificate::try_from) else {
        return false;
    };
    ServerName::try_from(host).is_ok_and(|host| verify_server_name(&certificate, &host).is_ok())
}

/// Whether an agent that trusts these authorities, and no others, believes the first certificate of a chain.
fn verifies(chain: &[CertificateDer<'_>], authorities: &str, now: Timestamp) -> bool {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return false;
    };
    let lasts = |authority: &CertificateDer<'_>| {
        let parsed = x509_parser::parse_x509_certificate(authority);
        parsed.is_ok_and(|(_, one)| one.validity().not_after.timestamp() > now.as_seconds())
    };
    let mut authorities = parsed(authorities);
    // Many agents look at that of whom they trust as well.
    authorities.retain(lasts);
    // One that is trusted itself needs nobody to sign it.
    if authorities.contains(leaf) {
        return true;
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities);
    let Ok(certificate) = ParsedCertificate::try_from(leaf) else {
        return false;
    };
    let seconds = u64::try_from(now.as_seconds()).unwrap_or(0);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    let intermediates = intermediates.iter();
    let intermediates: Vec<_> = intermediates.map(|one| one.clone().into_owned()).collect();
    verify_server_cert_signed_by_trust_anchor(
        &certificate,
        &roots,
        &intermediates,
        now,
        algorithms.all,
    )
    .is_ok()
}

#[cfg(test)]
mod tests;
