//! What this machine says about its processes and ports, and whether answers agree with it.
//!
//! Processes come and go while one asks. So it is looked before and after: what was there both times must be in the
//! answer, and what is in the answer must have been there one of the times, or be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde_json::Value;

use crate::error::XtaskError;

/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";
const TCP: &str = "6";
/// So many differences are named.
const NAMED: usize = 10;

/// What there is at one time.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// By id: when it started, in ticks, and its name.
    processes: BTreeMap<u32, (String, String)>,
    /// Where TCP listens.
    ports: BTreeSet<(IpAddr, u16)>,
}

impl Snapshot {
    pub(super) fn take() -> Result<Self, XtaskError> {
        let folder = Path::new("/proc");
        let entries = fs::read_dir(folder).map_err(XtaskError::file("read", folder))?;
        let mut processes = BTreeMap::new();
        for entry in entries.flatten() {
            let id = entry.file_name().to_string_lossy().parse();
            // A process that ends in between is not there.
            if let (Ok(id), Ok(stat)) = (id, fs::read(entry.path().join("stat")))
                && let Some(known) = parse_stat(&String::from_utf8_lossy(&stat))
            {
                processes.insert(id, known);
            }
        }
        let mut ports = BTreeSet::new();
        for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
            // Without IPv6 there is no tcp6.
            let text = fs::read_to_string(file).unwrap_or_default();
            ports.extend(text.lines().skip(1).filter_map(parse_listener));
        }
        Ok(Self { processes, ports })
    }
}

/// The start and the name; the name stands in parentheses and may hold some.
fn parse_stat(stat: &str) -> Option<(String, String)> {
    let (head, tail) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    // What follows the name begins with the third field; the start is the 22nd.
    let started = tail.split_whitespace().nth(19)?;
    Some((started.to_owned(), name.to_owned()))
}

/// `  0: 0100007F:1F90 00000000:0000 0A …`.
fn parse_listener(line: &str) -> Option<(IpAddr, u16)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<[u8; 4]>> = (0..address.len() / 8)
        .map(|index| {
            let word = address.get(index * 8..index * 8 + 8)?;
            u32::from_str_radix(word, 16).ok().map(u32::to_ne_bytes)
        })
        .collect();
    let address = match words?.as_slice() {
        [word] => IpAddr::V4(Ipv4Addr::from(*word)),
        [a, b, c, d] => {
            let bytes: [u8; 16] = [*a, *b, *c, *d].concat().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some((address, port))
}

/// The part of a process's name that stays: the kernel's workers are called after what they work on at the moment, such as
/// `kworker/1:1-events`.
fn lasting(name: &str) -> &str {
    if name.starts_with("kworker/") {
        name.split(['-', '+']).next().unwrap_or(name)
    } else {
        name
    }
}

/// Says what was compared, or what differs.
pub(super) fn compare(
    before: &Snapshot,
    after: &Snapshot,
    processes: &[Value],
    ports: &[Value],
) -> Result<String, XtaskError> {
    let mut findings = Vec::new();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let mut answered: BTreeMap<u32, String> = BTreeMap::new();
    for row in processes {
        match text(row, "pid").parse() {
            Ok(id) => {
                if answered.insert(id, text(row, "name")).is_some() {
                    findings.push(format!("process {id} is there twice"));
                }
            }
            Err(_) => findings.push(format!("a process without an id: {row}")),
        }
    }
    let mut same = 0;
    for (id, known) in &before.processes {
        if after.processes.get(id) != Some(known) {
            continue;
        }
        match answered.get(id) {
            None => findings.push(format!("process {id} ({}) is missing", known.1)),
            Some(name) if lasting(name) != lasting(&known.1) => {
                findings.push(format!("process {id} is called {}, not {name}", known.1));
            }
            Some(_) => same += 1,
        }
    }
    if same == 0 {
        findings.push("no process was there all the time".to_owned());
    }

    let mut listening = BTreeSet::new();
    for row in ports.iter().filter(|row| row["protocol"] == TCP) {
        match (text(row, "address").parse(), text(row, "port").parse()) {
            (Ok(address), Ok(port)) => {
                listening.insert((address, port));
            }
            _ => findings.push(format!("a port without an address: {row}")),
        }
    }
    for (address, port) in before.ports.intersection(&after.ports) {
        if !listening.contains(&(*address, *port)) {
            findings.push(format!("port {port} of {address} is missing"));
        }
    }
    for (address, port) in &listening {
        let known = (*address, *port);
        if !before.ports.contains(&known) && !after.ports.contains(&known) {
            findings.push(format!("nothing listens on port {port} of {address}"));
        }
    }
    if listening.is_empty() {
        findings.push("no port is listened on, though the server's is".to_owned());
    }
    if findings.is_empty() {
        let passing = answered.len() - same;
        let ports = listening.len();
        return Ok(format!(
            "{same} processes by id and name ({passing} came or went), {ports} listening TCP ports"
        ));
    }
    for finding in findings.iter().take(NAMED) {
        println!("    {finding}");
    }
    Err(XtaskError::Findings {
        what: "differences between the answers and /proc",
        count: findings.len(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn snapshot(processes: &[(u32, &str, &str)]) -> Snapshot {
        Snapshot {
            processes: processes
                .iter()
                .map(|(id, started, name)| (*id, ((*started).to_owned(), (*name).to_owned())))
                .collect(),
            ports: BTreeSet::from([(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080)]),
        }
    }

    fn port(port: &str) -> Vec<Value> {
        vec![json!({ "protocol": "6", "address": "127.0.0.1", "port": port })]
    }

    #[test]
    fn this_machine_is_read() {
        let snapshot = Snapshot::take().expect("/proc is there");
        let own = &snapshot.processes[&std::process::id()];
        assert!(!own.1.is_empty());
    }

    #[test]
    fn names_with_parentheses_and_addresses_of_both_kinds_are_read() {
        let stat = "7 (a) (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(
            parse_stat(stat),
            Some(("4711".to_owned(), "a) (b".to_owned()))
        );
        if cfg!(target_endian = "little") {
            let line = "0: 0100007F:1F90 00000000:0000 0A 0 0 0";
            assert_eq!(
                parse_listener(line),
                Some((Ipv4Addr::LOCALHOST.into(), 8080))
            );
            let line = "0: 00000000000000000000000001000000:0016 0:0 0A 0 0 0";
            assert_eq!(parse_listener(line), Some((Ipv6Addr::LOCALHOST.into(), 22)));
        }
        assert_eq!(
            parse_listener("0: 0100007F:1F90 00000000:0000 01 0 0 0"),
            None
        );
    }

    #[test]
    fn what_comes_and_goes_is_no_difference_and_what_stays_must_be_told() {
        let before = snapshot(&[(1, "1", "init"), (2, "5", "goes"), (3, "6", "old")]);
        let after = snapshot(&[(1, "1", "init"), (4, "9", "came"), (3, "8", "new")]);
        let rows = [
            json!({ "pid": "1", "name": "init" }),
            json!({ "pid": "3", "name": "any" }),
        ];
        assert!(compare(&before, &after, &rows, &port("8080")).is_ok());
        let wrong = [json!({ "pid": "1", "name": "other" })];
        for (rows, ports) in [
            (&rows[1..], port("8080")),
            (&wrong[..], port("8080")),
            (&rows[..], port("8081")),
            (&rows[..], Vec::new()),
        ] {
            assert!(compare(&before, &after, rows, &ports).is_err());
        }
    }
}
