//! Names on the network: hosts, services, resolvers.

use crate::error::TableError;
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink};

pub(crate) static ETC_HOSTS: TableSpec = TableSpec {
    name: "etc_hosts",
    description: "The names that /etc/hosts gives to addresses.",
    columns: &[
        column("address", Text),
        column("hostnames", Text),
        column("pid_with_namespace", Integer).additional().hidden(),
    ],
};

pub(crate) static ETC_SERVICES: TableSpec = TableSpec {
    name: "etc_services",
    description: "The ports that /etc/services gives names to.",
    columns: &[
        column("name", Text),
        column("port", Integer),
        column("protocol", Text),
        column("aliases", Text),
        column("comment", Text),
    ],
};

pub(crate) static DNS_RESOLVERS: TableSpec = TableSpec {
    name: "dns_resolvers",
    description: "Name servers, search domains and options in resolv.conf.",
    columns: &[
        column("id", Integer),
        column("type", Text),
        column("address", Text),
        column("netmask", Text),
        column("options", BigInt),
        column("pid_with_namespace", Integer).additional().hidden(),
    ],
};

pub(crate) fn etc_hosts(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    for line in context.read_text("/etc/hosts")?.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let (Some(address), names) = (words.next(), words.collect::<Vec<_>>()) else {
            continue;
        };
        if !names.is_empty() {
            rows.row()
                .set("address", address)
                .set("hostnames", names.join(" "))
                .push()?;
        }
    }
    Ok(())
}

pub(crate) fn etc_services(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    for line in context.read_text("/etc/services")?.lines() {
        let (entry, comment) = line.split_once('#').unwrap_or((line, ""));
        let mut words = entry.split_whitespace();
        let (Some(name), Some((port, protocol))) = (
            words.next(),
            words.next().and_then(|word| word.split_once('/')),
        ) else {
            continue;
        };
        let Ok(port) = port.parse::<u16>() else {
            continue;
        };
        rows.row()
            .set("name", name)
            .set("port", port)
            .set("protocol", protocol)
            .set("aliases", words.collect::<Vec<_>>().join(" "))
            .set("comment", comment.trim())
            .push()?;
    }
    Ok(())
}

/// The resolver's state as a C program has it that has read no options: ready, recursive, with search domains.
const DEFAULT_OPTIONS: i64 = 0x1 | 0x40 | 0x80 | 0x200;

/// Options in resolv.conf with their bits in the resolver's state.
const OPTIONS: [(&str, i64); 10] = [
    ("debug", 0x2),
    ("use-vc", 0x8),
    ("rotate", 0x4000),
    ("no-check-names", 0x8000),
    ("edns0", 0x0010_0000),
    ("single-request", 0x0020_0000),
    ("single-request-reopen", 0x0040_0000),
    ("no-tld-query", 0x0100_0000),
    ("no-reload", 0x0200_0000),
    ("trust-ad", 0x0400_0000),
];

pub(crate) fn dns_resolvers(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let resolvers = Resolvers::parse(&context.read_text("/etc/resolv.conf")?);
    for (kind, addresses) in [
        ("nameserver", &resolvers.servers),
        ("sortlist", &resolvers.sort),
        ("search", &resolvers.search),
    ] {
        for (id, address) in addresses.iter().enumerate() {
            let (address, mask) = match address.split_once('/') {
                Some((address, mask)) if kind == "sortlist" => (address, Some(mask)),
                _ => (address.as_str(), (kind == "nameserver").then_some("32")),
            };
            rows.row()
                .set("id", id)
                .set("type", kind)
                .set("address", address)
                .set("netmask", mask)
                .set("options", resolvers.options)
                .push()?;
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Resolvers {
    servers: Vec<String>,
    search: Vec<String>,
    sort: Vec<String>,
    options: i64,
}

impl Resolvers {
    fn parse(text: &str) -> Self {
        let mut resolvers = Self {
            servers: Vec::new(),
            search: Vec::new(),
            sort: Vec::new(),
            options: DEFAULT_OPTIONS,
        };
        for line in text.lines() {
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_whitespace();
            let keyword = words.next().unwrap_or_default();
            let mut owned = words.map(str::to_owned);
            match keyword {
                "nameserver" => resolvers.servers.extend(owned.next()),
                // Of several the last one counts.
                "search" => resolvers.search = owned.collect(),
                "domain" => resolvers.search = owned.take(1).collect(),
                "sortlist" => resolvers.sort = owned.collect(),
                "options" => {
                    for word in owned {
                        let bit = OPTIONS.iter().find(|(name, _)| *name == word);
                        resolvers.options |= bit.map_or(0, |(_, bit)| *bit);
                    }
                }
                _ => {}
            }
        }
        resolvers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_search_list_counts_and_options_add_up() {
        let resolvers = Resolvers::parse(
            "# comment\nnameserver 192.0.2.53\nnameserver ::1 # local\ndomain a.example\nsearch b.example c.example\n\
             options rotate ndots:2 trust-ad\nsortlist 10.0.0.0/255.0.0.0\n",
        );
        assert_eq!(resolvers.servers, ["192.0.2.53", "::1"]);
        assert_eq!(resolvers.search, ["b.example", "c.example"]);
        assert_eq!(resolvers.sort, ["10.0.0.0/255.0.0.0"]);
        assert_eq!(resolvers.options, DEFAULT_OPTIONS | 0x4000 | 0x0400_0000);
    }
}
