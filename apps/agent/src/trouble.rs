//! Calls that fail for a while: how long to wait, and what is told of it.

use std::time::Duration;

use muster_clock::Randomness;

use crate::backoff::Backoff;
use crate::client::CallError;
use crate::runner::chain;

/// A row of failures of one kind of call. Each kind has its own: one that fails must neither hold up the others nor be
/// taken for well again because they are.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// What is told when it begins.
    begins: &'static str,
    /// What is told when it is over.
    ends: &'static str,
    backoff: Backoff,
    /// Why, as it was last told.
    told: Option<String>,
}

impl Trouble {
    /// None yet.
    pub(crate) fn new(begins: &'static str, ends: &'static str) -> Self {
        Self {
            begins,
            ends,
            backoff: Backoff::default(),
            told: None,
        }
    }

    /// How long to wait after one more failure; says why, once per reason.
    pub(crate) fn failed(&mut self, error: &CallError, randomness: &dyn Randomness) -> Duration {
        let refused = matches!(error, CallError::Refused(_) | CallError::NoToken(_));
        let wait = if refused {
            self.backoff.refused(randomness)
        } else {
            self.backoff.failed(error.retry_after(), randomness)
        };
        let text = chain(error);
        let wait_ms = wait.as_millis() as u64;
        if self.told.as_ref() == Some(&text) {
            tracing::debug!(error = text, wait_ms, "still trying");
        } else {
            let what = match error {
                CallError::Refused(_) => "refused",
                CallError::NoToken(_) => "cannot enroll",
                _ => self.begins,
            };
            tracing::warn!(error = text, wait_ms, "{what}; trying again");
            self.told = Some(text);
        }
        wait
    }

    /// It works (again).
    pub(crate) fn works(&mut self) {
        let failures = self.backoff.failures();
        self.backoff.reset();
        if self.told.take().is_some() {
            tracing::info!(failures, "{}", self.ends);
        }
    }

    /// How often it failed in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.backoff.failures()
    }
}
