//! Numbers of messages, and when a full state is asked for: once per gap, at most every half minute, and not for ever.

use muster_clock::Timestamp;

use super::{Exchange, bits};
use crate::limits::{FULL_STATE_PAUSE, MAX_FULL_STATE_REQUESTS};
use crate::record::{Line, Need, Part, Record};

/// Takes the number of a message; gives whether a full state is asked for. Numbers are counted per connection, which is an
/// agent and a credential: each connection of a client has its own. When nothing may be asked now, it stays owed.
pub(super) fn follow(record: &mut Record, x: &Exchange<'_>, is_new: bool, may_ask: bool) -> bool {
    let (number, key) = (x.message.sequence_num, x.principal.line());
    let is_described = record.durable.parts.contains_key(&Part::Description);
    let whole = is_whole(record, x);
    let before = record.line(key).cloned();
    // Whoever begins anew may have lost what it was sent, and over plain HTTP there is no connection that would tell.
    if before
        .as_ref()
        .is_some_and(|line| number <= 1 && number < line.sequence)
        && !record.can(bits::REPORTS_REMOTE_CONFIG)
    {
        record.durable.sent_config = None;
    }
    let missed = match &before {
        // A message that comes twice says nothing new; nothing was missed.
        Some(line) => {
            let is_next = number == line.sequence.wrapping_add(1) || number == line.sequence;
            let is_reopened = line.connection != x.connection.id;
            !is_next || (!is_described && is_reopened)
        }
        None => is_new || !is_described || x.message.agent_description.is_none(),
    };
    let mut line = before.unwrap_or_else(|| Line::new(key, number, x.connection.id, x.now));
    line.sequence = number;
    line.connection = x.connection.id;
    line.seen_at = line.seen_at.max(x.now);
    line.ended_at = None;
    line.said_goodbye = false;
    if whole {
        line.need = Need::None;
        line.asked_in_a_row = 0;
    } else if missed {
        line.need = Need::Owed;
    }
    record.put_line(line);
    may_ask && ask_if_owed(record, x)
}

/// Whether a message tells everything: the description, and whatever else this agent is known to tell. What it never told is
/// not waited for; a client that began anew tells all that it has.
fn is_whole(record: &Record, x: &Exchange<'_>) -> bool {
    let message = x.message;
    let parts = &record.durable.parts;
    let tells = |bit: u64| message.capabilities & bit != 0;
    message.agent_description.is_some()
        && (message.sequence_num <= 1
            || (message.health.is_some()
                || !tells(bits::REPORTS_HEALTH)
                || !parts.contains_key(&Part::Health))
                && (message.effective_config.is_some()
                    || !tells(bits::REPORTS_EFFECTIVE_CONFIG)
                    || !parts.contains_key(&Part::EffectiveConfig))
                && (message.remote_config_status.is_some()
                    || !tells(bits::REPORTS_REMOTE_CONFIG)
                    || record.durable.config.is_none()))
}

/// Asks for a full state if one is owed and it is not too soon.
pub(super) fn ask_if_owed(record: &mut Record, x: &Exchange<'_>) -> bool {
    let asked: Option<Timestamp> = record.lines.iter().filter_map(|line| line.asked_at).max();
    if asked.is_some_and(|at| x.now.since(at) < FULL_STATE_PAUSE) {
        return false;
    }
    let Some(line) = record.line_mut(x.principal.line()) else {
        return false;
    };
    if line.need != Need::Owed || line.asked_in_a_row >= MAX_FULL_STATE_REQUESTS {
        return false;
    }
    line.need = Need::Asked;
    line.asked_at = Some(x.now);
    line.asked_in_a_row += 1;
    true
}

/// Something else than a gap makes a full state needed.
pub(super) fn owe(record: &mut Record, x: &Exchange<'_>) {
    if let Some(line) = record.line_mut(x.principal.line()) {
        line.need = Need::Owed;
    }
}

/// Asks whoever is not taken for the agent yet who it is.
pub(super) fn ask_again(record: &mut Record, x: &Exchange<'_>) -> bool {
    let key = x.principal.line();
    if record.line(key).is_none() {
        let number = x.message.sequence_num;
        record.put_line(Line::new(key, number, x.connection.id, x.now));
    }
    owe(record, x);
    ask_if_owed(record, x)
}

/// Whether the agent was heard last on another connection under the same credential.
pub(super) fn is_elsewhere(record: &Record, x: &Exchange<'_>) -> bool {
    let line = record.line(x.principal.line());
    line.is_some_and(|line| line.connection != x.connection.id)
}

/// The agent goes.
pub(super) fn end(record: &mut Record, x: &Exchange<'_>) {
    if let Some(line) = record.line_mut(x.principal.line()) {
        line.ended_at = Some(x.now);
        line.said_goodbye = true;
    }
}
