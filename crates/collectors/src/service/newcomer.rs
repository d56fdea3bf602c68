//! Agents of which nothing is known yet.

use std::collections::BTreeMap;

use muster_identity::CollectorId;
use muster_wire_opamp::InstanceUid;
use serde_json::{Value, json};

use super::{Exchange, Principal};
use crate::record::{CopyOnWrite, Durable, Record, Standing};

/// By what an agent came, for its timeline.
pub(super) fn how(x: &Exchange<'_>) -> Value {
    match x.principal {
        Principal::Token(token) => json!({ "enrollment_token_id": token.id }),
        Principal::Key(key) => json!({ "key_id": key.id }),
    }
}

/// An agent of which nothing is known.
pub(super) fn fresh(
    x: &Exchange<'_>,
    uid: InstanceUid,
    separated_from: Option<CollectorId>,
) -> Record {
    let (team_id, token_id, is_ephemeral) = match x.principal {
        Principal::Token(token) => (token.team_id, Some(token.id), token.is_ephemeral),
        Principal::Key(key) => (key.team_id, None, false),
    };
    Record {
        id: CollectorId(0),
        revision: 0,
        durable: CopyOnWrite::from(Durable {
            uid,
            team_id,
            token_id,
            is_ephemeral,
            standing: Standing::Enrolled,
            created_at: x.now,
            capabilities: 0,
            traits: None,
            parts: BTreeMap::new(),
            components: None,
            config: None,
            sent_config: None,
            settings: None,
            telemetry: None,
            key_id: None,
            adopted_at: None,
            offer: None,
            readmitted_at: None,
            contested_at: None,
            approved_until: None,
            comebacks: None,
            separated: Vec::new(),
            separated_from,
            restart_at: None,
            premade_key_id: None,
            heartbeat_seconds: None,
            reassigned_at: None,
            unknown: serde_json::Map::new(),
        }),
        lines: Vec::new(),
        said_config: None,
    }
}
