//! Sockets, and which process holds each of them.
//!
//! The kernel lists the sockets of a network namespace in `/proc/PID/net`, without their processes; a process's file
//! descriptors name the inodes of its sockets. Both are read and put together. A socket that several processes hold
//! has a row for each; one whose process cannot be seen has -1.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{namespace_number, proc};
use crate::error::TableError;
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink, read_text};

pub(crate) static PROCESS_OPEN_SOCKETS: TableSpec = TableSpec {
    name: "process_open_sockets",
    description: "The sockets that each process holds open.",
    columns: &[
        column("pid", Integer).additional(),
        column("fd", BigInt),
        column("socket", BigInt),
        column("family", Integer),
        column("protocol", Integer),
        column("local_address", Text),
        column("remote_address", Text),
        column("local_port", Integer),
        column("remote_port", Integer),
        column("path", Text),
        column("state", Text),
        column("net_namespace", Text),
    ],
};

pub(crate) static LISTENING_PORTS: TableSpec = TableSpec {
    name: "listening_ports",
    description: "The ports and local sockets at which processes wait for peers.",
    columns: &[
        column("pid", Integer),
        column("port", Integer),
        column("protocol", Integer),
        column("family", Integer),
        column("address", Text),
        column("fd", BigInt),
        column("socket", BigInt),
        column("path", Text),
        column("net_namespace", Text),
    ],
};

const AF_UNIX: i64 = 1;
const AF_INET: i64 = 2;
const AF_INET6: i64 = 10;

/// Files below `/proc/PID/net` with address family and protocol.
const INTERNET: [(&str, i64, i64); 10] = [
    ("tcp", AF_INET, PROTOCOL_TCP),
    ("tcp6", AF_INET6, PROTOCOL_TCP),
    ("udp", AF_INET, PROTOCOL_UDP),
    ("udp6", AF_INET6, PROTOCOL_UDP),
    ("udplite", AF_INET, 136),
    ("udplite6", AF_INET6, 136),
    ("icmp", AF_INET, 1),
    ("icmp6", AF_INET6, 58),
    ("raw", AF_INET, 255),
    ("raw6", AF_INET6, 255),
];
const PROTOCOL_TCP: i64 = 6;
const PROTOCOL_UDP: i64 = 17;

/// The kernel's names for the states of TCP, by number.
const TCP_STATES: [&str; 13] = [
    "UNKNOWN",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSED",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
];

/// The flag in `/proc/net/unix` of a socket that waits for connections.
const UNIX_ACCEPTS: u32 = 1 << 16;
/// The type of a local socket for datagrams.
const UNIX_DATAGRAM: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Socket {
    inode: u64,
    family: i64,
    protocol: i64,
    local: Option<(IpAddr, u16)>,
    remote: Option<(IpAddr, u16)>,
    path: String,
    state: &'static str,
    /// Whether peers can come to it without having been asked.
    waits: bool,
}

/// A socket with one of its holders and its network namespace.
struct Held {
    socket: Socket,
    pid: i64,
    fd: i64,
    namespace: Option<String>,
}

pub(crate) fn process_open_sockets(
    constraints: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    // Asking for -1 asks for the sockets of no process, which takes all processes to find.
    let only = constraints.integer("pid").filter(|pid| *pid > 0);
    for held in sockets(context, only)? {
        let (local, remote) = (held.socket.local, held.socket.remote);
        rows.row()
            .set("pid", held.pid)
            .set("fd", held.fd)
            .set("socket", held.socket.inode)
            .set("family", held.socket.family)
            .set("protocol", held.socket.protocol)
            .set(
                "local_address",
                local.map(|(address, _)| address.to_string()),
            )
            .set(
                "remote_address",
                remote.map(|(address, _)| address.to_string()),
            )
            .set("local_port", local.map_or(0, |(_, port)| port))
            .set("remote_port", remote.map_or(0, |(_, port)| port))
            .set("path", held.socket.path)
            .set("state", held.socket.state)
            .set("net_namespace", held.namespace)
            .push()?;
    }
    Ok(())
}

pub(crate) fn listening_ports(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    for held in sockets(context, None)? {
        if !held.socket.waits {
            continue;
        }
        let local = held.socket.local;
        rows.row()
            .set("pid", held.pid)
            .set("port", local.map_or(0, |(_, port)| port))
            .set("protocol", held.socket.protocol)
            .set("family", held.socket.family)
            .set("address", local.map(|(address, _)| address.to_string()))
            .set("fd", held.fd)
            .set("socket", held.socket.inode)
            .set("path", held.socket.path)
            .set("net_namespace", held.namespace)
            .push()?;
    }
    Ok(())
}

/// Every socket with each of its holders; those of one process when `only` names it.
fn sockets(context: &Context<'_>, only: Option<i64>) -> Result<Vec<Held>, TableError> {
    let pids = match only {
        Some(pid) => vec![pid],
        None => proc::all_pids(context)?,
    };
    let mut holders: BTreeMap<u64, Vec<(i64, i64)>> = BTreeMap::new();
    let mut namespaces: Vec<(Option<String>, String)> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut denied = 0_usize;
    if only.is_none() {
        // Our own namespace first: it can be read without privileges.
        let own = namespace_number(&context.path("/proc/self/ns/net"));
        seen.insert(own.clone());
        namespaces.push((own, "self".to_owned()));
    }
    for pid in pids {
        context.check()?;
        match proc::descriptors(context, pid) {
            Ok(descriptors) => {
                for (fd, target) in descriptors {
                    if let Some(inode) = socket_inode(&target) {
                        holders.entry(inode).or_default().push((pid, fd));
                    }
                }
            }
            Err(_) => denied += 1,
        }
        let namespace = namespace_number(&context.path(format!("/proc/{pid}/ns/net")));
        // Kernel threads and processes of others have a namespace that cannot be told.
        if (namespace.is_some() || only.is_some()) && seen.insert(namespace.clone()) {
            namespaces.push((namespace, pid.to_string()));
        }
    }
    let mut held = Vec::new();
    for (namespace, process) in namespaces {
        for socket in namespace_sockets(context, &process)? {
            let holding = holders.get(&socket.inode).map_or(&[][..], Vec::as_slice);
            if holding.is_empty() && only.is_none() {
                held.push(Held {
                    socket,
                    pid: -1,
                    fd: -1,
                    namespace: namespace.clone(),
                });
                continue;
            }
            held.extend(holding.iter().map(|(pid, fd)| Held {
                socket: socket.clone(),
                pid: *pid,
                fd: *fd,
                namespace: namespace.clone(),
            }));
        }
    }
    proc::warn_about_denied(context, denied);
    Ok(held)
}

fn socket_inode(target: &str) -> Option<u64> {
    target
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// The sockets of the network namespace in which `process` runs.
fn namespace_sockets(context: &Context<'_>, process: &str) -> Result<Vec<Socket>, TableError> {
    let mut sockets = Vec::new();
    for (file, family, protocol) in INTERNET {
        context.check()?;
        // A protocol that the kernel was built without has no file.
        let path = context.path(format!("/proc/{process}/net/{file}"));
        let text = read_text(&path).unwrap_or_default();
        sockets.extend(
            text.lines()
                .skip(1)
                .filter_map(|line| internet_socket(line, family, protocol)),
        );
    }
    let path = context.path(format!("/proc/{process}/net/unix"));
    let text = read_text(&path).unwrap_or_default();
    sockets.extend(text.lines().skip(1).filter_map(unix_socket));
    Ok(sockets)
}

/// A line of `/proc/net/tcp` and its like.
fn internet_socket(line: &str, family: i64, protocol: i64) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let local = end_point(words.get(1)?)?;
    let remote = end_point(words.get(2)?)?;
    let number = usize::from_str_radix(words.get(3)?, 16).ok()?;
    let state = if protocol == PROTOCOL_TCP {
        TCP_STATES.get(number).copied().unwrap_or("UNKNOWN")
    } else {
        ""
    };
    let waits = if protocol == PROTOCOL_TCP {
        state == "LISTEN"
    } else {
        remote.1 == 0
    };
    Some(Socket {
        inode: words.get(9)?.parse().ok()?,
        family,
        protocol,
        local: Some(local),
        remote: Some(remote),
        path: String::new(),
        state,
        waits,
    })
}

/// An address and port as the kernel prints them: words of 32 bits in the machine's byte order.
fn end_point(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for start in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address = match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(bytes) => IpAddr::V4(Ipv4Addr::from(bytes)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).ok()?)),
    };
    Some((address, port))
}

/// A line of `/proc/net/unix`. The path may hold spaces.
fn unix_socket(line: &str) -> Option<Socket> {
    let mut rest = line;
    let mut words = [""; 7];
    for word in &mut words {
        rest = rest.trim_start();
        let end = rest.find(' ').unwrap_or(rest.len());
        (*word, rest) = rest.split_at(end);
    }
    let flags = u32::from_str_radix(words[3], 16).ok()?;
    let kind = u32::from_str_radix(words[4], 16).ok()?;
    let path = rest.strip_prefix(' ').unwrap_or(rest).to_owned();
    Some(Socket {
        inode: words[6].parse().ok()?,
        family: AF_UNIX,
        protocol: 0,
        local: None,
        remote: None,
        waits: !path.is_empty() && (flags & UNIX_ACCEPTS != 0 || kind == UNIX_DATAGRAM),
        path,
        state: "",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernel_become_sockets() {
        let line = "   1: 00000000:07E8 0200A8C0:01BB 0A 00000000:00000000 00:00000000 00000000     0        0 1087 1 0 100";
        let socket = internet_socket(line, AF_INET, PROTOCOL_TCP).unwrap();
        assert_eq!(socket.inode, 1087);
        assert_eq!(socket.local, Some((IpAddr::from([0, 0, 0, 0]), 2024)));
        assert_eq!(socket.remote, Some((IpAddr::from([192, 168, 0, 2]), 443)));
        assert_eq!((socket.state, socket.waits), ("LISTEN", true));
        let (address, port) = end_point("000080FE00000000FF00FC0001000000:0050").unwrap();
        assert_eq!(address.to_string(), "fe80::fc:ff:0:1");
        assert_eq!(port, 80);
    }

    #[test]
    fn a_local_socket_may_have_spaces_in_its_path() {
        let line = "000000006b5c93cb: 00000002 00000000 00010000 0001 01  1084 /run/my socket";
        let socket = unix_socket(line).unwrap();
        assert_eq!(
            (socket.inode, socket.path.as_str()),
            (1084, "/run/my socket")
        );
        assert!(socket.waits);
        let anonymous = "000000006b5c93cb: 00000003 00000000 00000000 0001 03 56920";
        let socket = unix_socket(anonymous).unwrap();
        assert_eq!(
            (socket.inode, socket.path.as_str(), socket.waits),
            (56920, "", false)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in "[0-9A-F: é/a-z]{0,120}") {
            let _ = internet_socket(&text, AF_INET, PROTOCOL_UDP);
            let _ = unix_socket(&text);
            let _ = end_point(&text);
        }
    }
}
