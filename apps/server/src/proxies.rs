//! Networks of trusted proxies, and who a request is from behind them.

use std::net::IpAddr;
use std::str::FromStr;

use axum::http::HeaderMap;

/// The headers by which proxies say whom they speak for, the most trusted first.
const HEADERS: [&str; 3] = ["true-client-ip", "x-real-ip", "x-forwarded-for"];

/// A network: `10.0.0.0/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = text
            .split_once('/')
            .map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| ())?;
        if bits > most {
            Err(())
        } else {
            Ok(Self { address, bits })
        }
    }
}

impl Network {
    /// Whether an address lies in it. An IPv4 address that came over IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                u32::from(network) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.bits))
                    .unwrap_or(0);
                u128::from(network) & mask == u128::from(address) & mask
            }
            _ => false,
        }
    }
}

/// Whom a request is from: the peer of the socket, or, when that is a trusted proxy, whom the proxy names. Of a chain of
/// proxies in `X-Forwarded-For` the last address that is not itself a trusted proxy counts: what stands before it
/// was written by somebody we do not trust.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(peer) {
        return peer.to_canonical();
    }
    for name in HEADERS {
        let values = headers
            .get_all(name)
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
            .find(|address| !is_trusted(*address));
        if let Some(address) = first_untrusted.or(addresses.last().copied()) {
            return address.to_canonical();
        }
    }
    peer.to_canonical()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn from(peer: &str, headers: &[(&'static str, &'static str)]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8", "192.0.2.7"].map(|text| text.parse().unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        client_address(peer.parse().unwrap(), &map, &trusted).to_string()
    }

    #[test]
    fn headers_are_believed_only_from_trusted_proxies() {
        let forged = [
            ("x-forwarded-for", "198.51.100.1"),
            ("x-real-ip", "198.51.100.1"),
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

    #[test]
    fn networks_are_compared_by_their_bits() {
        let network: Network = "192.0.2.128/25".parse().unwrap();
        assert!(
            network.contains("192.0.2.200".parse().unwrap())
                && !network.contains("192.0.2.1".parse().unwrap())
        );
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(
            all.contains("203.0.113.1".parse().unwrap())
                && !all.contains("2001:db8::1".parse().unwrap())
        );
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/x"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
