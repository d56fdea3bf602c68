//! Who is on the other end of a connection, looked at again for every message.

use std::sync::atomic::Ordering;
use std::time::Duration;

use muster_clock::Timestamp;
use muster_http::ClientAddress;
use muster_identity::{
    Actor, CollectorAdmission, CollectorKeys, DENIED_ENROLLMENT, Denial, EnrollmentTokenId,
    KeyHolder, KeyState, PresentedKey, SecretHash,
};
use muster_store::StoreError;

use super::{Collectors, refused};
use crate::ExchangeError;
use crate::service::{Carrier, Connection, KeyGrant, Outcome, Principal, TokenGrant};

/// By what somebody who speaks OpAMP proved who it is: looked at again for every message.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Credential {
    Token(SecretHash),
    Key(SecretHash),
}

/// A connection, or a request, of somebody whose credential was good.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) credential: Credential,
    pub(crate) address: ClientAddress,
    pub(crate) connection: Connection,
}

impl Collectors {
    /// Lets somebody in who shows this secret.
    pub(crate) async fn admit(
        &self,
        secret: &str,
        address: ClientAddress,
        carrier: Carrier,
    ) -> Result<Session, ExchangeError> {
        let credential = if CollectorKeys::is_key(secret) {
            Credential::Key(SecretHash::of(secret))
        } else {
            Credential::Token(SecretHash::of(secret))
        };
        let id = match carrier {
            Carrier::Http => 0,
            Carrier::WebSocket => self.new_connection(),
        };
        let session = Session {
            credential,
            address,
            connection: Connection { id, carrier },
        };
        self.principal(&session).await?;
        Ok(session)
    }

    /// Who is on the other end, as things stand now.
    pub(crate) async fn principal(&self, session: &Session) -> Result<Principal, ExchangeError> {
        let identity = &self.0.identity;
        let found = match session.credential {
            Credential::Key(secret) => {
                let shown = identity.collector_keys.check(secret, session.address).await;
                shown
                    .map(|key| Principal::Key(key_grant(&key)))
                    .map_err(ExchangeError::from)
            }
            Credential::Token(secret) => {
                let tokens = &identity.enrollment_tokens;
                let admitted = tokens
                    .check_collector(secret, session.address, self.now())
                    .await;
                admitted
                    .map(|token| Principal::Token(token_grant(&token)))
                    .map_err(ExchangeError::from)
            }
        };
        if let Err(ExchangeError::Unauthorized { reason }) = &found {
            refused(reason);
            // Keys that once were good are counted where they are looked up.
            if matches!(session.credential, Credential::Token(_)) {
                self.deny(
                    session,
                    DENIED_ENROLLMENT,
                    reason,
                    "enrollment_token",
                    String::new(),
                );
            }
        }
        found
    }

    pub(super) fn deny(
        &self,
        session: &Session,
        action: &'static str,
        reason: &'static str,
        subject_kind: &'static str,
        subject_id: String,
    ) {
        self.0.identity.denials.note(Denial {
            action,
            actor: Actor::agent(session.address),
            reason,
            subject_kind,
            subject_id,
        });
    }
}

/// For how long sockets are refused after one had to be closed since the database was away.
const AWAY_FOR: Duration = Duration::from_secs(5);

impl Collectors {
    /// A socket is closed, since something that we depend on is away.
    pub(crate) fn found_away(&self, error: &StoreError) {
        if error.is_unavailable() {
            let now = self.now().as_micros();
            self.0.away_at.store(now, Ordering::Relaxed);
        }
    }

    /// Whether that was a moment ago.
    pub(crate) fn was_away(&self) -> bool {
        let (at, now) = (self.0.away_at.load(Ordering::Relaxed), self.now());
        at <= now.as_micros() && now.since(Timestamp::from_micros(at)) < AWAY_FOR
    }

    /// Counts an agent that is new and came by a token; gives the token.
    pub(super) fn count_newcomer(
        &self,
        session: &Session,
        principal: &Principal,
        outcome: &Outcome,
    ) -> Result<Option<EnrollmentTokenId>, ExchangeError> {
        let Principal::Token(token) = principal else {
            return Ok(None);
        };
        if !outcome.is_new {
            return Ok(None);
        }
        let newcomers = &self.0.newcomers;
        if newcomers.admits(token.id, session.address, self.now()) {
            return Ok(Some(token.id));
        }
        refused("too_many_new");
        let (action, kind) = (DENIED_ENROLLMENT, "enrollment_token");
        self.deny(session, action, "too_many_new", kind, token.id.to_string());
        Err(ExchangeError::TooMany)
    }
}

fn key_grant(key: &PresentedKey) -> KeyGrant {
    KeyGrant {
        id: key.key_id,
        collector: match key.holder {
            KeyHolder::Collector(id) => Some(id),
            KeyHolder::Nobody => None,
        },
        team_id: key.team_id,
        is_superseded: key.state == KeyState::Superseded,
        is_due: key.is_rotation_due,
    }
}

fn token_grant(token: &CollectorAdmission) -> TokenGrant {
    TokenGrant {
        id: token.token_id,
        team_id: token.team_id,
        policy: token.known_agents,
        is_ephemeral: token.ephemeral,
        admits_new: !token.is_used_up,
    }
}

impl Carrier {
    /// For labels of metrics and for logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::WebSocket => "websocket",
        }
    }
}
