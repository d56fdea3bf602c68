//! Asking the kernel about interfaces, addresses and routes (rtnetlink), and reading what it answers.
//!
//! Only dumps are asked for. The parsers take bytes, so that they are tested without a kernel; every length in a
//! message is checked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// How long the kernel may take to answer; it does not, but a container's emulation of it might.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The size of the buffer for one answer, as netlink(7) advises, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;
/// How much a dump may come to, in bytes: a router with the whole Internet's routes stays below.
const MAX_DUMP_BYTES: usize = 256 * 1024 * 1024;

const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x1 | 0x300;

/// What can be asked for: the message that asks, and the one that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dump {
    Links,
    Addresses,
    Routes,
}

impl Dump {
    fn request(self) -> u16 {
        match self {
            Self::Links => 18,
            Self::Addresses => 22,
            Self::Routes => 26,
        }
    }

    fn answer(self) -> u16 {
        self.request() - 2
    }
}

/// Asks for a dump and hands the payload of every message of its kind to `each`.
pub(super) fn dump(
    what: Dump,
    mut each: impl FnMut(&[u8]) -> Result<(), crate::TableError>,
) -> Result<(), crate::TableError> {
    let unreadable = |error: io::Error| crate::TableError::Unreadable {
        what: "the kernel's network tables".to_owned(),
        source: error,
    };
    let socket = ask(what).map_err(unreadable)?;
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    let mut total = 0;
    loop {
        let (_, length) = rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())
            .map_err(|error| unreadable(error.into()))?;
        total += length;
        if length == 0 || total > MAX_DUMP_BYTES {
            return Err(crate::TableError::unsupported(
                "the kernel's answer has no end",
            ));
        }
        for message in Messages(&buffer[..length.min(BUFFER_BYTES)]) {
            match message.kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return Err(unreadable(error_in(message.payload))),
                kind if kind == what.answer() => each(message.payload)?,
                _ => {}
            }
        }
    }
}

fn ask(what: Dump) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    // The header, then one byte for the address family (0: all) in a structure that is at most 16 bytes long.
    let mut request = [0_u8; HEADER_BYTES + 16];
    let length = request.len() as u32;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&what.request().to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request[8..12].copy_from_slice(&1_u32.to_ne_bytes());
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    Ok(socket)
}

fn error_in(payload: &[u8]) -> io::Error {
    match i32_at(payload, 0) {
        Some(code) if code < 0 => io::Error::from_raw_os_error(-code),
        _ => io::Error::other("the kernel refused without a reason"),
    }
}

struct Message<'a> {
    kind: u16,
    payload: &'a [u8],
}

/// The messages in what one read gave; ends at the first that makes no sense.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = u32_at(self.0, 0)? as usize;
        let message = self.0.get(..length).filter(|_| length >= HEADER_BYTES)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some(Message {
            kind: u16_at(message, 4)?,
            payload: &message[HEADER_BYTES..],
        })
    }
}

/// The attributes behind a message's fixed part: type and value.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = usize::from(u16_at(self.0, 0)?);
        let attribute = self.0.get(..length).filter(|_| length >= 4)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        // The two highest bits say how the value is encoded, not what it is.
        Some((u16_at(attribute, 2)? & 0x3FFF, &attribute[4..]))
    }
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    u32_at(bytes, at).map(u32::cast_signed)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(bytes)));
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) kind: u16,
    pub(super) flags: u32,
    pub(super) hardware_address: Vec<u8>,
    pub(super) mtu: u32,
    pub(super) traffic: Traffic,
}

/// What went through an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Traffic {
    pub(super) packets_in: u64,
    pub(super) packets_out: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) errors_in: u64,
    pub(super) errors_out: u64,
    pub(super) dropped_in: u64,
    pub(super) dropped_out: u64,
    pub(super) collisions: u64,
}

impl Link {
    /// Reads `ifinfomsg` and its attributes.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let mut link = Self {
            kind: u16_at(payload, 2)?,
            index: u32_at(payload, 4)?,
            flags: u32_at(payload, 8)?,
            ..Self::default()
        };
        for (kind, value) in Attributes(payload.get(16..)?) {
            match kind {
                1 => link.hardware_address = value.to_vec(),
                3 => link.name = text(value),
                4 => link.mtu = u32_at(value, 0)?,
                // Statistics in 64 bits; older kernels leave out the last members.
                23 => link.traffic = Traffic::parse(value),
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }
}

impl Traffic {
    fn parse(value: &[u8]) -> Self {
        let member = |index: usize| u64_at(value, index * 8).unwrap_or(0);
        Self {
            packets_in: member(0),
            packets_out: member(1),
            bytes_in: member(2),
            bytes_out: member(3),
            errors_in: member(4),
            errors_out: member(5),
            dropped_in: member(6),
            dropped_out: member(7),
            collisions: member(9),
        }
    }
}

/// A text that ends at its first NUL.
fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) link: u32,
    pub(super) prefix: u8,
    /// The address itself.
    pub(super) local: IpAddr,
    /// The other end of a point-to-point link; the address itself on other links.
    pub(super) peer: Option<IpAddr>,
    pub(super) broadcast: Option<IpAddr>,
}

impl Address {
    /// Reads `ifaddrmsg` and its attributes.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let prefix = *payload.get(1)?;
        let link = u32_at(payload, 4)?;
        let (mut peer, mut local, mut broadcast) = (None, None, None);
        for (kind, value) in Attributes(payload.get(8..)?) {
            match kind {
                1 => peer = ip(value),
                2 => local = ip(value),
                4 => broadcast = ip(value),
                _ => {}
            }
        }
        Some(Self {
            link,
            prefix,
            // IPv6 names only the first.
            local: local.or(peer)?,
            peer: peer.filter(|_| local.is_some()),
            broadcast,
        })
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) prefix: u8,
    pub(super) kind: u8,
    pub(super) flags: u32,
    pub(super) destination: Option<IpAddr>,
    pub(super) is_ipv6: bool,
    pub(super) gateway: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
    pub(super) link: Option<u32>,
    pub(super) metric: u32,
    pub(super) mtu: u32,
    pub(super) hop_limit: u32,
    /// Further next hops of a route with several: interface and gateway.
    pub(super) hops: Vec<(u32, Option<IpAddr>)>,
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The kernel's flag for entries of its cache, which are no configured routes.
const RTM_F_CLONED: u32 = 0x200;

impl Route {
    /// Reads `rtmsg` and its attributes. Other families than IP, and cached routes, are none.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let family = *payload.first()?;
        let mut route = Self {
            prefix: *payload.get(1)?,
            kind: *payload.get(7)?,
            flags: u32_at(payload, 8)?,
            is_ipv6: family == AF_INET6,
            destination: None,
            gateway: None,
            source: None,
            link: None,
            metric: 0,
            mtu: 0,
            hop_limit: 0,
            hops: Vec::new(),
        };
        if !matches!(family, AF_INET | AF_INET6) || route.flags & RTM_F_CLONED != 0 {
            return None;
        }
        for (kind, value) in Attributes(payload.get(12..)?) {
            match kind {
                1 => route.destination = ip(value),
                4 => route.link = u32_at(value, 0),
                5 => route.gateway = ip(value),
                6 => route.metric = u32_at(value, 0)?,
                7 => route.source = ip(value),
                8 => {
                    for (metric, value) in Attributes(value) {
                        match metric {
                            2 => route.mtu = u32_at(value, 0)?,
                            10 => route.hop_limit = u32_at(value, 0)?,
                            _ => {}
                        }
                    }
                }
                9 => route.hops = next_hops(value),
                // A gateway of another family, such as IPv6 for an IPv4 route: family, then address.
                18 => route.gateway = ip(value.get(2..)?),
                _ => {}
            }
        }
        Some(route)
    }
}

/// The next hops of a route with several: `rtnexthop` structures with attributes.
fn next_hops(mut value: &[u8]) -> Vec<(u32, Option<IpAddr>)> {
    let mut hops = Vec::new();
    while let Some(length) = u16_at(value, 0).map(usize::from) {
        let Some(hop) = value.get(..length).filter(|_| length >= 8) else {
            break;
        };
        let mut gateway = None;
        for (kind, value) in Attributes(&hop[8..]) {
            match kind {
                5 => gateway = ip(value),
                18 => gateway = value.get(2..).and_then(ip),
                _ => {}
            }
        }
        hops.extend(u32_at(hop, 4).map(|link| (link, gateway)));
        value = value.get(align(length)..).unwrap_or_default();
    }
    hops
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }

    #[test]
    fn a_route_with_metrics_and_several_hops_is_read() {
        let mut payload = vec![AF_INET, 24, 0, 0, 254, 3, 0, 1];
        payload.extend(0_u32.to_ne_bytes());
        payload.extend(attribute(1, &[10, 1, 2, 0]));
        payload.extend(attribute(6, &100_u32.to_ne_bytes()));
        payload.extend(attribute(8, &attribute(2, &1400_u32.to_ne_bytes())));
        let mut hop = vec![16, 0, 0, 0];
        hop[..2].copy_from_slice(&16_u16.to_ne_bytes());
        hop.extend(7_u32.to_ne_bytes());
        hop.extend(attribute(5, &[10, 0, 0, 1]));
        payload.extend(attribute(9, &[hop.clone(), hop].concat()));
        let route = Route::parse(&payload).unwrap();
        assert_eq!(route.destination, Some(IpAddr::from([10, 1, 2, 0])));
        assert_eq!((route.prefix, route.metric, route.mtu), (24, 100, 1400));
        assert_eq!(route.hops, [(7, Some(IpAddr::from([10, 0, 0, 1]))); 2]);
    }

    #[test]
    fn messages_end_where_a_length_makes_no_sense() {
        let mut bytes = 20_u32.to_ne_bytes().to_vec();
        bytes.extend(20_u16.to_ne_bytes());
        bytes.resize(20, 9);
        bytes.extend(4_u32.to_ne_bytes());
        bytes.resize(60, 0);
        let found: Vec<(u16, usize)> = Messages(&bytes)
            .map(|message| (message.kind, message.payload.len()))
            .collect();
        assert_eq!(found, [(20, 4)]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for message in Messages(&bytes) {
                let _ = error_in(message.payload);
            }
            let _ = Link::parse(&bytes);
            let _ = Address::parse(&bytes);
            let _ = Route::parse(&bytes);
        }
    }
}
