//! Tokens by which agents enroll. Fleet's enroll secrets are these tokens.
//!
//! A token has a name, a team, the families of agents and the networks that may use it, labels for hosts that come by it, an
//! expiry and a maximum of uses, and tells when it was last used and by which host. It is looked up by its hash, in memory,
//! so that a storm of enrollments with a wrong secret costs no statement; the text is kept sealed as well, so that those who
//! are allowed to can see it again.

use std::sync::{Arc, OnceLock};

use muster_bus::Topic;
use muster_clock::Timestamp;
use muster_http::{ClientAddress, Network};
use muster_store::{Executor, StoreError, Transaction};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::service::Context;
use crate::store::tokens as store;
use crate::{
    Actor, Audit, AuditEntry, CollectorId, EnrollmentTokenId, Family, HostId, IdentityError,
    MasterKey, TeamFilter, TeamId, secret,
};

mod admission;
mod collectors;
mod labels;
mod memory;
mod rotation;
mod scoped;

use labels::LabelsFrom;
use memory::Memory;

pub use admission::{Admission, EnrollError, Readmission, RefusalReason};
pub use collectors::{CollectorAdmission, KnownAgents, TokenCollectors};
pub use labels::{TokenLabel, TokenLabels};
pub use rotation::{EnrolledHost, Rotated, Successor, TokenRotation};
pub use scoped::ScopedSecret;

pub(crate) const TOPIC: Topic = Topic::new("identity.enrollment_tokens");
/// The most tokens that one team, or the organisation, may have; as Fleet has it.
pub(crate) const MAX_TOKENS_PER_SCOPE: usize = 50;
/// The longest secret that an operator may choose, in bytes.
const MAX_SECRET_BYTES: usize = 255;
/// The longest name, in characters.
const MAX_NAME_CHARACTERS: usize = 100;
/// The most networks that a token may be bound to.
const MAX_NETWORKS: usize = 64;
/// The most labels that a token may give.
const MAX_LABELS: usize = 64;
/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct EnrollmentToken {
    /// Its id.
    pub id: EnrollmentTokenId,
    /// Its name.
    pub name: String,
    /// The team that hosts come into; none without a team.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team_id: Option<TeamId>,
    /// The families of agents that may use it.
    pub families: Vec<Family>,
    /// The networks from which agents may enroll with it; from everywhere when there are none.
    #[schema(value_type = Vec<String>)]
    #[serde(serialize_with = "as_texts")]
    pub networks: Vec<Network>,
    /// The labels that hosts come into when they first enroll with it.
    pub labels: Vec<TokenLabel>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// From when on it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// How many enrollments it allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<u32>,
    /// How many enrollments there were.
    pub uses: i64,
    /// How often hosts enrolled again that had come by it, which `max_uses` does not count.
    pub reenrollments: i64,
    /// When the last one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub used_at: Option<Timestamp>,
    /// Which host it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_by: Option<HostId>,
    /// Which collector it was, when it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_by_collector: Option<CollectorId>,
    /// What is done with agents that speak OpAMP, are known already and come by it; only of tokens for `opamp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known_agents: Option<KnownAgents>,
    /// Whether agents that speak OpAMP and came by it are forgotten some time after they are gone; only of tokens for
    /// `opamp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
    /// How many collectors show it on every exchange, since they have no key of their own: its end cuts them off. Absent when
    /// there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collectors_without_key: Option<u64>,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// Which token takes its place, and who still needs this one; absent when it was never rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<TokenRotation>,
}

/// What a new token is to be.
#[derive(Debug, Clone, Default)]
pub struct NewEnrollmentToken {
    /// Its name; must not be empty.
    pub name: String,
    /// The team that hosts come into.
    pub team_id: Option<TeamId>,
    /// The families that may use it; empty means all.
    pub families: Vec<Family>,
    /// The networks from which agents may enroll with it; empty means all.
    pub networks: Vec<Network>,
    /// The labels that hosts come into, by their ids.
    pub label_ids: Vec<i64>,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// How many enrollments it allows.
    pub max_uses: Option<u32>,
    /// What is done with agents that speak OpAMP, are known already and come by it.
    pub known_agents: Option<KnownAgents>,
    /// Whether agents that speak OpAMP and came by it are forgotten some time after they are gone.
    pub ephemeral: Option<bool>,
}

struct Inner {
    context: Arc<Context>,
    audit: Audit,
    master_key: Arc<MasterKey>,
    labels: OnceLock<Arc<dyn TokenLabels>>,
    collectors: OnceLock<Arc<dyn TokenCollectors>>,
    memory: Memory,
}

/// Tokens by which agents enroll.
#[derive(Clone)]
pub struct EnrollmentTokens(Arc<Inner>);

impl EnrollmentToken {
    /// Whether hosts of Fleet's API may come by it: then it is one of its enroll secrets.
    pub(crate) fn is_for_hosts(&self) -> bool {
        let mut fleets = Family::FLEETS.iter();
        fleets.any(|family| self.families.contains(family))
    }
}

impl EnrollmentTokens {
    pub(crate) fn new(context: Arc<Context>, audit: Audit, master_key: Arc<MasterKey>) -> Self {
        Self(Arc::new(Inner {
            context,
            audit,
            master_key,
            labels: OnceLock::new(),
            collectors: OnceLock::new(),
            memory: Memory::default(),
        }))
    }

    /// Whoever keeps labels gives them to hosts that come by tokens. Only the first is attached.
    pub fn attach_labels(&self, labels: Arc<dyn TokenLabels>) {
        if self.0.labels.set(labels).is_err() {
            tracing::warn!("labels are attached to enrollment tokens twice");
        }
    }

    /// Decides whether an agent of a family may enroll with this secret from where it is. The maximum of uses is decided by
    /// [`record_use`](Self::record_use), in the enrollment's unit of work.
    pub async fn admit(
        &self,
        presented: &str,
        family: Family,
        address: ClientAddress,
        now: Timestamp,
    ) -> Result<Admission, EnrollError> {
        self.read(presented, family, address, now, |token| Admission {
            token_id: token.id,
            team_id: token.team_id,
        })
        .await
    }

    /// Reads something of the token with this secret, if it admits.
    async fn read<T>(
        &self,
        presented: &str,
        family: Family,
        address: ClientAddress,
        now: Timestamp,
        what: impl FnOnce(&EnrollmentToken) -> T,
    ) -> Result<T, EnrollError> {
        if presented.is_empty() || presented.len() > MAX_SECRET_BYTES {
            return Err(EnrollError::Refused(RefusalReason::Unknown));
        }
        let hash = secret::hash(presented);
        self.read_by_hash(hash, family, address, now, what).await
    }

    async fn read_by_hash<T>(
        &self,
        hash: [u8; 32],
        family: Family,
        address: ClientAddress,
        now: Timestamp,
        what: impl FnOnce(&EnrollmentToken) -> T,
    ) -> Result<T, EnrollError> {
        let mut cache = self.cached(now, false).await?;
        if !cache.valid.contains_key(&hash) {
            // Perhaps it was made on another replica a moment ago.
            cache = self.cached(now, true).await?;
        }
        let Some(token) = cache.valid.get(&hash) else {
            return Err(EnrollError::Refused(if cache.revoked.contains(&hash) {
                RefusalReason::Revoked
            } else {
                RefusalReason::Unknown
            }));
        };
        if token.expires_at.is_some_and(|at| at <= now) {
            return Err(EnrollError::Refused(RefusalReason::Expired));
        }
        if !token.families.contains(&family) {
            return Err(EnrollError::Refused(RefusalReason::OtherFamily));
        }
        if !is_admitted_from(&token.networks, address) {
            return Err(EnrollError::Refused(RefusalReason::OtherNetwork));
        }
        Ok(what(token))
    }

    /// Counts an enrollment, in its unit of work. A host that enrolls again with the token that it came by does not use it
    /// up; use [`record_again`](Self::record_again) for it.
    ///
    /// # Errors
    ///
    /// [`EnrollError::Refused`] when the token's uses are used up, it ran out or was revoked meanwhile.
    pub async fn record_use(
        &self,
        db: &mut impl Executor,
        token: EnrollmentTokenId,
        host: HostId,
        now: Timestamp,
    ) -> Result<(), EnrollError> {
        if store::count_use(db, token, host, now).await? {
            Ok(())
        } else {
            Err(why_refused(db, token, now).await)
        }
    }

    /// Counts that a host that came by this token enrolls again, in its unit of work. An agent that lost its key comes
    /// again when the token is used up, too.
    ///
    /// # Errors
    ///
    /// [`EnrollError::Refused`] when it ran out or was revoked meanwhile.
    pub async fn record_again(
        &self,
        db: &mut impl Executor,
        token: EnrollmentTokenId,
        host: HostId,
        now: Timestamp,
    ) -> Result<Readmission, EnrollError> {
        match store::count_again(db, token, host, now).await? {
            Some(readmission) => Ok(readmission),
            None => Err(why_refused(db, token, now).await),
        }
    }

    /// Makes a token; the secret is given once here and can be revealed later.
    pub async fn create(
        &self,
        actor: &Actor,
        mut new: NewEnrollmentToken,
    ) -> Result<(EnrollmentToken, String), IdentityError> {
        let text = secret::new("enroll", &*self.0.context.randomness);
        let now = self.0.context.now();
        check(&new, now)?;
        let mut transaction = self.0.context.database.begin().await?;
        let count = store::count_in_scope(&mut transaction, new.team_id).await?;
        if count >= MAX_TOKENS_PER_SCOPE {
            return Err(too_many());
        }
        let labels = std::mem::take(&mut new.label_ids);
        let labels = LabelsFrom::Request(&labels);
        let token = self
            .insert(&mut transaction, actor, new, labels, &text, now)
            .await?;
        transaction.commit().await?;
        self.changed().await;
        Ok((token, text))
    }

    async fn insert(
        &self,
        db: &mut Transaction,
        actor: &Actor,
        new: NewEnrollmentToken,
        labels: LabelsFrom<'_>,
        text: &str,
        now: Timestamp,
    ) -> Result<EnrollmentToken, IdentityError> {
        let families = if new.families.is_empty() {
            Family::ALL.to_vec()
        } else {
            new.families
        };
        let mut token = EnrollmentToken {
            id: EnrollmentTokenId(0),
            name: new.name.trim().to_owned(),
            team_id: new.team_id,
            families,
            networks: new.networks,
            labels: Vec::new(),
            created_at: now,
            expires_at: new.expires_at,
            max_uses: new.max_uses,
            uses: 0,
            reenrollments: 0,
            used_at: None,
            used_by: None,
            used_by_collector: None,
            known_agents: None,
            ephemeral: None,
            collectors_without_key: None,
            revoked_at: None,
            rotation: None,
        };
        if token.families.contains(&Family::Opamp) {
            token.known_agents = Some(new.known_agents.unwrap_or_default());
            token.ephemeral = Some(new.ephemeral.unwrap_or_default());
        }
        let hash = secret::hash(text);
        let inserted = store::insert(db, &token, &hash).await;
        token.id = inserted.map_err(|error| match error.kind() {
            muster_store::ErrorKind::Duplicate => IdentityError::Duplicate {
                what: "secret \"********\"".to_owned(),
            },
            muster_store::ErrorKind::Reference => {
                IdentityError::invalid("team_id", "names a team that does not exist")
            }
            _ => error.into(),
        })?;
        let sealed = self
            .0
            .master_key
            .seal(text, &context(token.id), &*self.0.context.randomness);
        store::set_sealed(db, token.id, &sealed).await?;
        token.labels = match (self.0.labels.get(), labels) {
            (_, LabelsFrom::Request([])) | (None, LabelsFrom::Token(_)) => Vec::new(),
            (Some(kept), LabelsFrom::Request(ids)) => kept.set(db, token.id, ids).await?,
            (Some(kept), LabelsFrom::Token(from)) => kept.copy(db, from, token.id).await?,
            (None, LabelsFrom::Request(_)) => {
                return Err(IdentityError::invalid("label_ids", "there are no labels"));
            }
        };
        let entry = AuditEntry::new("created_enrollment_token", "enrollment_token", token.id)
            .after(shown(&token));
        self.0.audit.record(db, actor, entry, now).await?;
        Ok(token)
    }

    /// The secret of a token again. That somebody looked is kept.
    pub async fn reveal(
        &self,
        actor: &Actor,
        id: EnrollmentTokenId,
    ) -> Result<String, IdentityError> {
        let mut transaction = self.0.context.database.begin().await?;
        let sealed = store::sealed(&mut transaction, id).await?;
        let sealed = sealed.ok_or_else(|| IdentityError::not_found("enrollment token", id))?;
        let text = self.0.master_key.open(&sealed, &context(id))?;
        let entry = AuditEntry::new("revealed_enrollment_token", "enrollment_token", id);
        self.0
            .audit
            .record(&mut transaction, actor, entry, self.0.context.now())
            .await?;
        transaction.commit().await?;
        Ok(text)
    }

    /// Revokes a token: no agent enrolls with it any more. Those that did keep their keys. Doing it twice is no error.
    pub async fn revoke(
        &self,
        actor: &Actor,
        id: EnrollmentTokenId,
    ) -> Result<EnrollmentToken, IdentityError> {
        let now = self.0.context.now();
        let mut transaction = self.0.context.database.begin().await?;
        let token = store::find(&mut transaction, id).await?;
        let mut token = token.ok_or_else(|| IdentityError::not_found("enrollment token", id))?;
        if token.revoked_at.is_none() {
            store::revoke(&mut transaction, id, now).await?;
            let entry = AuditEntry::new("revoked_enrollment_token", "enrollment_token", id)
                .before(shown(&token));
            self.0
                .audit
                .record(&mut transaction, actor, entry, now)
                .await?;
            transaction.commit().await?;
            token.revoked_at = Some(now);
            self.changed().await;
        }
        Ok(token)
    }

    /// One token.
    pub async fn find(&self, id: EnrollmentTokenId) -> Result<EnrollmentToken, IdentityError> {
        let database = &mut &self.0.context.database;
        let token = store::find(database, id).await?;
        let mut token = token.ok_or_else(|| IdentityError::not_found("enrollment token", id))?;
        self.tell(Some(id), std::slice::from_mut(&mut token))
            .await?;
        Ok(token)
    }

    /// All tokens of the teams that are visible, newest first; those that were revoked only when asked for.
    pub async fn list(
        &self,
        visible: &TeamFilter,
        with_revoked: bool,
    ) -> Result<Vec<EnrollmentToken>, IdentityError> {
        let database = &mut &self.0.context.database;
        let mut tokens = store::list(database, with_revoked).await?;
        tokens.retain(|token| visible.admits(token.team_id));
        self.tell(None, &mut tokens).await?;
        Ok(tokens)
    }

    /// Adds to one token, or to all, what stands elsewhere: labels, and who needs it.
    async fn tell(
        &self,
        one: Option<EnrollmentTokenId>,
        tokens: &mut [EnrollmentToken],
    ) -> Result<(), StoreError> {
        let database = &self.0.context.database;
        if let Some(kept) = self.0.labels.get() {
            let mut labels = kept.of(database, one).await?;
            for token in &mut *tokens {
                token.labels = labels.remove(&token.id).unwrap_or_default();
            }
        }
        if let Some(kept) = self.0.collectors.get() {
            let mut counts = kept.without_key(database, one).await?;
            for token in &mut *tokens {
                let count = counts.remove(&token.id).filter(|count| *count > 0);
                token.collectors_without_key = count;
            }
        }
        rotation::tell(&mut &*database, one, tokens, self.0.context.now()).await
    }
}

fn context(id: EnrollmentTokenId) -> String {
    format!("enrollment_token/{id}")
}

fn shown(token: &EnrollmentToken) -> serde_json::Value {
    serde_json::to_value(token).unwrap_or_else(|_| json!({}))
}

fn too_many() -> IdentityError {
    IdentityError::invalid(
        "secrets",
        format!("too many secrets: at most {MAX_TOKENS_PER_SCOPE} per team"),
    )
}

/// Why a token that was found a moment ago counts nobody.
async fn why_refused(db: &mut impl Executor, id: EnrollmentTokenId, now: Timestamp) -> EnrollError {
    EnrollError::Refused(match store::find(db, id).await {
        Err(error) => return EnrollError::Unavailable(error),
        Ok(None) => RefusalReason::Unknown,
        Ok(Some(token)) if token.revoked_at.is_some() => RefusalReason::Revoked,
        Ok(Some(token)) if token.expires_at.is_some_and(|at| at <= now) => RefusalReason::Expired,
        Ok(Some(_)) => RefusalReason::UsedUp,
    })
}

/// Whether a token that is bound to these networks admits agents from an address.
pub(crate) fn is_admitted_from(networks: &[Network], address: ClientAddress) -> bool {
    networks.is_empty() || networks.iter().any(|network| network.contains(address.0))
}

fn as_texts<S: serde::Serializer>(networks: &[Network], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(networks.iter().map(ToString::to_string))
}

fn check(new: &NewEnrollmentToken, now: Timestamp) -> Result<(), IdentityError> {
    let characters = new.name.trim().chars().count();
    if characters == 0 || characters > MAX_NAME_CHARACTERS {
        let reason = format!("must have from 1 to {MAX_NAME_CHARACTERS} characters");
        return Err(IdentityError::invalid("name", reason));
    }
    if new.expires_at.is_some_and(|at| at <= now) {
        return Err(IdentityError::invalid(
            "expires_at",
            "must lie in the future",
        ));
    }
    if new.max_uses == Some(0) {
        return Err(IdentityError::invalid(
            "max_uses",
            "must be at least 1; leave it out for no maximum",
        ));
    }
    collectors::check(new)?;
    if new.label_ids.len() > MAX_LABELS {
        let reason = format!("must be at most {MAX_LABELS} labels");
        return Err(IdentityError::invalid("label_ids", reason));
    }
    check_networks(&new.networks).map_err(|reason| IdentityError::invalid("networks", reason))
}

fn check_networks(networks: &[Network]) -> Result<(), String> {
    if networks.len() > MAX_NETWORKS {
        return Err(format!(
            "must be at most {MAX_NETWORKS} networks; name larger ones, or make a second token for the others"
        ));
    }
    for (index, network) in networks.iter().enumerate() {
        let (address, trimmed) = (network.address(), network.trimmed());
        if address.to_canonical() != address {
            let plain = address.to_canonical();
            return Err(format!(
                "{network} is an IPv4 address written as IPv6: write {plain}, with its own prefix length"
            ));
        }
        if trimmed != *network {
            return Err(format!(
                "{network} has bits beyond its prefix length: write {trimmed} for the network, or {address} for one address"
            ));
        }
        if networks[..index].contains(network) {
            return Err(format!("{network} is named twice: leave one out"));
        }
    }
    Ok(())
}
