//! The certificate, and whether agents that look for the server by its name will believe it.

use std::net::IpAddr;

use muster_clock::Timestamp;
use muster_http::error_chain;

use super::{Report, give_back, is_denied};
use crate::certificates;
use crate::config::{Settings, TlsSettings};
use crate::start;
use crate::tls::{self, CertificateFacts};

/// A certificate that ends within so many days is a warning.
const SOON_DAYS: i64 = 21;
/// The same of the server's own authority, which agents have to be given anew, in days.
const SOON_AUTHORITY_DAYS: i64 = 365;
const DAY_SECONDS: i64 = 86_400;

pub(super) fn examine(report: &mut Report, settings: &Settings, now: Timestamp) {
    let name = "certificate";
    let (certificate, key, is_own) = match &settings.tls {
        TlsSettings::Off if settings.proxies.trusted.is_empty() => {
            let advice = "name the proxy that speaks TLS in trusted_proxies; else everybody seems to come from it";
            return report.warn(name, "TLS is off, and no proxy is trusted", advice);
        }
        TlsSettings::Off => return report.ok(name, "TLS is off: a proxy speaks it"),
        TlsSettings::Files { certificate, key } => (certificate.clone(), key.clone(), false),
        TlsSettings::Own => {
            let folder = settings.data_dir.join("tls");
            if !folder.exists() {
                return report.ok(name, "the server makes its own when it starts");
            }
            (folder.join("server.pem"), folder.join("server.key"), true)
        }
    };
    let facts = match tls::inspect(&certificate, Some(&key)) {
        Ok(facts) => facts,
        Err(error) => {
            let advice = match (is_denied(&error), is_own) {
                (true, true) => give_back(settings),
                (true, false) => "let the server's user read it (chgrp to its group, chmod 640), and run this as \
                                  that user"
                    .to_owned(),
                (false, true) => "remove server.pem and server.key in the folder tls and start the server: it makes them \
                                  anew; agents trust ca.pem, which stays"
                    .to_owned(),
                (false, false) => "give a certificate with its chain and the key that belongs to it".to_owned(),
            };
            return report.problem(name, error_chain(&error), advice);
        }
    };
    leaf(report, settings, &facts, is_own, now);
    if is_own {
        authority(report, settings, now);
    }
}

/// Whether collectors can be offered keys of their own: over TLS only when it is known what they have to trust.
pub(super) fn collectors(report: &mut Report, settings: &Settings, now: Timestamp) {
    let name = "keys of collectors";
    let advice = "name the file with the authorities that sign the certificate which agents find, in opamp.ca_file";
    let url = settings.public_url.clone();
    let url = url.or_else(|| start::last_address(&settings.data_dir));
    let refused = url.as_deref();
    let refused = refused.and_then(|url| certificates::refused(settings, url, now));
    let offered = |report: &mut Report, found: String| match refused {
        None => report.ok(name, found),
        Some(reason) => report.problem(name, format!("not offered: {reason}"), advice),
    };
    if let Some(path) = &settings.opamp_ca_file {
        let shown = path.display();
        return match std::fs::read_to_string(path) {
            Ok(pem) if tls::certificates(&pem).next().is_some() => {
                offered(report, format!("offered with the authorities in {shown}"));
            }
            Ok(_) => report.problem(name, format!("{shown} holds no certificate"), advice),
            Err(error) => {
                let found = format!("{shown} cannot be read: {}", error_chain(&error));
                report.problem(name, found, advice);
            }
        };
    }
    match (&settings.tls, url.as_deref()) {
        (TlsSettings::Off, Some(url)) if url.starts_with("https://") => {
            let found = "not offered: agents come by https, a proxy speaks TLS, and its authority is not known";
            report.warn(name, found, advice);
        }
        (TlsSettings::Off, _) => report.ok(name, "offered without TLS"),
        (TlsSettings::Own, _) => report.ok(name, "offered with the server's own authority"),
        (TlsSettings::Files { .. }, _) => {
            let found = "offered with the last certificate of tls.certificate";
            offered(report, found.to_owned());
        }
    }
}

fn days_left(facts: &CertificateFacts, now: Timestamp) -> i64 {
    (facts.ends_at - now.as_seconds()).div_euclid(DAY_SECONDS)
}

fn leaf(
    report: &mut Report,
    settings: &Settings,
    facts: &CertificateFacts,
    is_own: bool,
    now: Timestamp,
) {
    let name = "certificate";
    let days = days_left(facts, now);
    let names = facts.names.join(", ");
    let renewal = if is_own {
        "start the server: it makes a new one"
    } else {
        "put a new one in its place; the server takes it without a restart"
    };
    if days < 0 {
        let found = format!("it ended {} days ago: agents refuse it", -days);
        return report.problem(name, found, renewal);
    }
    if facts.begins_at > now.as_seconds() {
        let found = "it is not valid yet: agents refuse it";
        return report.problem(name, found, "look at this machine's clock, or wait");
    }
    if facts.is_authority {
        let found = "it is one of an authority (CA:TRUE): many agents refuse it";
        return report.problem(name, found, "make one with basicConstraints CA:FALSE");
    }
    let url = settings.public_url.clone();
    let url = url.or_else(|| start::last_address(&settings.data_dir));
    let host = url
        .as_deref()
        .map(start::host_of)
        .filter(|host| !host.is_empty());
    match host {
        Some(host) if !covers(&facts.names, host) => {
            let advice = if is_own {
                "start the server with this --public-url: it makes a certificate for it"
            } else {
                "give a certificate for that name, or correct public_url"
            };
            let found = format!("it is for {names}, and agents look for {host}");
            return report.problem(name, found, advice);
        }
        _ => {}
    }
    if is_own {
        let folder = settings.data_dir.join("tls");
        let issued = tls::is_issued_by(&folder.join("server.pem"), &folder.join("ca.pem"));
        if matches!(issued, Ok(false)) {
            let found = "another authority than ca.pem signed it: agents refuse it";
            let advice = "start the server again: it makes a certificate of that authority";
            return report.problem(name, found, advice);
        }
    }
    let found = format!("for {names}; ends in {days} days");
    if days < SOON_DAYS {
        return report.warn(name, found, renewal);
    }
    report.ok(name, found);
}

fn authority(report: &mut Report, settings: &Settings, now: Timestamp) {
    let name = "authority";
    let path = settings.data_dir.join("tls/ca.pem");
    match tls::inspect(&path, None) {
        Err(error) if is_denied(&error) => {
            report.problem(name, error_chain(&error), give_back(settings));
        }
        Err(error) => report.problem(
            name,
            error_chain(&error),
            "put back the folder tls from a backup: agents trust that authority alone",
        ),
        Ok(_)
            if matches!(
                tls::is_key_of(&path.with_extension("key"), &path),
                Ok(false)
            ) =>
        {
            report.problem(
                name,
                "ca.key is not the key of ca.pem: no certificate can be made",
                "put both files of one authority into the folder tls",
            );
        }
        Ok(facts) => {
            let days = days_left(&facts, now);
            let found = format!("its own; ends in {days} days");
            let advice = "give agents a new authority before that: a certificate of your own (tls.certificate), or the \
                          server's after removing the folder tls";
            if days < 0 {
                report.problem(name, found, advice);
            } else if days < SOON_AUTHORITY_DAYS {
                report.warn(name, found, advice);
            } else {
                report.ok(name, found);
            }
        }
    }
}

/// Whether a certificate for these names is one for the host, as clients compare them.
fn covers(names: &[String], host: &str) -> bool {
    let host = host.to_lowercase();
    let host = host.as_str();
    if let Ok(address) = host.parse::<IpAddr>() {
        return names.iter().any(|name| name.parse() == Ok(address));
    }
    names.iter().any(|name| {
        let name = name.to_lowercase();
        match name.strip_prefix("*.") {
            Some(domain) => host
                .split_once('.')
                .is_some_and(|(first, rest)| !first.is_empty() && rest == domain),
            None => name == host,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_clients_do() {
        let names = ["Muster.example.com", "*.fleet.example.com", "192.0.2.1"].map(str::to_owned);
        for host in ["muster.example.com", "a.fleet.example.com", "192.0.2.1"] {
            assert!(covers(&names, host), "{host}");
        }
        for host in [
            "example.com",
            "fleet.example.com",
            "a.b.fleet.example.com",
            "192.0.2.2",
        ] {
            assert!(!covers(&names, host), "{host}");
        }
    }
}
