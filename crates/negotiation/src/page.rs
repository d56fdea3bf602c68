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
         | name | family | our server since | our agent since | Fleet | meaning | when it is absent |\n\
         |---|---|---|---|---|---|---|\n",
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
            "| `{}` | {} | {} | {} | {} | {} | {} |",
            declaration.name,
            declaration.family.name(),
            since(capability, Sender::Server),
            since(capability, Sender::Agent),
            declaration.fleet,
            declaration.meaning,
            declaration.absence,
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
            assert!(page.contains(&format!("| `{}` |", capability.name())));
        }
        assert!(
            api::FAMILIES
                .iter()
                .all(|family| page.contains(family.root))
        );
    }
}
