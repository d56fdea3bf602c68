//! Addresses, interfaces, routes and listening ports as iproute2 shows them.

use std::collections::BTreeSet;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};

use serde_json::Value;

use crate::support::{engine, eventually, rows, run, same};

fn ip(arguments: &[&str]) -> Vec<Value> {
    let text = run("iproute2", "ip", arguments);
    // Without any entry there is no output at all.
    if text.trim().is_empty() {
        return Vec::new();
    }
    serde_json::from_str(&text).expect("`ip -j` prints JSON")
}

fn text(value: &Value, member: &str) -> String {
    match &value[member] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

/// The mask of a prefix, bit by bit.
fn mask(address: &str, prefix: u64) -> String {
    let bits = |bytes: usize| -> Vec<u8> {
        (0..bytes)
            .map(|byte| {
                (0..8).fold(0, |mask, bit| {
                    mask << 1 | u8::from((byte * 8 + bit) < prefix as usize)
                })
            })
            .collect()
    };
    match address.parse().expect("an address") {
        IpAddr::V4(_) => {
            IpAddr::from(<[u8; 4]>::try_from(bits(4)).expect("four bytes")).to_string()
        }
        IpAddr::V6(_) => {
            IpAddr::from(<[u8; 16]>::try_from(bits(16)).expect("sixteen bytes")).to_string()
        }
    }
}

#[test]
fn interface_addresses_agree_with_ip() {
    let engine = engine();
    eventually(|| {
        let mut theirs = Vec::new();
        for link in ip(&["-j", "addr", "show"]) {
            let name = text(&link, "ifname");
            let is_broadcast = link["flags"]
                .as_array()
                .is_some_and(|flags| flags.contains(&Value::from("BROADCAST")));
            for address in link["addr_info"].as_array().into_iter().flatten() {
                let local = text(address, "local");
                let is_link_local = local.starts_with("fe80:");
                let peer =
                    if text(address, "address").is_empty() && text(address, "family") == "inet" {
                        local.clone()
                    } else {
                        text(address, "address")
                    };
                theirs.push([
                    name.clone(),
                    if is_link_local {
                        format!("{local}%{name}")
                    } else {
                        local.clone()
                    },
                    mask(&local, address["prefixlen"].as_u64().unwrap_or(0)),
                    if is_broadcast {
                        text(address, "broadcast")
                    } else {
                        String::new()
                    },
                    if is_broadcast { String::new() } else { peer },
                ]);
            }
        }
        let ours = rows(&engine, "SELECT * FROM interface_addresses")
            .into_iter()
            .map(|row| {
                [
                    "interface",
                    "address",
                    "mask",
                    "broadcast",
                    "point_to_point",
                ]
                .map(|name| row[name].clone())
            })
            .collect();
        same(ours, theirs)
    });
}

/// Name, address and MTU of each link, and its counters.
type Link = ([String; 3], [u64; 6]);

fn links_of_ip() -> Vec<Link> {
    let links = ip(&["-j", "-s", "link", "show"]);
    let link = |link: &Value| {
        let count = |way: &str, name: &str| link["stats64"][way][name].as_u64().unwrap_or(0);
        let counters = [
            count("rx", "packets"),
            count("tx", "packets"),
            count("rx", "bytes"),
            count("tx", "bytes"),
            count("rx", "errors"),
            count("tx", "collisions"),
        ];
        (
            ["ifname", "address", "mtu"].map(|name| text(link, name)),
            counters,
        )
    };
    links.iter().map(link).collect()
}

#[test]
fn interface_details_agree_with_ip() {
    let engine = engine();
    eventually(|| {
        let mut before = links_of_ip();
        let mut ours: Vec<Link> = rows(&engine, "SELECT * FROM interface_details")
            .into_iter()
            .map(|row| {
                let counters = [
                    "ipackets",
                    "opackets",
                    "ibytes",
                    "obytes",
                    "ierrors",
                    "collisions",
                ];
                (
                    ["interface", "mac", "mtu"].map(|name| row[name].clone()),
                    counters.map(|name| row[name].parse().unwrap()),
                )
            })
            .collect();
        let mut after = links_of_ip();
        for links in [&mut before, &mut ours, &mut after] {
            links.sort();
        }
        let names = |links: &[Link]| links.iter().map(|(names, _)| names.clone()).collect();
        same::<[String; 3]>(names(&ours), names(&before))?;
        same::<[String; 3]>(names(&ours), names(&after))?;
        // Other tests use the loopback interface meanwhile: what is counted lies in between.
        let counters = |links: &[Link]| links.iter().flat_map(|link| link.1).collect::<Vec<_>>();
        let (low, high) = (counters(&before), counters(&after));
        for (place, count) in counters(&ours).into_iter().enumerate() {
            if !(low[place]..=high[place]).contains(&count) {
                return Err(format!(
                    "{count} is not from {} to {}",
                    low[place], high[place]
                ));
            }
        }
        Ok(())
    });
}

#[test]
fn routes_agree_with_ip() {
    let engine = engine();
    eventually(|| {
        let mut theirs = Vec::new();
        for (family, any, whole) in [("-4", "0.0.0.0", "32"), ("-6", "::", "128")] {
            for route in ip(&["-j", family, "route", "show", "table", "all"]) {
                let destination = match text(&route, "dst").as_str() {
                    "default" => format!("{any}/0"),
                    network if network.contains('/') => network.to_owned(),
                    host => format!("{host}/{whole}"),
                };
                let kind = match text(&route, "type").as_str() {
                    "" | "unicast" => "gateway",
                    kind @ ("local" | "broadcast" | "anycast") => kind,
                    _ => "other",
                }
                .to_owned();
                let metric = route["metric"].as_u64().unwrap_or(0).to_string();
                let hops = match route["nexthops"].as_array() {
                    Some(hops) => hops
                        .iter()
                        .map(|hop| (text(hop, "gateway"), text(hop, "dev")))
                        .collect(),
                    None => vec![(text(&route, "gateway"), text(&route, "dev"))],
                };
                for (gateway, interface) in hops {
                    theirs.push([
                        destination.clone(),
                        gateway,
                        text(&route, "prefsrc"),
                        interface,
                        metric.clone(),
                        kind.clone(),
                    ]);
                }
            }
        }
        let ours = rows(
            &engine,
            "SELECT destination || '/' || netmask AS network, * FROM routes",
        )
        .into_iter()
        .map(|row| {
            [
                "network",
                "gateway",
                "source",
                "interface",
                "metric",
                "type",
            ]
            .map(|name| row[name].clone())
        })
        .collect();
        same(ours, theirs)
    });
}

/// `127.0.0.53%lo:53`, `[::1]:80`, `*:22`.
fn end_point(text: &str) -> (String, String) {
    let (address, port) = text.rsplit_once(':').expect("an address with a port");
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = address.split('%').next().unwrap_or(address);
    let address = if address == "*" { "::" } else { address };
    (address.to_owned(), port.to_owned())
}

#[test]
fn listening_ports_agree_with_ss() {
    // Whatever else listens, there is one of each kind.
    let _sockets = (
        TcpListener::bind("127.0.0.1:0").unwrap(),
        TcpListener::bind("[::1]:0").unwrap(),
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        UdpSocket::bind("[::]:0").unwrap(),
    );
    let engine = engine();
    eventually(|| {
        let mut theirs = BTreeSet::new();
        for line in run("iproute2", "ss", &["-H", "-l", "-t", "-u", "-n", "-p"]).lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let protocol = if words[0] == "tcp" { "6" } else { "17" };
            let (address, port) = end_point(words[4]);
            let mut holders: Vec<(String, String)> = line
                .split("pid=")
                .skip(1)
                .map(|holder| {
                    let number = |text: &str| {
                        text.chars()
                            .take_while(char::is_ascii_digit)
                            .collect::<String>()
                    };
                    let fd = holder.split("fd=").nth(1).expect("a file descriptor");
                    (number(holder), number(fd))
                })
                .collect();
            if holders.is_empty() {
                holders.push(("-1".to_owned(), "-1".to_owned()));
            }
            for (pid, fd) in holders {
                theirs.insert([protocol.to_owned(), address.clone(), port.clone(), pid, fd]);
            }
        }
        // ss looks into its own network namespace only.
        let ours: BTreeSet<[String; 5]> = rows(
            &engine,
            "SELECT protocol, address, port, pid, fd FROM listening_ports WHERE protocol IN (6, 17) AND net_namespace = \
             (SELECT net_namespace FROM process_open_sockets WHERE pid = (SELECT pid FROM osquery_info) LIMIT 1)",
        )
        .into_iter()
        .map(|row| ["protocol", "address", "port", "pid", "fd"].map(|name| row[name].clone()))
        .collect();
        let own = std::process::id().to_string();
        assert!(
            ours.iter().filter(|row| row[3] == own).count() >= 4,
            "{ours:?}"
        );
        same(ours.into_iter().collect(), theirs.into_iter().collect())
    });
}

#[test]
fn a_connection_and_a_local_socket_of_this_process_are_told() {
    use std::os::fd::AsRawFd as _;
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a socket");
    let local = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let engine = engine();
    let own = std::process::id();
    let found = rows(
        &engine,
        &format!(
            "SELECT * FROM process_open_sockets WHERE pid = {own} AND fd = {}",
            client.as_raw_fd()
        ),
    );
    assert_eq!(found.len(), 1);
    for (column, value) in [
        ("family", "10".to_owned()),
        ("protocol", "6".to_owned()),
        ("local_address", "::1".to_owned()),
        (
            "local_port",
            client.local_addr().unwrap().port().to_string(),
        ),
        ("remote_address", "::1".to_owned()),
        (
            "remote_port",
            listener.local_addr().unwrap().port().to_string(),
        ),
        ("state", "ESTABLISHED".to_owned()),
    ] {
        assert_eq!(found[0][column], value, "{column}");
    }
    let sql = format!(
        "SELECT fd, path, family FROM listening_ports WHERE pid = {own} AND path = '{}'",
        path.display()
    );
    let found = rows(&engine, &sql);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["fd"], local.as_raw_fd().to_string());
    assert_eq!(found[0]["family"], "1");
}

#[test]
fn neighbours_agree_with_ip() {
    let engine = engine();
    eventually(|| {
        let theirs = ip(&["-j", "-4", "neigh", "show"])
            .iter()
            .filter(|neighbour| !text(neighbour, "lladdr").is_empty())
            .map(|neighbour| ["dst", "lladdr", "dev"].map(|name| text(neighbour, name)))
            .collect();
        let ours = rows(
            &engine,
            "SELECT * FROM arp_cache WHERE mac <> '00:00:00:00:00:00'",
        )
        .into_iter()
        .map(|row| ["address", "mac", "interface"].map(|name| row[name].clone()))
        .collect();
        same(ours, theirs)
    });
}
