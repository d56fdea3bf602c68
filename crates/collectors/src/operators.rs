//! Collectors as operators see them, and what operators do about them.

use std::time::Duration;

use muster_clock::Timestamp;
use muster_http::{Listing, Page, Problem};
use muster_identity::{
    Action, Actor, AuditEntry, CollectorId, CollectorKeyInfo, ComeBack, IdentityError, Principal,
    RefusedKey, Scope, TeamFilter, TeamId,
};
use muster_store::{StoreError, Transaction};
use muster_wire_opamp::AgentCapabilities;
use serde_json::{Value, json};

use crate::links::Shown;
use crate::record::{Record, Standing, Status};
use crate::store::event::Event;
use crate::store::operator::{Filter, Listed};
use crate::store::part::KeptMessage;
use crate::store::record::ListedParts;
use crate::telemetry::TelemetryState;
use crate::{Collectors, OperatorError, attribute_list, store};

/// By which collectors are sorted.
pub(crate) const COLLECTOR_SORTS: &[&str] = &[
    "id",
    "name",
    "host_name",
    "version",
    "seen_at",
    "created_at",
];
/// How many entries of the timeline are shown.
const SHOWN_EVENTS: i64 = 100;
/// How long an approval lets an agent come back.
const APPROVED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a change is tried again when the agent changes at the same time.
const ATTEMPTS: usize = 8;
/// Why a collector cannot come again by its key.
const KEY_IS_GONE: &str = "this collector has no key that could be good again: it never used one, or the key was taken away by \
     itself or for good, or deleted since; unrevoke it without its key, so that it comes by an enrollment token";
/// The longest reason, in bytes.
const MAX_REASON_BYTES: usize = 1_000;

/// Which collectors are listed.
#[derive(Debug, Clone, Default)]
pub struct CollectorQuery {
    /// Only those that are `online`, `late` or `offline`.
    pub status: Option<String>,
    /// Only those that are `enrolled`, `waiting` or `revoked`.
    pub standing: Option<String>,
    /// Only those whose key is `none`, `offered`, `adopted` or `not_adopting`.
    pub key_status: Option<String>,
    /// Only those whose remote configuration is `unset`, `applying`, `applied` or `failed`.
    pub config_status: Option<String>,
    /// Only those that say that they are healthy, or that they are not.
    pub healthy: Option<bool>,
    /// Only those with this capability, by its name; several with commas.
    pub capability: Option<String>,
    /// Only those with this attribute: `name` or `name=value`; several with commas, and what has a comma in it in quotes.
    pub attribute: Option<String>,
    /// Only those that showed this enrollment token last.
    pub enrollment_token_id: Option<i64>,
    /// Only those that are linked to this host.
    pub host_id: Option<i64>,
    /// Only those that are `linked` to a host, for which one is `suggested`, or of which neither is so (`none`).
    pub host_link: Option<String>,
    /// Only those of this version.
    pub version: Option<String>,
    /// Only those of this team; 0 for those without one.
    pub team_id: Option<i64>,
}

/// How many collectors there are that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCounts {
    /// `enrolled`, `waiting` or `revoked`.
    pub standing: String,
    /// `none`, `offered`, `adopted` or `not_adopting`.
    pub key_status: String,
    /// How many.
    pub total: u64,
    /// How many of them were heard in time.
    pub online: u64,
}

/// Everything that is known about a collector.
pub(crate) struct Detail {
    pub(crate) listed: Listed,
    pub(crate) record: Record,
    pub(crate) parts: Vec<(String, Value, Timestamp)>,
    pub(crate) components: Option<Value>,
    pub(crate) keys: Vec<CollectorKeyInfo>,
    pub(crate) uids: Vec<String>,
    pub(crate) events: Vec<Event>,
    pub(crate) messages: Vec<KeptMessage>,
    pub(crate) hosts: Vec<Shown>,
    pub(crate) telemetry: Option<TelemetryState>,
}

impl Listed {
    /// Whether it is there now.
    pub(crate) fn status(&self, now: Timestamp) -> Status {
        let seconds = u64::try_from(self.interval_seconds).unwrap_or(0).max(1);
        Status::of(
            self.seen_at,
            self.gone_at,
            Duration::from_secs(seconds),
            now,
        )
    }
}

/// What an operator wants of a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish<'a> {
    /// It may not come any more.
    Revoke { reason: &'a str },
    /// It may come again.
    Unrevoke(ComeBack),
    /// It may come back by its token.
    Approve,
    /// It is to restart.
    Restart,
    /// Its key is to be renewed.
    Rotate,
    /// It is moved to this team.
    Transfer(Option<TeamId>),
    /// It is forgotten.
    Delete,
}

impl Wish<'_> {
    /// What stands in the audit log and in the agent's timeline.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Revoke { .. } => ("revoked_collector", "revoked"),
            Self::Unrevoke(_) => ("unrevoked_collector", "unrevoked"),
            Self::Approve => ("approved_collector", "approved"),
            Self::Restart => ("restarted_collector", "restart_requested"),
            Self::Rotate => ("rotated_collector_key", "key_rotation_requested"),
            Self::Transfer(_) => ("transferred_collector", "transferred"),
            Self::Delete => ("deleted_collector", "deleted"),
        }
    }

    fn details(self) -> Value {
        match self {
            Self::Revoke { reason } => json!({ "reason": reason }),
            Self::Transfer(team) => json!({ "team_id": team }),
            Self::Unrevoke(how) => {
                json!({ "with_its_key": how == ComeBack::WithItsKey })
            }
            Self::Approve | Self::Restart | Self::Rotate | Self::Delete => json!({}),
        }
    }
}

impl Collectors {
    pub(crate) fn filter(
        &self,
        principal: &Principal,
        search: Option<String>,
        query: &CollectorQuery,
    ) -> Result<Filter, OperatorError> {
        let mut filter = Filter::new(self.now());
        filter.visible(&principal.visible_teams());
        if let Some(team) = query.team_id {
            filter.team(team);
        }
        if let Some(pattern) = search {
            filter.search(&pattern);
        }
        if let Some(status) = &query.status
            && !filter.status(status)
        {
            return Err(OperatorError::Invalid {
                field: "status",
                reason: "must be online, late or offline".to_owned(),
            });
        }
        for (field, column, wish, known) in [
            (
                "standing",
                "c.standing",
                &query.standing,
                &["enrolled", "waiting", "revoked"][..],
            ),
            (
                "key_status",
                "c.key_status",
                &query.key_status,
                &["none", "offered", "adopted", "not_adopting"],
            ),
            (
                "config_status",
                "c.config_status",
                &query.config_status,
                &["unset", "applying", "applied", "failed"],
            ),
        ] {
            let Some(wish) = wish else {
                continue;
            };
            if !known.contains(&wish.as_str()) {
                let reason = format!("must be one of {}", known.join(", "));
                return Err(OperatorError::Invalid { field, reason });
            }
            filter.column(column, wish);
        }
        if let Some(version) = &query.version {
            filter.column("c.version", version);
        }
        if let Some(healthy) = query.healthy {
            filter.healthy(healthy);
        }
        for name in listed(query.capability.as_deref()) {
            let Some(bit) = AgentCapabilities::named(name) else {
                let known: Vec<&str> = AgentCapabilities::KNOWN
                    .iter()
                    .map(|(_, name)| *name)
                    .collect();
                let reason = format!("must be among {}", known.join(", "));
                return Err(OperatorError::Invalid {
                    field: "capability",
                    reason,
                });
            };
            filter.capabilities(bit.bits());
        }
        let attributes = query.attribute.as_deref().map(attribute_list::parse);
        let attributes = attributes
            .transpose()
            .map_err(|reason| OperatorError::Invalid {
                field: "attribute",
                reason,
            })?;
        for (name, value) in attributes.into_iter().flatten() {
            filter.attribute(&name, value.as_deref());
        }
        if let Some(token) = query.enrollment_token_id {
            filter.token(token);
        }
        if let Some(host) = query.host_id {
            filter.host(host);
        }
        if let Some(state) = &query.host_link
            && !filter.host_link(state)
        {
            return Err(OperatorError::Invalid {
                field: "host_link",
                reason: "must be linked, suggested or none".to_owned(),
            });
        }
        Ok(filter)
    }

    /// A page of the collectors that the principal may see.
    pub(crate) async fn list(
        &self,
        principal: &Principal,
        listing: &Listing,
        query: &CollectorQuery,
    ) -> Result<Page<Listed>, OperatorError> {
        let filter = self.filter(principal, listing.search_pattern(), query)?;
        let mut db = self.database();
        let total = store::operator::count(&mut db, &filter).await?;
        let items = store::operator::list(&mut db, &filter, listing).await?;
        Ok(listing.page(items, total))
    }

    /// How many collectors there are, by what they are like.
    pub async fn counts(&self) -> Result<Vec<AgentCounts>, StoreError> {
        self.counts_of(&TeamFilter::All).await
    }

    /// How many collectors these teams have, by what they are like.
    pub(crate) async fn counts_of(
        &self,
        teams: &TeamFilter,
    ) -> Result<Vec<AgentCounts>, StoreError> {
        let now = self.now();
        let mut filter = Filter::new(now);
        filter.visible(teams);
        let counts = store::operator::counts(&mut self.database(), &filter, now).await?;
        let mut counts: Vec<AgentCounts> = counts
            .into_iter()
            .map(|((standing, key_status), (total, online))| AgentCounts {
                standing,
                key_status,
                total,
                online,
            })
            .collect();
        counts.sort_by(|a, b| (&a.standing, &a.key_status).cmp(&(&b.standing, &b.key_status)));
        Ok(counts)
    }

    /// Everything about a collector, if the principal may see it.
    pub(crate) async fn detail(
        &self,
        principal: &Principal,
        id: CollectorId,
    ) -> Result<Detail, OperatorError> {
        let mut db = self.database();
        let unknown = || OperatorError::Unknown(id.to_string());
        let mut listed = store::operator::find(&mut db, id)
            .await?
            .ok_or_else(unknown)?;
        // What was heard in the last second is to be seen, too, and whoever only looks writes nothing.
        if let Some((seen_at, gone_at)) = self.waiting_times(id)
            && listed.seen_at.is_none_or(|written| written <= seen_at)
        {
            listed.seen_at = Some(seen_at);
            listed.gone_at = gone_at;
        }
        if !principal.visible_teams().admits(listed.team_id) {
            return Err(unknown());
        }
        let record = store::record::find(&mut db, id)
            .await?
            .ok_or_else(unknown)?;
        let components = record.durable.components.as_ref();
        let components = match components.and_then(|known| known.content.as_deref()) {
            Some(content) => store::part::components(&mut db, content).await?,
            None => None,
        };
        let parts = store::part::list(&mut db, id).await?;
        let description = parts.iter().find(|(part, ..)| part == "description");
        let description = description.map(|(_, value, _)| value);
        Ok(Detail {
            telemetry: self.telemetry_state(&record, description),
            parts,
            components,
            keys: self.identity().collector_keys.of_collector(id).await?,
            uids: store::operator::uids(&mut db, id).await?,
            events: store::event::list(&mut db, id, SHOWN_EVENTS).await?,
            messages: store::part::messages(&mut db, id).await?,
            hosts: self.host_links(id, listed.team_id).await?,
            listed,
            record,
        })
    }

    /// Does something about a collector that the principal may change.
    pub(crate) async fn change(
        &self,
        principal: &Principal,
        id: CollectorId,
        wish: Wish<'_>,
    ) -> Result<(), Problem> {
        if let Wish::Revoke { reason } = wish
            && (reason.len() > MAX_REASON_BYTES || reason.contains('\0'))
        {
            let reason = format!("must be at most {MAX_REASON_BYTES} bytes of text");
            return Err(Problem::invalid("reason", reason));
        }
        let actor = Actor::from(principal);
        for _ in 0..ATTEMPTS {
            // Looked at anew each time: somebody may have moved it to where the principal may do nothing.
            let team = self.permitted(principal, id, wish).await?;
            let done = self.try_change(&actor, id, team, wish).await;
            if matches!(done, Ok(false)) {
                continue;
            }
            // Whatever came of it: when the answer to a commit is lost it may have been kept.
            if matches!(wish, Wish::Delete) {
                self.identity().collector_keys.changed(id).await;
                self.gone(id).await;
            } else {
                self.changed(id).await;
                self.identity().collector_keys.changed(id).await;
            }
            if matches!(wish, Wish::Transfer(_)) {
                self.links().wish([id]);
            }
            self.push_soon(Some(id)).await;
            return done.map(drop).map_err(Into::into);
        }
        Err(OperatorError::Conflict("the collector changes all the time; try again").into())
    }

    /// The team of a collector that the principal may change.
    async fn permitted(
        &self,
        principal: &Principal,
        id: CollectorId,
        wish: Wish<'_>,
    ) -> Result<Option<TeamId>, Problem> {
        let unknown = || OperatorError::Unknown(id.to_string());
        let known = store::operator::find(&mut self.database(), id).await;
        let known = known.map_err(OperatorError::from)?.ok_or_else(unknown)?;
        if !principal.visible_teams().admits(known.team_id) {
            return Err(unknown().into());
        }
        principal.authorize(Action::WriteHosts, Scope::Team(known.team_id))?;
        if let Wish::Transfer(team) = wish {
            principal.authorize(Action::WriteHosts, Scope::Team(team))?;
            if let Some(team) = team {
                let found = self.identity().teams.find(team).await;
                found.map_err(|error| match error {
                    IdentityError::NotFound { .. } => {
                        Problem::invalid("team_id", "there is no such team")
                    }
                    error => error.into(),
                })?;
            }
        }
        Ok(known.team_id)
    }

    /// False when the agent changed at the same time, or is in another team than the one for which this was permitted.
    async fn try_change(
        &self,
        actor: &Actor,
        id: CollectorId,
        permitted_in: Option<TeamId>,
        wish: Wish<'_>,
    ) -> Result<bool, OperatorError> {
        let now = self.now();
        let mut db = self.database().begin().await?;
        let found = store::record::find(&mut db, id).await?;
        let mut record = found.ok_or_else(|| OperatorError::Unknown(id.to_string()))?;
        if record.durable.team_id != permitted_in {
            return Ok(false);
        }
        if !apply(&mut record, wish, now)? {
            // It is so already.
            return Ok(true);
        }
        if !store::record::update(&mut db, &record, &ListedParts::default(), now).await? {
            return Ok(false);
        }
        self.change_keys(&mut db, actor, id, wish, now).await?;
        let (action, kind) = wish.names();
        let details = wish.details();
        store::event::add(&mut db, id, &[(kind, &details)], now).await?;
        if wish == Wish::Delete {
            store::record::delete(&mut db, id).await?;
        }
        let entry = AuditEntry::new(action, "collector", id).after(details);
        self.identity()
            .audit
            .record(&mut db, actor, entry, now)
            .await?;
        db.commit().await?;
        Ok(true)
    }

    async fn change_keys(
        &self,
        db: &mut Transaction,
        actor: &Actor,
        id: CollectorId,
        wish: Wish<'_>,
        now: Timestamp,
    ) -> Result<(), OperatorError> {
        let keys = &self.identity().collector_keys;
        match wish {
            Wish::Revoke { .. } => {
                keys.revoke_collector(db, actor, id, RefusedKey::Banned, now)
                    .await?;
            }
            Wish::Delete => {
                keys.revoke_collector(db, actor, id, RefusedKey::Deleted, now)
                    .await?;
            }
            Wish::Unrevoke(how) => {
                let key = keys.readmit_collector(db, actor, id, how, now).await?;
                if key.is_none() && how == ComeBack::WithItsKey {
                    return Err(OperatorError::Conflict(KEY_IS_GONE));
                }
            }
            Wish::Rotate => {
                if !keys.rotate_collector(db, actor, id, now).await? {
                    return Err(OperatorError::Conflict(
                        "this collector has no key of its own that could be renewed",
                    ));
                }
            }
            Wish::Transfer(team) => {
                keys.move_to_team(db, id, team).await?;
                self.unlink_for_transfer(db, id, now).await?;
            }
            Wish::Approve | Wish::Restart => {}
        }
        Ok(())
    }
}

/// Changes the record; false when it is as wanted already.
fn apply(record: &mut Record, wish: Wish<'_>, now: Timestamp) -> Result<bool, OperatorError> {
    let durable = &mut record.durable;
    match wish {
        Wish::Revoke { .. } => {
            let was = std::mem::replace(&mut durable.standing, Standing::Revoked);
            durable.offer = None;
            durable.restart_at = None;
            Ok(was != Standing::Revoked)
        }
        Wish::Unrevoke(how) => {
            if durable.standing != Standing::Revoked {
                // What is so already is no error, and what is not so is not promised.
                if how == ComeBack::WithItsKey && durable.key_id.is_none() {
                    return Err(OperatorError::Conflict(KEY_IS_GONE));
                }
                return Ok(false);
            }
            durable.standing = Standing::Enrolled;
            if how == ComeBack::WithoutKey {
                // It comes by its token, and nobody asks what became of the key.
                durable.key_id = None;
                durable.premade_key_id = None;
                durable.adopted_at = None;
            }
            durable.readmitted_at = None;
            durable.contested_at = None;
            Ok(true)
        }
        Wish::Approve => {
            if durable.standing != Standing::Waiting {
                return Err(OperatorError::Conflict(
                    "this collector does not wait for an approval",
                ));
            }
            durable.standing = Standing::Enrolled;
            durable.approved_until = Some(now.plus(APPROVED_FOR));
            Ok(true)
        }
        Wish::Restart => {
            let bit = AgentCapabilities::ACCEPTS_RESTART_COMMAND;
            if !AgentCapabilities::from_bits(durable.capabilities).contains(bit) {
                return Err(OperatorError::Conflict(
                    "this collector does not accept the command to restart",
                ));
            }
            if durable.standing != Standing::Enrolled {
                return Err(OperatorError::Conflict("this collector is not enrolled"));
            }
            durable.restart_at = Some(now);
            Ok(true)
        }
        Wish::Rotate => {
            let bit = AgentCapabilities::ACCEPTS_OPAMP_CONNECTION_SETTINGS;
            if !AgentCapabilities::from_bits(durable.capabilities).contains(bit) {
                return Err(OperatorError::Conflict(
                    "this collector cannot take a new key; make one for it in advance",
                ));
            }
            // Whatever was offered before is not waited for.
            durable.offer = None;
            Ok(true)
        }
        Wish::Transfer(team) => {
            let was = std::mem::replace(&mut durable.team_id, team);
            Ok(was != team)
        }
        Wish::Delete => Ok(true),
    }
}

/// The items of a list with commas.
fn listed(text: Option<&str>) -> impl Iterator<Item = &str> {
    let items = text.into_iter().flat_map(|text| text.split(','));
    items.map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests;
