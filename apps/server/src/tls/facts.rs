//! What certificates and keys in files say, for those who look whether they are right.

use std::path::Path;

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::{TlsError, certified, read};

/// What the first certificate of a file says.
fn first<T>(path: &Path, told: impl FnOnce(&X509Certificate<'_>) -> T) -> Result<T, TlsError> {
    let content = || TlsError::Content {
        path: path.to_owned(),
        what: "certificate",
    };
    let text = read(path)?;
    let der = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|_| content())?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| content())?;
    Ok(told(&parsed))
}

/// Whether the first certificate of a file names the key of the authority as the one that signed it (RFC 5280, 4.2.1.1).
/// All authorities of ours have one name, so the name does not tell them apart.
pub(crate) fn is_issued_by(certificate: &Path, authority: &Path) -> Result<bool, TlsError> {
    let key_id = |path: &Path, of_issuer: bool| {
        first(path, |parsed| {
            let mut extensions = parsed.extensions().iter();
            extensions.find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) if of_issuer => {
                    id.key_identifier.as_ref().map(|id| id.0.to_vec())
                }
                ParsedExtension::SubjectKeyIdentifier(id) if !of_issuer => Some(id.0.to_vec()),
                _ => None,
            })
        })
    };
    let issuer = key_id(certificate, true)?;
    Ok(issuer.is_some() && issuer == key_id(authority, false)?)
}

/// Whether a private key is that of an authority.
pub(crate) fn is_key_of(key: &Path, authority: &Path) -> Result<bool, TlsError> {
    let pair = KeyPair::from_pem(&read(key)?).map_err(|_| TlsError::Content {
        path: key.to_owned(),
        what: "private key",
    })?;
    first(authority, |parsed| {
        *parsed.public_key().subject_public_key.data == *pair.public_key_raw()
    })
}

/// What a certificate says, for those who look whether it is right.
#[derive(Debug, Clone)]
pub struct CertificateFacts {
    /// The names and addresses that it is for.
    pub names: Vec<String>,
    /// From when it is valid, in seconds since 1970.
    pub begins_at: i64,
    /// Until when.
    pub ends_at: i64,
    /// Whether it is one of an authority.
    pub is_authority: bool,
}

/// Reads the first certificate of a file, and refuses a key that does not belong to it.
pub fn inspect(certificate: &Path, key: Option<&Path>) -> Result<CertificateFacts, TlsError> {
    let facts = first(certificate, |parsed| CertificateFacts {
        names: alternative_names(parsed),
        begins_at: parsed.validity().not_before.timestamp(),
        ends_at: parsed.validity().not_after.timestamp(),
        is_authority: parsed.is_ca(),
    })?;
    if let Some(key) = key {
        certified(certificate, key)?;
    }
    Ok(facts)
}

fn alternative_names(parsed: &X509Certificate<'_>) -> Vec<String> {
    let alternative = parsed.subject_alternative_name().ok().flatten();
    alternative.map_or_else(Vec::new, |extension| {
        let names = extension
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                GeneralName::IPAddress(bytes) => match bytes.len() {
                    4 => <[u8; 4]>::try_from(*bytes)
                        .ok()
                        .map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
                    _ => <[u8; 16]>::try_from(*bytes)
                        .ok()
                        .map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
                },
                _ => None,
            });
        names.collect()
    })
}
