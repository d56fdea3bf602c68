//! Tokens in memory, by the hash of their text.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use muster_bus::Received;
use muster_clock::Timestamp;

use super::{EnrollError, EnrollmentToken, EnrollmentTokens, TOPIC};
use crate::store::tokens as store;

/// A token that is not in memory is looked for in the database at most so often: a lost hint delays by this much.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// What is known of tokens.
pub(super) struct Cache {
    pub(super) valid: HashMap<[u8; 32], EnrollmentToken>,
    /// The latest that were revoked: only so that the log can say why an agent is refused.
    pub(super) revoked: HashSet<[u8; 32]>,
}

#[derive(Default)]
struct Loaded {
    tokens: Option<Arc<Cache>>,
    at: Timestamp,
    /// How often tokens had changed before they were read.
    as_of: u64,
    /// How often they have changed, or may have.
    changes: u64,
}

#[derive(Default)]
pub(super) struct Memory {
    loaded: RwLock<Loaded>,
    /// Held by whoever reads them: of all that find them old at one moment one reads.
    loading: tokio::sync::Mutex<()>,
}

impl Memory {
    /// The tokens as they are in memory, if that is good enough: when they were looked through in vain, not for long.
    fn fresh(&self, now: Timestamp, again: bool) -> Option<Arc<Cache>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let is_recent = now.since(loaded.at) < RELOAD_INTERVAL && now >= loaded.at;
        let is_good = loaded.as_of == loaded.changes && (!again || is_recent);
        loaded.tokens.as_ref().filter(|_| is_good).map(Arc::clone)
    }

    fn changes(&self) -> u64 {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.changes
    }

    fn keep(&self, tokens: &Arc<Cache>, as_of: u64, now: Timestamp) {
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        loaded.tokens = Some(Arc::clone(tokens));
        (loaded.at, loaded.as_of) = (now, as_of);
    }

    fn expire(&self) {
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        loaded.changes += 1;
    }
}

impl EnrollmentTokens {
    pub(super) async fn cached(
        &self,
        now: Timestamp,
        again: bool,
    ) -> Result<Arc<Cache>, EnrollError> {
        let memory = &self.0.memory;
        if let Some(tokens) = memory.fresh(now, again) {
            return Ok(tokens);
        }
        let _loading = memory.loading.lock().await;
        // Somebody else may have read them meanwhile.
        if let Some(tokens) = memory.fresh(now, again) {
            return Ok(tokens);
        }
        let as_of = memory.changes();
        let database = &mut &self.0.context.database;
        // Without the database nobody can be enrolled anyway; the answer must not be a refusal.
        let valid = store::load_valid(database).await?;
        let revoked = store::load_revoked(database).await?;
        let tokens = Arc::new(Cache { valid, revoked });
        memory.keep(&tokens, as_of, now);
        Ok(tokens)
    }

    pub(super) async fn changed(&self) {
        self.expire_cache();
        self.0.context.hint(TOPIC, "").await;
    }

    pub(crate) fn follow(&self, received: &Received) {
        if !matches!(received, Received::Hint(hint) if hint.topic != TOPIC) {
            self.expire_cache();
        }
    }

    /// The next enrollment reads the tokens anew.
    pub(crate) fn expire_cache(&self) {
        self.0.memory.expire();
    }
}
