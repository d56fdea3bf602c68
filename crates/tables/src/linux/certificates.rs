//! Certificates in PEM files: those that the machine trusts, or those at a given path.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::der_parser::oid::Oid;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::glob;
use crate::error::TableError;
use crate::functions::hex;
use crate::spec::Collation::NoCase;
use crate::spec::ColumnType::{DateTime, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink, read_bytes};

pub(crate) static CERTIFICATES: TableSpec = TableSpec {
    name: "certificates",
    description: "The certificates that this machine trusts, or those at a given path.",
    columns: &[
        column("common_name", Text),
        column("subject", Text),
        column("subject2", Text),
        column("issuer", Text),
        column("issuer2", Text),
        column("ca", Integer),
        column("self_signed", Integer),
        column("not_valid_before", DateTime),
        column("not_valid_after", DateTime),
        column("signing_algorithm", Text),
        column("key_algorithm", Text),
        column("key_strength", Text),
        column("key_usage", Text),
        column("subject_key_id", Text).collate(NoCase),
        column("authority_key_id", Text).collate(NoCase),
        column("sha1", Text).collate(NoCase),
        column("path", Text).additional().optimized(),
        column("serial", Text).collate(NoCase),
        column("sid", Text).foreign(),
        column("store_location", Text).foreign(),
        column("store", Text).foreign(),
        column("username", Text).foreign(),
        column("store_id", Text).foreign(),
    ],
};

/// Where distributions keep what they trust: Red Hat, Debian and Arch, SUSE.
const BUNDLES: [&str; 3] = [
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/certs/ca-certificates.crt",
    "/var/lib/ca-certificates/ca-bundle.pem",
];

pub(crate) fn certificates(
    constraints: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let asked = constraints.text("path");
    let files: Vec<PathBuf> = match asked {
        None => BUNDLES
            .iter()
            .map(PathBuf::from)
            .filter(|path| context.path(path).exists())
            .collect(),
        Some(path) if context.path(path).is_dir() => glob::names_in(context, Path::new(path))
            .into_iter()
            .map(|name| Path::new(path).join(name))
            .filter(|path| context.path(path).is_file())
            .collect(),
        Some(path) => vec![PathBuf::from(path)],
    };
    for file in files {
        context.check()?;
        let bytes = match read_bytes(&context.path(&file)) {
            Ok(bytes) => bytes,
            Err(error) => {
                context.warn(TableError::unreadable(&file, error));
                continue;
            }
        };
        // A folder's certificates carry the folder's path, by which the query asked for them.
        let shown = asked.map_or_else(|| file.to_string_lossy().into_owned(), str::to_owned);
        let mut broken = 0_usize;
        for der in certificates_in(&bytes) {
            match X509Certificate::from_der(&der) {
                Ok((_, certificate)) => add_certificate(rows, &certificate, &der, &shown)?,
                Err(_) => broken += 1,
            }
        }
        if broken > 0 {
            context.warn(format!(
                "{}: {broken} certificates could not be understood",
                file.display()
            ));
        }
    }
    Ok(())
}

/// The certificates of a PEM file, or the file itself when it is one in DER.
fn certificates_in(bytes: &[u8]) -> Vec<Vec<u8>> {
    if bytes.starts_with(&[0x30, 0x82]) {
        return vec![bytes.to_vec()];
    }
    let text = String::from_utf8_lossy(bytes);
    let mut found = Vec::new();
    let mut body: Option<String> = None;
    for line in text.lines().map(str::trim) {
        match line {
            "-----BEGIN CERTIFICATE-----" | "-----BEGIN X509 CERTIFICATE-----" => {
                body = Some(String::new());
            }
            line if line.starts_with("-----") => {
                let decoded = body.take().and_then(|body| STANDARD.decode(body).ok());
                found.extend(decoded);
            }
            line => {
                if let Some(body) = &mut body {
                    body.push_str(line);
                }
            }
        }
    }
    found
}

fn add_certificate(
    rows: &mut RowSink<'_>,
    certificate: &X509Certificate<'_>,
    der: &[u8],
    path: &str,
) -> Result<(), TableError> {
    let mut subject_key_id = None;
    let mut authority_key_id = None;
    let mut usage = None;
    let mut is_ca = None;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => subject_key_id = Some(hex(id.0)),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                authority_key_id = id.key_identifier.as_ref().map(|id| hex(id.0));
            }
            ParsedExtension::KeyUsage(found) => usage = Some(usage_names(found.flags)),
            ParsedExtension::BasicConstraints(found) => is_ca = Some(found.ca),
            _ => {}
        }
    }
    let names_itself = certificate.subject().as_raw() == certificate.issuer().as_raw();
    let self_signed = names_itself
        && (authority_key_id.is_none()
            || subject_key_id.is_none()
            || authority_key_id == subject_key_id);
    // Before there were extensions, a certificate that signs itself was an authority.
    let is_ca = is_ca.unwrap_or(self_signed && certificate.extensions().is_empty());
    let (key_algorithm, key_strength) = key(certificate);
    rows.row()
        .set("common_name", common_name(certificate.subject()))
        .set("subject", one_line(certificate.subject()))
        .set("subject2", spaced(certificate.subject()))
        .set("issuer", one_line(certificate.issuer()))
        .set("issuer2", spaced(certificate.issuer()))
        .set("ca", is_ca)
        .set("self_signed", self_signed)
        .set(
            "not_valid_before",
            certificate.validity().not_before.timestamp(),
        )
        .set(
            "not_valid_after",
            certificate.validity().not_after.timestamp(),
        )
        .set(
            "signing_algorithm",
            algorithm_name(&certificate.signature_algorithm.algorithm),
        )
        .set("key_algorithm", key_algorithm)
        .set("key_strength", key_strength)
        .set("key_usage", usage)
        .set("subject_key_id", subject_key_id)
        .set("authority_key_id", authority_key_id)
        .set(
            "sha1",
            hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref()),
        )
        .set("path", path)
        .set("serial", serial(certificate.raw_serial()))
        .push()
}

/// The number in upper-case hexadecimal, without the byte that only keeps it positive.
fn serial(bytes: &[u8]) -> String {
    let start = bytes
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(bytes.len());
    let digits = hex(&bytes[start..]).to_ascii_uppercase();
    if digits.is_empty() {
        "00".to_owned()
    } else {
        digits
    }
}

/// Names of key usages, as OpenSSL has them, with their bits in the order of the standard's bit string.
const USAGES: [(&str, u16); 9] = [
    ("Encipher Only", 1 << 7),
    ("CRL Sign", 1 << 6),
    ("Key Cert Sign", 1 << 5),
    ("Key Agreement", 1 << 4),
    ("Data Encipherment", 1 << 3),
    ("Key Encipherment", 1 << 2),
    ("Non Repudiation", 1 << 1),
    ("Digital Signature", 1),
    ("Decipher Only", 1 << 8),
];

fn usage_names(flags: u16) -> String {
    USAGES
        .iter()
        .filter(|(_, bit)| flags & bit != 0)
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Algorithm and strength of the key: bits, or the name of the curve.
fn key(certificate: &X509Certificate<'_>) -> (String, Option<String>) {
    let info = certificate.public_key();
    let algorithm = algorithm_name(&info.algorithm.algorithm);
    let strength = match info.parsed() {
        Ok(PublicKey::RSA(key)) => {
            let leading = key.modulus.iter().take_while(|byte| **byte == 0).count();
            Some(((key.modulus.len() - leading) * 8).to_string())
        }
        Ok(PublicKey::DSA(key)) => {
            let leading = key.iter().take_while(|byte| **byte == 0).count();
            Some(((key.len() - leading) * 8).to_string())
        }
        Ok(PublicKey::EC(_)) => info
            .algorithm
            .parameters
            .as_ref()
            .and_then(|parameters| parameters.as_oid().ok())
            .map(|curve| curve_name(&curve)),
        _ => None,
    };
    (algorithm, strength)
}

/// OpenSSL's long names of algorithms; others show their number.
fn algorithm_name(oid: &Oid<'_>) -> String {
    let number = oid.to_id_string();
    match number.as_str() {
        "1.2.840.113549.1.1.1" => "rsaEncryption",
        "1.2.840.113549.1.1.2" => "md2WithRSAEncryption",
        "1.2.840.113549.1.1.4" => "md5WithRSAEncryption",
        "1.2.840.113549.1.1.5" => "sha1WithRSAEncryption",
        "1.2.840.113549.1.1.10" => "rsassaPss",
        "1.2.840.113549.1.1.11" => "sha256WithRSAEncryption",
        "1.2.840.113549.1.1.12" => "sha384WithRSAEncryption",
        "1.2.840.113549.1.1.13" => "sha512WithRSAEncryption",
        "1.2.840.113549.1.1.14" => "sha224WithRSAEncryption",
        "1.2.840.10040.4.1" => "dsaEncryption",
        "1.2.840.10040.4.3" => "dsaWithSHA1",
        "1.2.840.10045.2.1" => "id-ecPublicKey",
        "1.2.840.10045.4.1" => "ecdsa-with-SHA1",
        "1.2.840.10045.4.3.2" => "ecdsa-with-SHA256",
        "1.2.840.10045.4.3.3" => "ecdsa-with-SHA384",
        "1.2.840.10045.4.3.4" => "ecdsa-with-SHA512",
        "1.3.101.112" => "ED25519",
        "1.3.101.113" => "ED448",
        _ => return number,
    }
    .to_owned()
}

fn curve_name(oid: &Oid<'_>) -> String {
    let number = oid.to_id_string();
    match number.as_str() {
        "1.2.840.10045.3.1.7" => "prime256v1",
        "1.3.132.0.10" => "secp256k1",
        "1.3.132.0.34" => "secp384r1",
        "1.3.132.0.35" => "secp521r1",
        _ => return number,
    }
    .to_owned()
}

fn common_name(name: &X509Name<'_>) -> Option<String> {
    name.iter_common_name().next().map(value)
}

/// `/C=DE/O=Example/CN=Example Root`.
fn one_line(name: &X509Name<'_>) -> String {
    name.iter_attributes()
        .fold(String::new(), |line, attribute| {
            line + "/" + &attribute_name(attribute) + "=" + &value(attribute)
        })
}

/// `C = DE, O = Example, CN = Example Root`.
fn spaced(name: &X509Name<'_>) -> String {
    name.iter_rdn()
        .map(|part| {
            part.iter()
                .map(|attribute| {
                    format!(
                        "{} = {}",
                        attribute_name(attribute),
                        quoted(&value(attribute))
                    )
                })
                .collect::<Vec<_>>()
                .join(" + ")
        })
        .collect::<Vec<_>>()
        .join(", ")
}

/// Values that would read as more than a value are put into quotes.
fn quoted(value: &str) -> String {
    let is_plain = !value.contains([',', '+', '"', '\\', '<', '>', ';'])
        && !value.starts_with([' ', '#'])
        && !value.ends_with(' ');
    if is_plain {
        value.to_owned()
    } else {
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

fn value(attribute: &AttributeTypeAndValue<'_>) -> String {
    let raw = attribute.attr_value();
    match attribute.as_str() {
        Ok(text) => text.to_owned(),
        Err(_) if raw.tag() == Tag::BmpString => utf16(raw.data),
        // What is left is Teletex, which everybody fills with Latin-1.
        Err(_) => raw.data.iter().copied().map(char::from).collect(),
    }
}

/// Text of 16 bits for each character.
fn utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect();
    String::from_utf16_lossy(&units)
}

fn attribute_name(attribute: &AttributeTypeAndValue<'_>) -> String {
    let number = attribute.attr_type().to_id_string();
    match number.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.15" => "businessCategory",
        "2.5.4.17" => "postalCode",
        "2.5.4.42" => "GN",
        "2.5.4.97" => "organizationIdentifier",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        "1.3.6.1.4.1.311.60.2.1.1" => "jurisdictionL",
        "1.3.6.1.4.1.311.60.2.1.2" => "jurisdictionST",
        "1.3.6.1.4.1.311.60.2.1.3" => "jurisdictionC",
        _ => return number,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn key_usages_and_serial_numbers_are_written_as_openssl_does() {
        assert_eq!(
            usage_names(0b110_0001),
            "CRL Sign, Key Cert Sign, Digital Signature"
        );
        assert_eq!(serial(&[0, 0x9F, 1]), "9F01");
        assert_eq!(serial(&[0]), "00");
        assert_eq!(quoted("Example, Inc."), "\"Example, Inc.\"");
        assert_eq!(utf16(&[0, b'A', 0x20, 0xAC]), "A€");
    }

    #[test]
    fn only_whole_certificates_are_taken_from_a_file() {
        let text =
            b"subject=x\n-----BEGIN CERTIFICATE-----\nYWJj\nZGVm\n-----END CERTIFICATE-----\n\
                     -----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n\
                     -----BEGIN CERTIFICATE-----\nYWJj\n";
        assert_eq!(certificates_in(text), [b"abcdef".to_vec()]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for der in certificates_in(&bytes) {
                let _ = X509Certificate::from_der(&der);
            }
        }
    }
}
