//! What operators decide about the link between a collector and a host.

use muster_http::Problem;
use muster_identity::{Action, Actor, AuditEntry, CollectorId, HostId, Principal, Scope, TeamId};
use muster_store::{StoreError, Transaction};
use serde_json::json;

use super::{BY_HAND, Link, LinkState, lock_name, unlinked};
use crate::{Collectors, OperatorError, store};

/// What an operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkWish {
    /// The collector runs on this host, whatever it says.
    Set(HostId),
    /// It does run on the host that was suggested.
    Confirm(HostId),
    /// It does not run on this host.
    Reject(HostId),
    /// It does not run on the host that it is linked to.
    Undo,
}

/// A link as it is shown.
pub(crate) struct Shown {
    pub(crate) link: Link,
    /// What people call the host.
    pub(crate) host: String,
}

impl Collectors {
    /// What there is between a collector of this team and hosts, the link first, then what is suggested.
    pub(crate) async fn host_links(
        &self,
        id: CollectorId,
        team: Option<TeamId>,
    ) -> Result<Vec<Shown>, StoreError> {
        let Some(hosts) = self.links().hosts.get() else {
            return Ok(Vec::new());
        };
        let links = store::link::find(&mut self.database(), id).await?;
        let ids: Vec<HostId> = links.iter().map(|link| link.host_id).collect();
        let mut summaries = hosts.summaries(&ids).await?;
        let shown = links.into_iter().filter_map(|link| {
            let host = summaries.remove(&link.host_id)?;
            // Of another team nothing is told, until the next walk takes the link away.
            (host.team_id == team).then_some(Shown {
                link,
                host: host.display_name,
            })
        });
        let mut shown: Vec<Shown> = shown.collect();
        shown.sort_by_key(|shown| match shown.link.state {
            LinkState::Linked => 0,
            LinkState::Suggested => 1,
            LinkState::Rejected => 2,
        });
        Ok(shown)
    }

    /// Decides something about the link of a collector that the principal may change.
    pub(crate) async fn decide_link(
        &self,
        principal: &Principal,
        id: CollectorId,
        wish: LinkWish,
    ) -> Result<(), Problem> {
        let unknown = || OperatorError::Unknown(id.to_string());
        let team = store::link::team(&mut self.database(), id).await;
        let team = team.map_err(OperatorError::from)?.ok_or_else(unknown)?;
        let visible = principal.visible_teams();
        if !visible.admits(team) {
            return Err(unknown().into());
        }
        principal.authorize(Action::WriteHosts, Scope::Team(team))?;
        if let LinkWish::Set(host) | LinkWish::Confirm(host) | LinkWish::Reject(host) = wish {
            let no_host = || Problem::not_found(format_args!("host {host}"));
            let hosts = self.links().hosts.get().ok_or_else(no_host)?;
            let found = hosts.summaries(&[host]).await;
            let found = found.map_err(OperatorError::from)?.remove(&host);
            let found = found
                .filter(|found| visible.admits(found.team_id))
                .ok_or_else(no_host)?;
            if found.team_id != team {
                let reason = "is in another team than the collector; move one of them first";
                return Err(Problem::invalid("host_id", reason));
            }
        }
        let done = self.try_to_decide(principal, id, team, wish).await;
        // What else may be suggested, or links by itself, is looked at at once.
        self.links().wish([id]);
        done.map_err(Into::into)
    }

    async fn try_to_decide(
        &self,
        principal: &Principal,
        id: CollectorId,
        team: Option<TeamId>,
        wish: LinkWish,
    ) -> Result<(), OperatorError> {
        let now = self.now();
        let mut db = self.database().begin().await?;
        db.lock(&[lock_name(id)]).await?;
        match store::link::team(&mut db, id).await? {
            Some(there) if there == team => {}
            Some(_) => {
                return Err(OperatorError::Conflict(
                    "the collector was moved to another team; try again",
                ));
            }
            None => return Err(OperatorError::Unknown(id.to_string())),
        }
        let known = store::link::find(&mut db, id).await?;
        let Some(decision) = decide(&known, wish)? else {
            return Ok(());
        };
        let decided = Link {
            host_id: decision.host_id,
            state: decision.state,
            matched_by: decision.matched_by,
            matched_value: decision.matched_value,
            since: now,
            decided_by: named(&principal.name, &principal.email),
        };
        if decided.state == LinkState::Linked {
            // Whatever else there was gives way.
            let others = known.iter().filter(|it| it.host_id != decided.host_id);
            for link in others.filter(|it| it.state != LinkState::Rejected) {
                store::link::drop_link(&mut db, id, link.host_id).await?;
                if link.state == LinkState::Linked {
                    unlinked(&mut db, id, link, "another_host", now).await?;
                }
            }
        }
        store::link::put(&mut db, id, &decided).await?;
        let details = json!({ "host_id": decided.host_id, "by": decided.matched_by, "who": decided.decided_by });
        store::event::add(&mut db, id, &[(decision.event, &details)], now).await?;
        self.audit_link(&mut db, principal, id, decision.action, &decided)
            .await?;
        db.commit().await?;
        Ok(())
    }

    async fn audit_link(
        &self,
        db: &mut Transaction,
        principal: &Principal,
        id: CollectorId,
        action: &'static str,
        link: &Link,
    ) -> Result<(), StoreError> {
        let details = json!({ "host_id": link.host_id, "by": link.matched_by });
        let entry = AuditEntry::new(action, "collector", id).after(details);
        let audit = &self.identity().audit;
        audit
            .record(db, &Actor::from(principal), entry, self.now())
            .await
    }
}

/// What somebody is called who decided something; never empty.
pub(super) fn named(name: &str, email: &str) -> String {
    let known = [name, email].into_iter().find(|it| !it.trim().is_empty());
    known.unwrap_or("somebody").to_owned()
}

/// What is to be kept.
struct Decision {
    host_id: HostId,
    state: LinkState,
    matched_by: String,
    matched_value: String,
    /// For the timeline.
    event: &'static str,
    /// For the log of changes.
    action: &'static str,
}

/// What a wish comes to; none when it is so already.
fn decide(known: &[Link], wish: LinkWish) -> Result<Option<Decision>, OperatorError> {
    let of = |host: HostId| known.iter().find(|link| link.host_id == host);
    let decision = |link: &Link, state, event, action| Decision {
        host_id: link.host_id,
        state,
        matched_by: link.matched_by.clone(),
        matched_value: link.matched_value.clone(),
        event,
        action,
    };
    let conflict = |what| Err(OperatorError::Conflict(what));
    match wish {
        LinkWish::Set(host) => {
            if of(host).is_some_and(|it| it.state == LinkState::Linked && !it.decided_by.is_empty())
            {
                return Ok(None);
            }
            Ok(Some(Decision {
                host_id: host,
                state: LinkState::Linked,
                matched_by: BY_HAND.to_owned(),
                matched_value: String::new(),
                event: "host_linked",
                action: "linked_collector_host",
            }))
        }
        LinkWish::Confirm(host) => match of(host) {
            Some(link) if link.state == LinkState::Suggested => Ok(Some(decision(
                link,
                LinkState::Linked,
                "host_linked",
                "confirmed_collector_host",
            ))),
            Some(link) if link.state == LinkState::Linked => Ok(None),
            _ => conflict("this host is not suggested for the collector; link it by hand instead"),
        },
        LinkWish::Reject(host) => match of(host) {
            Some(link) if link.state == LinkState::Rejected => Ok(None),
            Some(link) if link.state == LinkState::Suggested => Ok(Some(decision(
                link,
                LinkState::Rejected,
                "host_link_rejected",
                "rejected_collector_host",
            ))),
            Some(link) => Ok(Some(undone(decision, link))),
            None => conflict("this host is neither suggested for the collector nor linked to it"),
        },
        LinkWish::Undo => {
            let linked = known.iter().find(|link| link.state == LinkState::Linked);
            Ok(linked.map(|link| undone(decision, link)))
        }
    }
}

fn undone(
    decision: impl Fn(&Link, LinkState, &'static str, &'static str) -> Decision,
    link: &Link,
) -> Decision {
    decision(
        link,
        LinkState::Rejected,
        "host_unlinked",
        "unlinked_collector_host",
    )
}
