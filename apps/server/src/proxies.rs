//! Trusted proxies, and who a request is from behind them.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName};
use muster_http::Network;

/// Which proxies are believed about whom they speak for, and by which header. Only one header: proxies pass on what they do
/// not set themselves, so any other one may be the client's invention.
#[derive(Debug, Clone)]
pub struct Proxies {
    /// Where proxies are.
    pub trusted: Vec<Network>,
    /// The header that they set.
    pub header: HeaderName,
}

/// Marks a request that came through a trusted proxy: its client is not on this machine, whatever the header says.
#[derive(Debug, Clone, Copy)]
pub struct Forwarded;

impl Proxies {
    /// Whether a proxy is at this address, whose headers are believed.
    pub fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// Whom a request is from, and whether a trusted proxy says so: the peer of the socket, or whom the proxy names. Of a
    /// chain of proxies the last address that is not itself a trusted proxy counts: what stands before it was written by
    /// somebody we do not trust.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> (IpAddr, bool) {
        if !self.is_trusted(peer) {
            return (peer.to_canonical(), false);
        }
        let values = headers
            .get_all(&self.header)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let named: Vec<&str> = values
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .collect();
        // An address that cannot be read ends the chain.
        let addresses: Vec<IpAddr> = named
            .iter()
            .rev()
            .map_while(|text| text.parse().ok())
            .collect();
        let first_untrusted = addresses
            .iter()
            .copied()
            .find(|address| !self.is_trusted(*address));
        let client = first_untrusted
            .or(addresses.last().copied())
            .unwrap_or(peer);
        (client.to_canonical(), !named.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn from(peer: &str, headers: &[(&'static str, &'static str)]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8", "192.0.2.7"].map(|text| text.parse().unwrap());
        let proxies = Proxies {
            trusted: trusted.to_vec(),
            header: HeaderName::from_static("x-forwarded-for"),
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let (client, forwarded) = proxies.client(peer.parse().unwrap(), &map);
        assert!(!forwarded || proxies.is_trusted(peer.parse().unwrap()));
        client.to_string()
    }

    #[test]
    fn headers_are_believed_only_from_trusted_proxies() {
        let forged = [
            ("x-forwarded-for", "198.51.100.1"),
            ("x-real-ip", "198.51.100.9"),
            ("true-client-ip", "127.0.0.1"),
        ];
        assert_eq!(from("203.0.113.5", &forged), "203.0.113.5");
        assert_eq!(from("10.1.2.3", &forged), "198.51.100.1");
        assert_eq!(from("::ffff:10.1.2.3", &forged), "198.51.100.1");
        assert_eq!(from("10.1.2.3", &[]), "10.1.2.3");
    }

    #[test]
    fn the_last_address_that_no_trusted_proxy_has_counts() {
        let chain = [("x-forwarded-for", "6.6.6.6, 198.51.100.1, 10.9.9.9")];
        assert_eq!(
            from("10.1.2.3", &chain),
            "198.51.100.1",
            "what stands before was written by the client"
        );
        assert_eq!(
            from("10.1.2.3", &[("x-forwarded-for", "10.9.9.9")]),
            "10.9.9.9"
        );
        assert_eq!(
            from("10.1.2.3", &[("x-forwarded-for", "nonsense")]),
            "10.1.2.3"
        );
        assert_eq!(
            from("10.1.2.3", &[("x-forwarded-for", "198.51.100.1, junk")]),
            "10.1.2.3"
        );
        assert_eq!(
            from(
                "fd00::1",
                &[("x-forwarded-for", "a"), ("x-forwarded-for", "2001:db8::1")]
            ),
            "2001:db8::1"
        );
    }
}
