//! The page on Fleet's clients, written from the registry of capabilities, the recordings, and the list of what is left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use muster_negotiation::Capability;

use crate::left_out::{GAP, MEMBERS, OTHER_STATUS, artefact, left_out};
use crate::recording::{Exchange, Line, Recording};

/// Which releases a recording stands for, with what it was made, and how many of its exchanges are compared: tests count
/// them, so that none is skipped.
const CLIENTS: &[(&str, &str, usize)] = &[
    ("orbit-2022", "orbit 1.2, October 2022", 72),
    ("orbit-2025", "orbit 1.37, January 2025", 84),
    ("desktop-2025", "Fleet Desktop, January 2025", 2),
    (
        "osquery-perf-2022",
        "osquery-perf (osqueryd's API), October 2022",
        25,
    ),
    (
        "osquery-perf-2025",
        "osquery-perf (osqueryd's and orbit's API), January 2025",
        55,
    ),
    ("fleetctl-2022", "fleetctl 4.21, October 2022", 190),
    ("fleetctl-2025", "fleetctl 4.62, January 2025", 344),
    ("golden", "every endpoint once", 210),
    ("errors", "errors of every kind", 221),
    ("experiments", "open questions about a real server", 103),
];

/// How many exchanges of a recording of this project are compared.
pub fn compared(recording: &str) -> usize {
    let client = CLIENTS.iter().find(|(name, ..)| *name == recording);
    client.expect("a recording of this project").2
}

/// What becomes of the exchanges of a recording.
#[derive(Default)]
struct Account {
    of_the_proxy: usize,
    left_out: BTreeMap<&'static str, usize>,
}

fn why_left_out(recording: &str, exchange: &Exchange) -> Option<&'static str> {
    let not_built = left_out(exchange).map(|entry| entry.reason);
    not_built.or_else(|| artefact(recording, exchange.n))
}

fn account(recording: &Recording, compared: usize) -> Account {
    let mut account = Account::default();
    let mut sent = 0;
    for exchange in recording.exchanges() {
        if !exchange.is_answered_by_server() {
            account.of_the_proxy += 1;
        } else if let Some(reason) = why_left_out(&recording.name, exchange) {
            *account.left_out.entry(reason).or_default() += 1;
        } else {
            sent += 1;
        }
    }
    if sent > compared {
        *account.left_out.entry(GAP).or_default() += sent - compared;
    }
    account
}

/// What a command of fleetctl comes to: all of its calls are replayed, or the reasons why some are not.
fn commands(recording: &Recording) -> BTreeMap<String, Vec<&'static str>> {
    let mut commands: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
    let mut command = String::new();
    for line in &recording.lines {
        match line {
            Line::Mark(mark) if mark.exit_code.is_none() => {
                mark.text.clone_into(&mut command);
                commands.entry(command.clone()).or_default();
            }
            Line::Exchange(exchange) if exchange.is_answered_by_server() => {
                if let (Some(reason), Some(reasons)) = (
                    why_left_out(&recording.name, exchange),
                    commands.get_mut(&command),
                ) && !reasons.contains(&reason)
                {
                    reasons.push(reason);
                }
            }
            _ => {}
        }
    }
    commands
}

/// The page `docs/compatibility.md`.
pub fn markdown() -> String {
    let recordings = crate::recordings();
    let find = |name: &str| recordings.iter().find(|recording| recording.name == name);
    let mut page = String::from(
        "# Fleet's clients on Muster\n\n\
         <!-- Written by `cargo xtask docs` from testing/peers/fleet. Change it there. -->\n\n\
         What programs of Fleet that are out there find on Muster. What real clients sent to a real Fleet server, and what it\n\
         answered, was recorded; tests send it to Muster and compare status, content type, capabilities, and every member of\n\
         every answer with its type and whether it may be null (`cargo test --workspace --test fleet`). The same requests are\n\
         sent damaged in every way, and over connections that are cut before the request, after it and in the answer.\n\n\
         ## What is replayed\n\n\
         | client | exchanges that are compared | left out | of the recording's proxy |\n|---|---|---|---|\n",
    );
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, about, compared) in CLIENTS {
        let Some(recording) = find(name) else {
            continue;
        };
        let account = account(recording, *compared);
        let left_out: usize = account.left_out.values().sum();
        let _ = writeln!(
            page,
            "| {about} | {compared} | {left_out} | {} |",
            account.of_the_proxy
        );
        for (reason, count) in account.left_out {
            *reasons.entry(reason).or_default() += count;
        }
    }
    page.push_str("\nLeft out, and why:\n\n| exchanges | reason |\n|---|---|\n");
    for (reason, count) in reasons {
        let _ = writeln!(page, "| {count} | {reason} |");
    }
    page.push_str(
        "\n## Commands of fleetctl\n\nAs recorded; a command works when the answers to all of its calls agree.\n\n\
         | command | 2022 | 2025 |\n|---|---|---|\n",
    );
    let by_era: Vec<_> = ["fleetctl-2022", "fleetctl-2025"]
        .into_iter()
        .filter_map(find)
        .map(commands)
        .collect();
    let mut names: Vec<&String> = by_era.iter().flat_map(BTreeMap::keys).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let told = |era: usize| match by_era.get(era).and_then(|commands| commands.get(name)) {
            None => "not recorded".to_owned(),
            Some(reasons) if reasons.is_empty() => "works".to_owned(),
            Some(reasons) => reasons.join("; "),
        };
        let _ = writeln!(page, "| `{name}` | {} | {} |", told(0), told(1));
    }
    page.push_str(
        "\n## What each process says that it can do\n\nWhat is dark on which of your hosts, and because of which process, \
         `muster skew` tells.\n\n| capability | said by Fleet's server | by orbit | Muster's server says it | dark without it |\n\
         |---|---|---|---|---|\n",
    );
    for capability in Capability::ALL {
        let declaration = capability.declaration();
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            declaration.name,
            declaration.fleet_server.unwrap_or("-"),
            declaration.orbit.unwrap_or("-"),
            declaration
                .server_since
                .map_or_else(|| "no".to_owned(), |since| format!("since {since}")),
            declaration.feature.map_or("-", |feature| feature.dark),
        );
    }
    page.push_str(
        "\n## Where Muster decides otherwise than Fleet\n\nAgents must not notice; operators should. Each line is a test.\n\n",
    );
    page.push_str(include_str!("page/decisions.md"));
    page.push_str(
        "\n### Answers\n\nSeen in the recordings, and held by the replays (tests in `testing/peers/fleet`).\n\n\
         | route or case | Fleet | Muster | why |\n|---|---|---|---|\n",
    );
    for (place, recorded, ours, why) in OTHER_STATUS {
        let _ = writeln!(page, "| `{place}` | {recorded} | {ours} | {why} |");
    }
    page.push_str("\n| route | member | why it may differ |\n|---|---|---|\n");
    for (route, member, why) in MEMBERS {
        let _ = writeln!(page, "| `{route}` | `{member}` | {why} |");
    }
    page.push('\n');
    page.push_str(include_str!("page/tried.md"));
    page
}
