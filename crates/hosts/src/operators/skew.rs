//! Which features are dark on which hosts, because of which process.
//!
//! A feature is dark when a process that takes part does not say its capability: a server, and then it is dark on every host,
//! or the program that speaks for a host. Only features that Muster has can be dark.

use muster_clock::Timestamp;
use muster_http::{Listing, Page};
use muster_identity::{HostId, Principal, TeamId};
use muster_negotiation::{Capability, CapabilitySet, Sender};

use super::{Hosts, OperatorError};
use crate::store;
use crate::store::operator::Filter;
use crate::store::skew::HostSpeaker;

/// Fields that the list of hosts with dark features can be sorted by.
pub const SKEW_SORTS: &[&str] = &["display_name", "id", "seen_at", "team_id", "process"];
/// Our server, as a process because of which a feature is dark.
pub(crate) const SERVER: &str = "muster-server";
/// Processes because of which a feature can be dark.
pub(crate) const PROCESSES: &[&str] = &["muster-agent", "orbit", "osquery", SERVER];
/// How many programs and versions are counted one by one for each feature; the others are counted together.
const MAX_COUNTED_PROGRAMS: usize = 100;
/// What the others are called.
const OTHER_VERSIONS: &str = "others";

/// Narrows down which dark features are looked at.
#[derive(Debug, Clone, Default)]
pub struct SkewQuery {
    /// Only hosts of this team; 0 for hosts without one.
    pub team_id: Option<i64>,
    /// Only this host.
    pub host_id: Option<i64>,
    /// Only the feature of this capability.
    pub capability: Option<String>,
    /// Only what is dark because of this process.
    pub process: Option<String>,
}

/// A host on which at least one feature is dark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DarkHost {
    /// Which host.
    pub id: HostId,
    /// What people call it.
    pub display_name: String,
    /// Its team.
    pub team_id: Option<TeamId>,
    /// When it was last heard of.
    pub seen_at: Option<Timestamp>,
    /// The program that speaks for it: `muster-agent`, `orbit` or, when there is neither, `osquery`.
    pub process: String,
    /// Its version, as far as it is known.
    pub version: String,
    /// What is dark.
    pub dark: Vec<DarkFeature>,
}

/// A feature that is dark on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DarkFeature {
    /// The capability that is not said.
    pub capability: Capability,
    /// Since when at the latest.
    pub since: Timestamp,
    /// Because of which processes; all of them have to be updated.
    pub because: Vec<DarkBecause>,
}

/// A process because of which a feature is dark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DarkBecause {
    /// Which program.
    pub process: String,
    /// Its version, as far as it is known.
    pub version: String,
    /// Which server, when it is one.
    pub server: Option<String>,
    /// Since when: a server, since it started; a program on a host, since it does not say it any more, or since the host
    /// enrolled when it never did.
    pub since: Timestamp,
    /// What to do about it.
    pub remedy: String,
}

/// On how many hosts a feature is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureSummary {
    /// The capability that it depends on.
    pub capability: Capability,
    /// On how many hosts it is there.
    pub hosts_with: u64,
    /// On how many it is dark.
    pub hosts_without: u64,
    /// The servers because of which it is dark on all of them.
    pub servers: Vec<DarkBecause>,
    /// The same by program and version, most hosts first.
    pub programs: Vec<ProgramCount>,
}

/// How many hosts have a program of a version that says a capability, and that does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramCount {
    /// Which program.
    pub process: String,
    /// Its version, as far as it is known; `others` for all that are not counted one by one.
    pub version: String,
    /// With the feature.
    pub hosts_with: u64,
    /// Without.
    pub hosts_without: u64,
}

/// A query that was checked.
struct Wanted {
    capabilities: Vec<Capability>,
    /// Whether what is dark because of servers counts, and because of programs on hosts.
    servers: bool,
    programs: bool,
    program: Option<String>,
}

impl Wanted {
    fn all() -> Self {
        Self {
            capabilities: Capability::features().map(|(name, _)| name).collect(),
            servers: true,
            programs: true,
            program: None,
        }
    }

    fn of(query: &SkewQuery) -> Result<Self, OperatorError> {
        let invalid = |field, reason| OperatorError::Invalid { field, reason };
        let mut wanted = Self::all();
        if let Some(name) = given(query.capability.as_deref()) {
            let known = &wanted.capabilities;
            let found = known.iter().find(|capability| capability.name() == name);
            let Some(found) = found.copied() else {
                let names: Vec<&str> = known.iter().map(|known| known.name()).collect();
                let reason = format!("must be one of {}", names.join(", "));
                return Err(invalid("capability", reason));
            };
            wanted.capabilities = vec![found];
        }
        if let Some(process) = given(query.process.as_deref()) {
            if !PROCESSES.contains(&process) {
                let reason = format!("must be one of {}", PROCESSES.join(", "));
                return Err(invalid("process", reason));
            }
            wanted.servers = process == SERVER;
            wanted.programs = process != SERVER;
            wanted.program = Some(process.to_owned()).filter(|_| wanted.programs);
        }
        Ok(wanted)
    }

    /// Those that programs on hosts have to say.
    fn of_agents(&self) -> Vec<Capability> {
        let all = self.capabilities.iter().copied();
        all.filter(|name| self.programs && name.since(Sender::Agent).is_some())
            .collect()
    }
}

fn given(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

impl Hosts {
    /// The servers because of which a capability is not said. Their names are for those who may see servers.
    fn servers_without(&self, capability: Capability, names: bool) -> Vec<DarkBecause> {
        let standing = self.standing();
        if standing.says(capability) {
            return Vec::new();
        }
        let servers = standing.without(capability).into_iter();
        servers
            .map(|server| DarkBecause {
                process: SERVER.to_owned(),
                remedy: capability.remedy_for_server(&server.release),
                version: server.release,
                server: names.then_some(server.name),
                since: server.started_at,
            })
            .collect()
    }

    fn dark(&self, host: HostSpeaker, wanted: &Wanted, names: bool) -> DarkHost {
        let said = CapabilitySet::from_text(&host.names);
        let of_agents = wanted.of_agents();
        let because = |capability| {
            let mut because = Vec::new();
            if wanted.servers {
                because.extend(self.servers_without(capability, names));
            }
            if of_agents.contains(&capability) && !said.has(capability) {
                because.push(DarkBecause {
                    process: host.process.clone(),
                    version: host.version.clone(),
                    server: None,
                    since: host.lost.since(capability).unwrap_or(host.created_at),
                    remedy: capability.remedy_for_agent(&host.process, &host.version),
                });
            }
            because
        };
        let dark = wanted.capabilities.iter().copied();
        let dark = dark.filter_map(|capability| {
            let because: Vec<DarkBecause> = because(capability);
            Some(DarkFeature {
                capability,
                since: because.iter().map(|because| because.since).min()?,
                because,
            })
        });
        DarkHost {
            id: host.id,
            team_id: host.team_id,
            seen_at: host.seen_at,
            dark: dark.collect(),
            display_name: host.display_name,
            process: host.process.clone(),
            version: host.version.clone(),
        }
    }

    fn skew_filter(
        &self,
        principal: &Principal,
        listing: &Listing,
        query: &SkewQuery,
        wanted: &Wanted,
    ) -> Filter {
        let mut filter = Filter::new(self.now());
        filter.visible(&principal.visible_teams());
        if let Some(pattern) = listing.search_pattern() {
            filter.search(&pattern);
        }
        if let Some(team) = query.team_id {
            filter.team(team);
        }
        if let Some(host) = query.host_id {
            filter.ids(&[host]);
        }
        if let Some(program) = &wanted.program {
            store::skew::process(&mut filter, program);
        }
        filter
    }

    /// A page of the hosts on which features are dark, of those that the principal may see.
    pub async fn skew(
        &self,
        principal: &Principal,
        listing: &Listing,
        query: &SkewQuery,
        server_names: bool,
    ) -> Result<Page<DarkHost>, OperatorError> {
        let wanted = Wanted::of(query)?;
        let mut filter = self.skew_filter(principal, listing, query, &wanted);
        let says = |capability: &Capability| self.standing().says(*capability);
        if !wanted.servers || wanted.capabilities.iter().all(says) {
            store::skew::lacking(&mut filter, &wanted.of_agents());
        }
        let mut db = self.database();
        let total = store::skew::count(&mut db, &filter).await?;
        let hosts = store::skew::list(&mut db, &filter, listing).await?;
        let hosts = hosts.into_iter();
        let dark = hosts.map(|host| self.dark(host, &wanted, server_names));
        Ok(listing.page(dark.collect(), total))
    }

    /// How many hosts have each feature, of those that the principal may see.
    pub async fn skew_summary(
        &self,
        principal: &Principal,
        listing: &Listing,
        query: &SkewQuery,
        server_names: bool,
    ) -> Result<Vec<FeatureSummary>, OperatorError> {
        let wanted = Wanted::of(query)?;
        let filter = self.skew_filter(principal, listing, query, &wanted);
        let of_agents = wanted.of_agents();
        let counts = store::skew::summary(&mut self.database(), &filter, &of_agents).await?;
        let summary = wanted.capabilities.iter().copied().map(|capability| {
            let servers = if wanted.servers {
                self.servers_without(capability, server_names)
            } else {
                Vec::new()
            };
            let index = of_agents.iter().position(|known| *known == capability);
            let mut programs: Vec<ProgramCount> = Vec::new();
            for count in &counts {
                let is_there = servers.is_empty() && index.is_none_or(|index| count.says[index]);
                let known = programs.iter().position(|known| {
                    known.process == count.process && known.version == count.version
                });
                let at = known.unwrap_or_else(|| {
                    let is_other = programs.len() >= MAX_COUNTED_PROGRAMS;
                    let version = if is_other {
                        OTHER_VERSIONS
                    } else {
                        &count.version
                    };
                    let others = programs.iter().position(|known| {
                        known.process == count.process && known.version == version
                    });
                    others.unwrap_or_else(|| {
                        programs.push(ProgramCount {
                            process: count.process.clone(),
                            version: version.to_owned(),
                            hosts_with: 0,
                            hosts_without: 0,
                        });
                        programs.len() - 1
                    })
                });
                let hosts = if is_there {
                    &mut programs[at].hosts_with
                } else {
                    &mut programs[at].hosts_without
                };
                *hosts += count.hosts;
            }
            FeatureSummary {
                capability,
                hosts_with: programs.iter().map(|count| count.hosts_with).sum(),
                hosts_without: programs.iter().map(|count| count.hosts_without).sum(),
                servers,
                programs,
            }
        });
        Ok(summary.collect())
    }

    /// What is dark on one host.
    pub async fn dark_on(
        &self,
        host: HostId,
        server_names: bool,
    ) -> Result<Vec<DarkFeature>, OperatorError> {
        let mut filter = Filter::new(self.now());
        filter.ids(&[host.0]);
        let one = Listing {
            limit: 1,
            offset: 0,
            sort: "id",
            direction: muster_http::OrderDirection::Ascending,
            search: None,
        };
        let hosts = store::skew::list(&mut self.database(), &filter, &one).await?;
        let wanted = Wanted::all();
        let dark = hosts.into_iter().next();
        Ok(dark.map_or_else(Vec::new, |host| self.dark(host, &wanted, server_names).dark))
    }
}
