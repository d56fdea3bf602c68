//! What agents say that they can do: compared with what they said before, kept when it changed.
//!
//! One program at a time speaks for a host: when orbit takes the place of our agent, what our agent said is over. The order of
//! names is random in each request of real agents, so sets are compared. An agent that says nothing now
//! but said something before has lost its abilities, and that is kept too; an orbit that never said anything has no row.

use std::time::Duration;

use muster_clock::Timestamp;
use muster_identity::HostId;
use muster_negotiation::{Capability, CapabilitySet, Sender};
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

/// Since when names are not said any more that were said on a host before. A name that was never said there is not in it:
/// that one is missing since the host enrolled.
///
/// Kept as `name=microseconds` with commas; written since release 0.3.0, and left as it was by servers of older ones, so that
/// it may name what is said again by now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost(Vec<(Capability, Timestamp)>);

impl Lost {
    pub(crate) fn from_text(text: &str) -> Self {
        let entries = text.split(',').filter_map(|entry| {
            let (name, micros) = entry.split_once('=')?;
            let at = Timestamp::from_micros(micros.parse().ok()?);
            Some((Capability::by_name(name)?, at))
        });
        Self(entries.collect())
    }

    pub(crate) fn to_text(&self) -> String {
        let entries = self.0.iter();
        let entries: Vec<String> = entries
            .map(|(capability, at)| format!("{}={}", capability.name(), at.as_micros()))
            .collect();
        entries.join(",")
    }

    /// Since when it is not said any more; none when it was never said.
    pub(crate) fn since(&self, capability: Capability) -> Option<Timestamp> {
        let entry = self.0.iter().find(|(lost, _)| *lost == capability);
        entry.map(|(_, at)| *at)
    }

    /// What is lost when a host that said `before` says `names` from `now` on.
    fn after(before: &Said, names: &CapabilitySet, now: Timestamp) -> Self {
        let said = CapabilitySet::from_text(&before.names);
        // Others change nothing for users.
        let ours = Capability::features()
            .map(|(capability, _)| capability)
            .filter(|capability| capability.since(Sender::Agent).is_some());
        let lost = ours
            .filter(|capability| !names.has(*capability))
            .filter_map(|capability| {
                let since = if said.has(capability) {
                    now
                } else {
                    before.lost.since(capability)?
                };
                Some((capability, since))
            });
        Self(lost.collect())
    }
}

/// What a request changes of what was said on a host.
struct Change {
    /// What the program says now.
    new: Said,
    /// Particulars for the host's timeline; none when it is nothing for that.
    event: Option<serde_json::Value>,
}

/// Compares what a program says with what was said on the host so far; none when that is the same.
fn compare(
    said: &[Said],
    (process, version): (&str, &str),
    saying: &Saying,
    now: Timestamp,
) -> Option<Change> {
    // The last one to change speaks for the host.
    let last = said.iter().max_by_key(|said| said.changed_at);
    let names = saying.capabilities.names().collect::<Vec<_>>().join(",");
    let new = |changed_at, lost| Said {
        process: process.to_owned(),
        version: version.to_owned(),
        names: names.clone(),
        changed_at,
        lost,
    };
    match last {
        // Orbit is what is meant anyway when nothing is kept.
        None if names.is_empty() && process == DEFAULT_PROCESS => None,
        None => {
            let new = new(now, Lost::default());
            let event = (!names.is_empty()).then(|| details(&new, None));
            Some(Change { new, event })
        }
        Some(last) if last.process == process && last.names == names => (last.version != version)
            .then(|| Change {
                new: new(last.changed_at, last.lost.clone()),
                event: None,
            }),
        Some(last) => {
            // Later than the last one, whatever the clock does.
            let now = now.max(last.changed_at.plus(Duration::from_micros(1)));
            let new = new(now, Lost::after(last, &saying.capabilities, now));
            let event = Some(details(&new, Some(last)));
            Some(Change { new, event })
        }
    }
}

impl Agents {
    /// Takes what an agent's request says about itself. Memory only, unless it changed.
    pub(crate) async fn heard(&self, host: HostId, saying: &Saying) -> Result<(), HostsError> {
        let state = self.0.check_in.host(host).await?;
        let (process, version) = saying.process();
        let version = version.unwrap_or_else(|| clean(&state.profile().orbit_version));
        let (now, program) = (self.now(), (process, version.as_str()));
        if state
            .with_said(|said| compare(said, program, saying, now))
            .is_none()
        {
            return Ok(());
        }
        // Another server may have heard it already.
        let mut db = self.0.database.begin().await?;
        let said = store::capability::said(&mut db, host).await?;
        let Some(Change { new, event }) = compare(&said, program, saying, now) else {
            state.set_said(said);
            return Ok(());
        };
        store::capability::save(&mut db, host, &new).await?;
        if let Some(details) = event {
            let kind = "capabilities_changed";
            store::event::add(&mut db, host, kind, &details, new.changed_at).await?;
        }
        db.commit().await?;
        let others = said.into_iter().filter(|said| said.process != process);
        state.set_said(others.chain([new]).collect());
        Ok(())
    }
}

/// A change in the host's timeline.
fn details(new: &Said, last: Option<&Said>) -> serde_json::Value {
    let list = |names: &str| -> Vec<String> {
        names
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let mut details = json!({
        "process": new.process,
        "version": new.version,
        "before": last.map(|last| list(&last.names)),
        "after": list(&new.names),
    });
    if let Some(last) = last.filter(|last| last.process != new.process) {
        details["process_before"] = json!(last.process);
    }
    details
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
