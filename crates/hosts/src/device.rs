//! Device tokens: by them the desktop app and the My device page of a host are known.
//!
//! Orbit makes a token, registers it and makes another each hour. A token is valid for an hour after it was first
//! registered, as long as servers say `token_rotation`: who is not told makes no other, and keeps one token for ever.
//! Registering the same one again changes nothing, and a token that another host holds stays with it.

use std::time::Duration;

use muster_clock::Timestamp;
use muster_identity::{HostId, hash_secret};
use muster_negotiation::Capability;

use crate::agents::Agents;
use crate::error::HostsError;
use crate::store;

/// How long a token is valid.
const VALID_FOR: Duration = Duration::from_secs(60 * 60);
/// The longest token in bytes.
const MAX_TOKEN_BYTES: usize = 255;
/// The source of what orbit and operators say about the user of a host; the last one is believed.
pub(crate) const END_USER_SOURCE: &str = "custom";
/// The longest e-mail address in bytes.
const MAX_EMAIL_BYTES: usize = 255;

/// Whether it can be kept as an e-mail address. As Fleet has it, it need not look like one.
pub(crate) fn is_email_kept(email: &str) -> bool {
    email.len() <= MAX_EMAIL_BYTES && !email.contains('\0')
}

impl Agents {
    /// Registers the token of a host in place of its former one.
    pub async fn register_device_token(&self, host: HostId, token: &str) -> Result<(), HostsError> {
        self.seen(host);
        if token.is_empty() {
            return Err(HostsError::Invalid("device auth token cannot be empty"));
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(HostsError::Invalid(
                "device auth token is longer than 255 bytes",
            ));
        }
        let hash = hash_secret(token);
        let registered =
            store::device::register(&mut &self.0.database, host, &hash, self.now()).await;
        match registered {
            // It belongs to another host and stays there; the agent is told nothing about that.
            Err(error) if error.is_duplicate() => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(()),
        }
    }

    /// The host of a valid token.
    pub async fn authenticate_device(&self, token: &str) -> Result<HostId, HostsError> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(HostsError::UnknownHost);
        }
        let found = store::device::find(&mut &self.0.database, &hash_secret(token)).await?;
        match found {
            Some((host, registered_at)) if self.is_in_time(registered_at) => Ok(host),
            _ => Err(HostsError::UnknownHost),
        }
    }

    /// Whether a token of that time is still valid.
    fn is_in_time(&self, registered_at: Timestamp) -> bool {
        !self.0.standing.says(Capability::TokenRotation)
            || self.now().since(registered_at) < VALID_FOR
    }

    /// Keeps who uses a host, as orbit says.
    pub async fn set_end_user(&self, host: HostId, email: &str) -> Result<(), HostsError> {
        self.seen(host);
        let email = email.trim();
        if !is_email_kept(email) {
            return Err(HostsError::Invalid(
                "the e-mail address is longer than 255 bytes or has a NUL",
            ));
        }
        let mut db = self.0.database.begin().await?;
        if store::host::find(&mut db, host).await?.is_none() {
            return Err(HostsError::UnknownHost);
        }
        store::user::set_end_user(&mut db, host, END_USER_SOURCE, email, self.now()).await?;
        db.commit().await?;
        Ok(())
    }
}
