//! Network interfaces, their addresses, routes and neighbours.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::netlink::{self, Address, Dump, Link, Route};
use crate::error::TableError;
use crate::spec::Collation::NoCase;
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink};

pub(crate) static INTERFACE_ADDRESSES: TableSpec = TableSpec {
    name: "interface_addresses",
    description: "The addresses of each network interface.",
    columns: &[
        column("interface", Text),
        column("address", Text),
        column("mask", Text),
        column("broadcast", Text),
        column("point_to_point", Text),
        column("type", Text),
        column("friendly_name", Text).foreign(),
    ],
};

pub(crate) static INTERFACE_DETAILS: TableSpec = TableSpec {
    name: "interface_details",
    description: "Each network interface: hardware address, traffic, speed.",
    columns: &[
        column("interface", Text),
        column("mac", Text).collate(NoCase),
        column("type", Integer),
        column("mtu", Integer),
        column("metric", Integer),
        column("flags", Integer),
        column("ipackets", BigInt),
        column("opackets", BigInt),
        column("ibytes", BigInt),
        column("obytes", BigInt),
        column("ierrors", BigInt),
        column("oerrors", BigInt),
        column("idrops", BigInt),
        column("odrops", BigInt),
        column("collisions", BigInt),
        column("last_change", BigInt),
        column("link_speed", BigInt),
        column("pci_slot", Text),
        column("friendly_name", Text).foreign(),
        column("description", Text).foreign(),
        column("manufacturer", Text).foreign(),
        column("connection_id", Text).foreign(),
        column("connection_status", Text).foreign(),
        column("enabled", Integer).foreign(),
        column("physical_adapter", Integer).foreign(),
        column("speed", Integer).foreign(),
        column("service", Text).foreign(),
        column("dhcp_enabled", Integer).foreign(),
        column("dhcp_lease_expires", Text).foreign(),
        column("dhcp_lease_obtained", Text).foreign(),
        column("dhcp_server", Text).foreign(),
        column("dns_domain", Text).foreign(),
        column("dns_domain_suffix_search_order", Text).foreign(),
        column("dns_host_name", Text).foreign(),
        column("dns_server_search_order", Text).foreign(),
    ],
};

pub(crate) static ROUTES: TableSpec = TableSpec {
    name: "routes",
    description: "The routes in the kernel's tables.",
    columns: &[
        column("destination", Text),
        column("netmask", Integer),
        column("gateway", Text),
        column("source", Text),
        column("flags", Integer),
        column("interface", Text),
        column("mtu", Integer),
        column("metric", Integer),
        column("type", Text).additional(),
        column("hopcount", Integer),
    ],
};

pub(crate) static ARP_CACHE: TableSpec = TableSpec {
    name: "arp_cache",
    description: "Which hardware address belongs to which IPv4 neighbour.",
    columns: &[
        column("address", Text),
        column("mac", Text).collate(NoCase),
        column("interface", Text),
        column("permanent", Text),
    ],
};

/// The flag of interfaces that can reach all their neighbours at once.
const IFF_BROADCAST: u32 = 0x2;

fn links() -> Result<BTreeMap<u32, Link>, TableError> {
    let mut links = BTreeMap::new();
    netlink::dump(Dump::Links, |payload| {
        if let Some(link) = Link::parse(payload) {
            links.insert(link.index, link);
        }
        Ok(())
    })?;
    Ok(links)
}

pub(crate) fn interface_addresses(
    _: &Constraints,
    _: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let links = links()?;
    netlink::dump(Dump::Addresses, |payload| {
        let Some(address) = Address::parse(payload) else {
            return Ok(());
        };
        // An interface may go between the two questions.
        let Some(link) = links.get(&address.link) else {
            return Ok(());
        };
        let is_broadcast = link.flags & IFF_BROADCAST != 0;
        rows.row()
            .set("interface", link.name.as_str())
            .set("address", scoped(address.local, &link.name))
            .set("mask", mask(address.local, address.prefix).to_string())
            .set(
                "broadcast",
                address
                    .broadcast
                    .filter(|_| is_broadcast)
                    .map(|ip| ip.to_string()),
            )
            .set(
                "point_to_point",
                address
                    .peer
                    .filter(|_| !is_broadcast)
                    .map(|ip| ip.to_string()),
            )
            .set("type", "unknown")
            .push()
    })
}

/// A link-local address means something only together with its interface.
fn scoped(address: IpAddr, interface: &str) -> String {
    match address {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => format!("{ip}%{interface}"),
        other => other.to_string(),
    }
}

fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(_) => {
            let bits = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into()));
            IpAddr::V4(Ipv4Addr::from(bits.unwrap_or(0)))
        }
        IpAddr::V6(_) => {
            let bits = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into()));
            IpAddr::V6(Ipv6Addr::from(bits.unwrap_or(0)))
        }
    }
}

pub(crate) fn interface_details(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    for link in links()?.into_values() {
        let folder = format!("/sys/class/net/{}", link.name);
        // The speed of an interface that is down cannot be read, and a virtual one has none.
        let speed = context
            .read_text(format!("{folder}/speed"))
            .ok()
            .and_then(|text| text.trim().parse::<i64>().ok())
            .filter(|megabits| *megabits >= 0);
        let slot = context
            .read_text(format!("{folder}/device/uevent"))
            .ok()
            .and_then(|text| {
                text.lines()
                    .find_map(|line| line.strip_prefix("PCI_SLOT_NAME="))
                    .map(str::to_owned)
            });
        rows.row()
            .set("interface", link.name)
            .set("mac", hardware_address(&link.hardware_address))
            .set("type", link.kind)
            .set("mtu", link.mtu)
            // Linux counts metrics by route, not by interface.
            .set("metric", 0)
            .set("flags", link.flags)
            .set("ipackets", link.traffic.packets_in)
            .set("opackets", link.traffic.packets_out)
            .set("ibytes", link.traffic.bytes_in)
            .set("obytes", link.traffic.bytes_out)
            .set("ierrors", link.traffic.errors_in)
            .set("oerrors", link.traffic.errors_out)
            .set("idrops", link.traffic.dropped_in)
            .set("odrops", link.traffic.dropped_out)
            .set("collisions", link.traffic.collisions)
            .set("last_change", -1)
            .set("link_speed", speed.unwrap_or(0))
            .set("pci_slot", slot.unwrap_or_else(|| "-1".to_owned()))
            .push()?;
    }
    Ok(())
}

fn hardware_address(bytes: &[u8]) -> String {
    // Tunnels have none, or another kind; six zero bytes are what other tools show then.
    let bytes = if bytes.is_empty() { &[0; 6] } else { bytes };
    bytes
        .iter()
        .enumerate()
        .fold(String::new(), |mut text, (index, byte)| {
            let separator = if index == 0 { "" } else { ":" };
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}{byte:02x}");
            text
        })
}

/// Names for the kernel's types of routes.
fn route_type(kind: u8) -> &'static str {
    match kind {
        1 => "gateway",
        2 => "local",
        3 => "broadcast",
        4 => "anycast",
        _ => "other",
    }
}

pub(crate) fn routes(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let links = links()?;
    let name = |index: Option<u32>| {
        index
            .and_then(|index| links.get(&index))
            .map(|link| link.name.as_str())
    };
    netlink::dump(Dump::Routes, |payload| {
        context.check()?;
        let Some(route) = Route::parse(payload) else {
            return Ok(());
        };
        let any = if route.is_ipv6 {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        let hops = if route.hops.is_empty() {
            vec![(route.link, route.gateway)]
        } else {
            route
                .hops
                .iter()
                .map(|(link, gateway)| (Some(*link), *gateway))
                .collect()
        };
        for (link, gateway) in hops {
            rows.row()
                .set("destination", route.destination.unwrap_or(any).to_string())
                .set("netmask", route.prefix)
                .set("gateway", gateway.map(|ip| ip.to_string()))
                .set("source", route.source.map(|ip| ip.to_string()))
                .set("flags", route.flags)
                .set("interface", name(link))
                .set("mtu", route.mtu)
                .set("metric", route.metric)
                .set("type", route_type(route.kind))
                .set("hopcount", route.hop_limit)
                .push()?;
        }
        Ok(())
    })
}

/// The flag of entries that somebody entered by hand.
const ATF_PERMANENT: u32 = 0x4;

pub(crate) fn arp_cache(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    for line in context.read_text("/proc/net/arp")?.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _, flags, mac, _, interface] = words[..] else {
            continue;
        };
        let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
        rows.row()
            .set("address", address)
            .set("mac", mac)
            .set("interface", interface)
            .set(
                "permanent",
                if flags & ATF_PERMANENT == 0 { "0" } else { "1" },
            )
            .push()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_become_masks() {
        let v4 = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(mask(v4, 0).to_string(), "0.0.0.0");
        assert_eq!(mask(v4, 20).to_string(), "255.255.240.0");
        assert_eq!(mask(v4, 32).to_string(), "255.255.255.255");
        assert_eq!(mask(v4, 255).to_string(), "255.255.255.255");
        let v6 = IpAddr::from([0_u8; 16]);
        assert_eq!(mask(v6, 64).to_string(), "ffff:ffff:ffff:ffff::");
        assert_eq!(mask(v6, 0).to_string(), "::");
    }

    #[test]
    fn link_local_addresses_carry_their_interface() {
        let address: IpAddr = "fe80::1".parse().unwrap();
        assert_eq!(scoped(address, "eth0"), "fe80::1%eth0");
        assert_eq!(
            hardware_address(&[2, 0xFC, 0, 0, 0, 1]),
            "02:fc:00:00:00:01"
        );
        assert_eq!(hardware_address(&[]), "00:00:00:00:00:00");
    }
}
