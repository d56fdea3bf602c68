//! The reference page, written from the registry.

use std::fmt::Write as _;

use crate::{Capability, Sender, api};

/// The page `docs/reference/capabilities.md`.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Capabilities and API versions\n\n\
         <!-- Written by `cargo xtask docs` from crates/negotiation. Change it there. -->\n\n\
         Each process says on every exchange what it can do, in the header `X-Fleet-Capabilities`: names with one\n\
         comma between and no spaces. A peer that does not say a name cannot do the thing. Nothing is remembered from\n\
         an earlier answer, and an unknown name is kept and ignored.\n\n\
         Orbit ends itself, to be started again, when a server begins or ceases to say one of the names that are marked\n\
         with *. Servers that share a database therefore say what all of them can do, and nothing else. Fleet Desktop,\n\
         fleetctl and osqueryd never say anything.\n\n\
         | name | family | our server since | our agent since | Fleet's server since | orbit since | \
         meaning | when it is absent |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let since = |capability: Capability, sender| {
        capability
            .since(sender)
            .map_or_else(|| "-".to_owned(), |release| release.to_string())
    };
    for capability in Capability::ALL.iter().copied() {
        let declaration = capability.declaration();
        let _ = writeln!(
            page,
            "| `{}`{} | {} | {} | {} | {} | {} | {} | {} |",
            declaration.name,
            if declaration.restarts_orbit { " *" } else { "" },
            declaration.family.name(),
            since(capability, Sender::Server),
            since(capability, Sender::Agent),
            declaration.fleet_server.unwrap_or("-"),
            declaration.orbit.unwrap_or("-"),
            declaration.meaning,
            declaration.absence,
        );
    }
    page.push_str(
        "\n## Features\n\nWhat users have by a capability, and what they have while a process that takes part does not say it.\n\
         `muster skew` tells on which hosts that is so, because of which process.\n\n\
         | feature | capability | said by | while it is dark | to have it |\n|---|---|---|---|---|\n",
    );
    for (capability, feature) in Capability::features() {
        let senders = [Sender::Server, Sender::Agent]
            .into_iter()
            .filter(|sender| capability.since(*sender).is_some());
        let (mut said_by, mut remedies) = (Vec::new(), Vec::new());
        for sender in senders {
            said_by.push(sender.name());
            remedies.extend(capability.remedy(sender));
        }
        let _ = writeln!(
            page,
            "| {} | `{}` | {} | {} | {} |",
            feature.name,
            capability.name(),
            said_by.join(" and "),
            feature.dark,
            remedies.join("; "),
        );
    }
    page.push_str(
        "\n## API families\n\n| family | root | version from | served | oldest still needed |\n|---|---|---|---|---|\n",
    );
    for family in api::FAMILIES {
        let _ = writeln!(
            page,
            "| {} | `{}` | {} | {} | {} |",
            family.name,
            family.root,
            family.version_from,
            family.served.join(", "),
            family.oldest_needed,
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_row_for_every_capability_and_family() {
        let page = markdown();
        for capability in Capability::ALL {
            assert!(page.contains(&format!("\n| `{}`", capability.name())));
        }
        for (capability, feature) in Capability::features() {
            let row = format!("| {} | `{}` |", feature.name, capability.name());
            assert!(page.contains(&row), "{row}");
        }
        assert!(
            api::FAMILIES
                .iter()
                .all(|family| page.contains(family.root))
        );
    }
}
