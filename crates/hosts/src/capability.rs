//! What agents say that they can do: compared with what they said before, kept when it changed.
//!
//! The order of names is random in each request of real agents, so sets are compared. An agent that says nothing now
//! but said something before has lost its abilities, and that is kept too; one that never said anything has no row.

use muster_identity::HostId;
use muster_negotiation::CapabilitySet;
use serde_json::json;

use crate::agents::Agents;
use crate::error::HostsError;
use crate::state::Said;
use crate::store;

/// Which program speaks when its `User-Agent` does not tell.
const DEFAULT_PROCESS: &str = "orbit";
/// Our own agent, as its `User-Agent` begins.
const OWN_AGENT: &str = "muster-agent";
/// The longest version in characters.
const MAX_VERSION_CHARACTERS: usize = 64;

/// What one request of an agent says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saying {
    /// What it can do; empty when it says nothing.
    pub capabilities: CapabilitySet,
    /// Its `User-Agent`.
    pub user_agent: String,
}

impl Saying {
    /// The program, and its version when the `User-Agent` tells.
    fn process(&self) -> (&'static str, Option<String>) {
        match self.user_agent.split_once('/') {
            Some((OWN_AGENT, version)) => {
                let version = version.split_whitespace().next().unwrap_or_default();
                (OWN_AGENT, Some(clean(version)))
            }
            _ => (DEFAULT_PROCESS, None),
        }
    }
}

/// Without what separates entries where they are kept.
fn clean(version: &str) -> String {
    let fits = |character: &char| character.is_ascii_graphic() && *character != ';';
    version
        .chars()
        .filter(fits)
        .take(MAX_VERSION_CHARACTERS)
        .collect()
}

impl Agents {
    /// Takes what an agent's request says about itself. Memory only, unless it changed.
    pub(crate) async fn heard(&self, host: HostId, saying: &Saying) -> Result<(), HostsError> {
        let state = self.0.check_in.host(host).await?;
        let (process, version) = saying.process();
        let version = version.unwrap_or_else(|| clean(&state.profile().orbit_version));
        let before = state.said(process);
        if before.is_none() && saying.capabilities.is_empty() {
            return Ok(());
        }
        let new = Said {
            process: process.to_owned(),
            version,
            names: saying.capabilities.names().collect::<Vec<_>>().join(","),
        };
        if before.as_ref() == Some(&new) {
            return Ok(());
        }
        let now = self.now();
        let mut db = self.0.database.begin().await?;
        store::capability::save(&mut db, host, process, &new.names, &new.version, now).await?;
        let old = before.map(|said| said.names);
        if old.as_deref() != Some(new.names.as_str()) {
            let list = |names: &str| -> Vec<String> {
                names
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect()
            };
            let details = json!({
                "process": process,
                "version": new.version,
                "before": old.as_deref().map(list),
                "after": list(&new.names),
            });
            store::event::add(&mut db, host, "capabilities_changed", &details, now).await?;
        }
        db.commit().await?;
        state.set_said(new);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_agent_tells_its_version_and_others_are_orbit() {
        let saying = |user_agent: &str| Saying {
            user_agent: user_agent.to_owned(),
            ..Saying::default()
        };
        let ours = saying("muster-agent/0.1.0;x (linux)");
        assert_eq!(ours.process(), ("muster-agent", Some("0.1.0x".to_owned())));
        for other in ["Go-http-client/2.0", "", "muster-agent", "osquery/5.11.0"] {
            assert_eq!(saying(other).process(), ("orbit", None));
        }
    }
}
