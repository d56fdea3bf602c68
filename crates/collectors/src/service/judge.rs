//! Whose message it is, and whether it is taken.

use muster_identity::{AgentKeyId, CollectorId, KnownAgents};
use muster_wire_opamp::InstanceUid;

use super::{Exchange, KeyGrant, Other, Principal, Refusal, TokenGrant, answer, bits};
use crate::limits::UNDER_WAY;
use crate::record::{LineKey, Record, Separated, Standing};
use crate::values;

pub(super) enum Judgement<'a> {
    Refuse(Refusal),
    /// Answered, and nothing more.
    Echo,
    /// A new agent, which goes by this uid; separated from another or not.
    Enrol {
        uid: InstanceUid,
        from: Option<CollectorId>,
    },
    Continue(&'a Record),
    /// The same, and the key that was made in advance is the agent's from now on.
    Bind(&'a Record, AgentKeyId),
    /// The agent goes by another uid since it was started anew.
    Rename(&'a Record),
    /// It lost its key and is taken back.
    Readmit(&'a Record),
    /// Nothing is taken until somebody approves (`wait`), or until it shows whether the agent's key is in use elsewhere.
    Hold {
        record: &'a Record,
        wait: bool,
        ask: bool,
    },
    Other {
        id: CollectorId,
        is_only: bool,
    },
    /// The record that was named so is not who sent this.
    Another,
}

fn unauthorized<'a>(reason: &'static str) -> Judgement<'a> {
    Judgement::Refuse(Refusal::Unauthorized { reason })
}

fn foreign<'a>() -> Judgement<'a> {
    Judgement::Refuse(Refusal::BadRequest {
        reason: "foreign_uid",
        message: "this instance_uid does not belong to the key that was shown",
        closes: true,
    })
}

pub(super) fn judge<'a>(x: &Exchange<'a>) -> Judgement<'a> {
    let asks_for_uid = x.message.flags & bits::REQUEST_INSTANCE_UID != 0;
    if answer::is_nil(x.uid) && !asks_for_uid {
        return Judgement::Refuse(Refusal::BadRequest {
            reason: "nil_uid",
            message: "instance_uid is all zeros: send a UUIDv7, or ask for one with the flag RequestInstanceUid",
            closes: false,
        });
    }
    match x.principal {
        Principal::Token(token) => by_token(x, token, asks_for_uid),
        Principal::Key(key) => by_key(x, key),
    }
}

fn by_key<'a>(x: &Exchange<'a>, key: &KeyGrant) -> Judgement<'a> {
    match (x.record, key.collector) {
        (Some(record), Some(owner)) if record.id == owner => match record.durable.standing {
            Standing::Revoked => unauthorized("revoked"),
            Standing::Enrolled | Standing::Waiting => Judgement::Continue(record),
        },
        (Some(_), Some(_)) => foreign(),
        (None, Some(_)) => match x.owner {
            // An agent that draws its uid anew at each start, with a key that somebody put into its configuration.
            Some(owner) if owner.durable.premade_key_id == Some(key.id) && !is_in_use(x, owner) => {
                match owner.durable.standing {
                    Standing::Revoked => unauthorized("revoked"),
                    _ => Judgement::Rename(owner),
                }
            }
            _ => foreign(),
        },
        (Some(record), None) => {
            let is_free = record.durable.key_id.is_none()
                && record.durable.team_id == key.team_id
                && record.durable.standing == Standing::Enrolled;
            if is_free {
                Judgement::Bind(record, key.id)
            } else {
                foreign()
            }
        }
        (None, None) if x.message.agent_disconnect.is_some() => Judgement::Echo,
        (None, None) => Judgement::Enrol {
            uid: x.uid,
            from: None,
        },
    }
}

/// Whether an agent was heard under its key on another connection just now.
fn is_in_use(x: &Exchange<'_>, owner: &Record) -> bool {
    let line = owner.line(x.principal.line());
    line.is_some_and(|line| {
        line.ended_at.is_none()
            // Polls have no connection that could be told from others.
            && (x.connection.id == 0 || line.connection != x.connection.id)
            && x.now.since(line.seen_at) < 2 * owner.interval()
    })
}

fn by_token<'a>(x: &Exchange<'a>, token: &TokenGrant, asks_for_uid: bool) -> Judgement<'a> {
    let goes = x.message.agent_disconnect.is_some();
    if let (Some(record), Some(other)) = (x.record, x.other)
        && !could_be(x, record, other)
    {
        return Judgement::Another;
    }
    let Some(record) = x.record else {
        if goes {
            return Judgement::Echo;
        }
        if !token.admits_new {
            return unauthorized("used_up");
        }
        let uid = if asks_for_uid {
            answer::new_uid(x)
        } else {
            x.uid
        };
        return Judgement::Enrol { uid, from: None };
    };
    let durable = &record.durable;
    if durable.standing == Standing::Revoked {
        return unauthorized("revoked");
    }
    let Some(key_id) = durable.key_id else {
        return without_key(x, record, token, asks_for_uid);
    };
    if !is_its_token(record, token) {
        return by_foreign_token(x, record, token);
    }
    if goes && durable.readmitted_at.is_none() {
        // The end of the connection by which it got its key, after it began to use that.
        return Judgement::Echo;
    }
    let line = record.line(LineKey::Key(key_id));
    if let Some(at) = durable.readmitted_at {
        let is_used = line.is_some_and(|line| line.seen_at > at.plus(UNDER_WAY));
        if !is_used {
            return Judgement::Continue(record);
        }
    }
    match token.policy {
        KnownAgents::Deny => return unauthorized("denied"),
        KnownAgents::NewIdentity => return separate(x, record, token),
        KnownAgents::Approve | KnownAgents::Adopt => {}
    }
    let interval = record.interval();
    let is_silent = line
        .is_none_or(|line| line.ended_at.is_some() || x.now.since(line.seen_at) >= 2 * interval);
    if x.is_key_live {
        return separate(x, record, token);
    }
    let was_used_since = |at| line.is_some_and(|line| line.ended_at.is_none() && line.seen_at > at);
    match record.contested_at(x.now) {
        Some(at) if was_used_since(at) => return separate(x, record, token),
        _ if is_silent => {}
        _ => {
            return Judgement::Hold {
                record,
                wait: false,
                ask: false,
            };
        }
    }
    if token.policy == KnownAgents::Approve
        && durable.approved_until.is_none_or(|until| until < x.now)
    {
        return Judgement::Hold {
            record,
            wait: true,
            ask: false,
        };
    }
    match (&x.message.agent_description, &durable.traits) {
        // What is not told cannot be compared.
        (None, _) => Judgement::Hold {
            record,
            wait: false,
            ask: true,
        },
        (Some(said), Some(known)) if values::traits(said) != *known => separate(x, record, token),
        (Some(_), _) => Judgement::Readmit(record),
    }
}

/// Whether whoever shows this may be told what is for the agent alone: configurations, commands and keys. A token that many
/// share proves nothing about an agent that has a key of its own, unless it was taken back by it.
pub fn speaks_for(principal: &Principal, record: &Record) -> bool {
    let durable = &record.durable;
    durable.standing == Standing::Enrolled
        && match principal {
            Principal::Key(key) => durable.key_id == Some(key.id),
            Principal::Token(token) => {
                is_its_token(record, token)
                    && (durable.key_id.is_none() || durable.readmitted_at.is_some())
            }
        }
}

/// Whether an agent may come by this token: it came by it before, or it belongs to the same team.
pub(super) fn is_its_token(record: &Record, token: &TokenGrant) -> bool {
    let durable = &record.durable;
    durable.token_id == Some(token.id) || durable.team_id == token.team_id
}

/// Somebody shows the uid of an agent of another team.
fn by_foreign_token<'a>(x: &Exchange<'a>, record: &'a Record, token: &TokenGrant) -> Judgement<'a> {
    match token.policy {
        KnownAgents::Deny => unauthorized("denied"),
        _ if x.message.agent_disconnect.is_some() => Judgement::Echo,
        _ => separate(x, record, token),
    }
}

/// An agent that has no key of its own goes on by its token.
fn without_key<'a>(
    x: &Exchange<'a>,
    record: &'a Record,
    token: &TokenGrant,
    asks_for_uid: bool,
) -> Judgement<'a> {
    let durable = &record.durable;
    if durable.standing == Standing::Waiting {
        return Judgement::Hold {
            record,
            wait: true,
            ask: false,
        };
    }
    if !is_its_token(record, token) {
        return by_foreign_token(x, record, token);
    }
    // A uid that somebody made up until it is given one need not be the only one of its kind.
    let is_another = match (&x.message.agent_description, &durable.traits) {
        (Some(said), Some(known)) => values::traits(said) != *known,
        _ => false,
    };
    if asks_for_uid && is_another && token.admits_new {
        return Judgement::Enrol {
            uid: answer::new_uid(x),
            from: None,
        };
    }
    Judgement::Continue(record)
}

/// Whether one of those that were separated from an agent may be who sent this.
fn could_be(x: &Exchange<'_>, record: &Record, other: Other) -> bool {
    match (&x.message.agent_description, &record.durable.traits) {
        (Some(said), Some(known)) => values::traits(said) == *known,
        (Some(_), None) => true,
        // Polls have no connection that could be told from others.
        (None, _) => {
            let line = record.line(x.principal.line());
            other.is_only
                || x.connection.id != 0
                    && line.is_some_and(|line| line.connection == x.connection.id)
        }
    }
}

/// The message is from another machine than the one whose uid it shows: one that was separated from it before, or a new one.
fn separate<'a>(x: &Exchange<'a>, record: &'a Record, token: &TokenGrant) -> Judgement<'a> {
    if x.message.agent_disconnect.is_some() {
        return Judgement::Echo;
    }
    if x.other.is_some() {
        // What was under way when it began to use its key is still its own.
        let has_begun = record.durable.adopted_at;
        return match has_begun {
            Some(at) if x.now.since(at) < UNDER_WAY => Judgement::Echo,
            _ => Judgement::Another,
        };
    }
    let said = x.message.agent_description.as_ref().map(values::traits);
    let others = record.durable.separated.iter().rev();
    let others: Vec<_> = others.filter(|other| other.token_id == token.id).collect();
    let find = |may_be: &dyn Fn(&Separated) -> bool| {
        let mut left = others.iter().filter(|other| !x.tried.contains(&other.id));
        left.find(|other| may_be(other))
    };
    let alike = find(&|other| other.traits.is_some() && other.traits == said);
    if let Some(other) = alike.or_else(|| find(&|other| said.is_none() || other.traits.is_none())) {
        return Judgement::Other {
            id: other.id,
            is_only: others.len() == 1,
        };
    }
    if said.is_none() && !x.tried.is_empty() {
        // There are several who show this uid: whose message it is cannot be told.
        return Judgement::Hold {
            record,
            wait: false,
            ask: true,
        };
    }
    if !token.admits_new {
        return unauthorized("used_up");
    }
    Judgement::Enrol {
        uid: answer::new_uid(x),
        from: Some(record.id),
    }
}
