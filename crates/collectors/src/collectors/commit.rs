//! What a step comes to, kept in one unit of work.

use muster_identity::{Actor, CollectorId, EnrollError, KeyOffer, Offered};
use muster_store::{StoreError, Transaction};
use muster_wire_opamp::proto::ConnectionSettingsOffers;

use super::writer::Job;
use super::{Collectors, Principal};
use crate::limits::{MAX_KEPT_MESSAGES, MAX_SEPARATED};
use crate::record::{Record, Separated};
use crate::service::{Effect, Outcome};
use crate::store;
use crate::store::record::ListedParts;

/// At every how many changes of an agent its timeline is cut to what is kept.
const EVENTS_TRIMMED_EACH: i64 = 8;

/// What became of it.
pub(super) enum Committed {
    /// It is kept.
    Done {
        record: Box<Record>,
        /// The offer, with the key in it: it may be sent now.
        offer: Option<Box<ConnectionSettingsOffers>>,
    },
    /// Somebody else changed the agent since it was read: nothing is kept.
    Conflict,
    /// The token or the key turned out to be good no more.
    Refused(&'static str),
}

impl Collectors {
    /// Writes what is to be kept for one agent, in a unit of work that may be others' as well, but for what it said at length
    /// ([`write_said`](Self::write_said)); gives the offer with its key.
    pub(super) async fn write(
        &self,
        db: &mut Transaction,
        job: &Job,
        record: &mut Record,
    ) -> Result<Result<Option<ConnectionSettingsOffers>, Committed>, StoreError> {
        let now = self.now();
        let (principal, outcome) = (&job.principal, &*job.outcome);
        let actor = Actor::agent(job.session.address);
        let mut listed = store::part::listed(&outcome.parts);
        listed.components_name = outcome.components.as_ref().map(|said| said.name.clone());
        // The agent's own row first: whoever changes its keys too waits here.
        if outcome.is_new {
            record.id = store::record::insert(db, record, &listed, now).await?;
            record.revision = 0;
        } else if !store::record::update(db, record, &listed, now).await? {
            return Ok(Err(Committed::Conflict));
        }
        let id = record.id;
        for effect in &outcome.effects {
            match effect {
                Effect::Uid(uid) => {
                    let is_ours = store::record::add_uid(db, *uid, id, outcome.is_new, now).await?;
                    if !is_ours {
                        return Ok(Err(Committed::Conflict));
                    }
                }
                Effect::BindKey(key) => {
                    let keys = &self.0.identity.collector_keys;
                    let is_bound = keys.bind(db, &actor, *key, id, now).await?;
                    if !is_bound {
                        return Ok(Err(Committed::Refused("key")));
                    }
                }
                Effect::CameBack(token) => {
                    let tokens = &self.0.identity.enrollment_tokens;
                    match tokens.record_collector_again(db, *token, id, now).await {
                        Ok(_) => {}
                        Err(EnrollError::Refused(reason)) => {
                            return Ok(Err(Committed::Refused(reason.name())));
                        }
                        Err(EnrollError::Unavailable(error)) => return Err(error),
                    }
                }
                _ => {}
            }
        }
        if let (true, Principal::Token(token)) = (outcome.is_new, principal) {
            let tokens = &self.0.identity.enrollment_tokens;
            match tokens.record_collector_use(db, token.id, id, now).await {
                Ok(()) => {}
                Err(EnrollError::Refused(reason)) => {
                    return Ok(Err(Committed::Refused(reason.name())));
                }
                Err(EnrollError::Unavailable(error)) => return Err(error),
            }
            if let Some(from) = record.durable.separated_from
                && !self.note_separated(db, from, record, token.id).await?
            {
                return Ok(Err(Committed::Conflict));
            }
        }
        if let Some(said) = &outcome.components {
            self.keep_components(db, said).await?;
        }
        if let Some(message) = &outcome.custom {
            store::part::add_message(db, id, message, MAX_KEPT_MESSAGES, now).await?;
        }
        self.offer(db, &actor, principal, outcome, record)
            .await
            .map(Ok)
    }

    /// Writes what several agents said at length and what happened to them, each of them named once, after all that
    /// [`write`](Self::write) keeps of them: by some statements for all.
    pub(super) async fn write_said(
        &self,
        db: &mut Transaction,
        written: &[(&Outcome, &Record)],
    ) -> Result<(), StoreError> {
        let now = self.now();
        let said: Vec<_> = written
            .iter()
            .map(|(outcome, record)| store::part::Said {
                id: record.id,
                is_new: outcome.is_new,
                parts: &outcome.parts,
            })
            .collect();
        store::part::put_all(db, &said, now).await?;
        let mut events = Vec::new();
        let mut trimmed = Vec::new();
        for (outcome, record) in written {
            let before = events.len();
            events.extend(outcome.effects.iter().filter_map(|effect| match effect {
                Effect::Event { kind, details } => Some((record.id, *kind, details)),
                _ => None,
            }));
            if events.len() > before
                && record.revision % EVENTS_TRIMMED_EACH == 0
                && !outcome.is_new
            {
                trimmed.push(record.id);
            }
        }
        store::event::add_all(db, &events, now).await?;
        for id in trimmed {
            store::event::trim(db, id).await?;
        }
        Ok(())
    }

    /// The agent whose uid was shown remembers whom that turned out to be.
    async fn note_separated(
        &self,
        db: &mut Transaction,
        from: CollectorId,
        record: &Record,
        token_id: muster_identity::EnrollmentTokenId,
    ) -> Result<bool, StoreError> {
        let (now, id) = (self.now(), record.id);
        let Some(mut other) = store::record::find(db, from).await? else {
            return Ok(true);
        };
        let separated = &mut other.durable.separated;
        if separated.len() >= MAX_SEPARATED {
            separated.remove(0);
        }
        separated.push(Separated {
            id,
            token_id,
            traits: record.durable.traits.clone(),
        });
        other.durable.contested_at = None;
        let done = store::record::update(db, &other, &ListedParts::default(), now).await?;
        if done {
            let details = serde_json::json!({ "collector_id": id });
            store::event::add(db, from, &[("duplicate_found", &details)], now).await?;
        }
        Ok(done)
    }

    /// Makes the key that is to be offered.
    async fn offer(
        &self,
        db: &mut Transaction,
        actor: &Actor,
        principal: &Principal,
        outcome: &Outcome,
        record: &mut Record,
    ) -> Result<Option<ConnectionSettingsOffers>, StoreError> {
        let settings = self.settings();
        // They may have changed since it was planned, and nothing is offered without what lets the agent verify the server.
        let usable = settings.offers.as_ref().filter(|offers| offers.is_usable());
        let (Some(plan), Some(settings)) = (&outcome.offer, usable) else {
            return Ok(None);
        };
        let durable = &mut *record.durable;
        let Some(offer) = durable.offer.as_mut() else {
            return Ok(None);
        };
        let keys = &self.0.identity.collector_keys;
        let wanted = KeyOffer {
            collector_id: record.id,
            team_id: durable.team_id,
            token_id: match principal {
                Principal::Token(token) => Some(token.id),
                Principal::Key(_) => None,
            },
            instead_of: offer.key_id,
        };
        let made = match keys.offer(db, actor, wanted, self.now()).await? {
            Offered::Made(key) => {
                offer.key_id = Some(key.key_id);
                Some(plan.with_key(settings, &key.text))
            }
            // Known here from now on, and replaced in its time.
            Offered::Outstanding(there) => {
                offer.key_id = Some(there.key_id);
                None
            }
        };
        store::record::set_state(db, record.id, &record.durable).await?;
        Ok(made)
    }
}
