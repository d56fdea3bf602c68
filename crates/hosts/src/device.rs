//! Device tokens: by them the desktop app and the My device page of a host are known.
//!
//! Orbit makes a token, registers it and makes another each hour. A token is valid for an hour after it was first
//! registered, as long as servers say `token_rotation`: who is not told makes no other, and keeps one token for ever.
//! Registering the same one again changes nothing, and a token that another host holds stays with it.

use std::time::Duration;

use muster_clock::Timestamp;
use muster_http::ClientAddress;
use muster_identity::{Actor, DENIED_REQUEST, Denial, HostId, hash_secret};
use muster_negotiation::Capability;

use crate::agents::Agents;
use crate::error::HostsError;
use crate::record::HostRecord;
use crate::store;

/// How long a token is valid.
const VALID_FOR: Duration = Duration::from_secs(60 * 60);
/// The longest token in bytes.
const MAX_TOKEN_BYTES: usize = 255;
/// How old details have to be before the user of a host can have them sent again: a page must not keep a host at work.
pub const REFETCH_PAUSE: Duration = Duration::from_secs(5 * 60);
/// The source of what orbit and operators say about the user of a host; the last one is believed.
pub(crate) const END_USER_SOURCE: &str = "custom";
/// The longest e-mail address in bytes.
const MAX_EMAIL_BYTES: usize = 255;

/// Whether it can be kept as an e-mail address. As Fleet has it, it need not look like one.
pub(crate) fn is_email_kept(email: &str) -> bool {
    email.len() <= MAX_EMAIL_BYTES && !email.contains('\0')
}

/// What came of the wish of a host's user for new details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refetch {
    /// The host sends them at its next check-in.
    Wanted,
    /// They are too new: nothing is done before this time.
    TooNew(Timestamp),
}

/// Whether the user of a host can have its details sent again at a time, or what stands in the way.
pub fn refetch_state(host: &HostRecord, now: Timestamp) -> Option<Refetch> {
    if host.refetch_requested {
        return Some(Refetch::Wanted);
    }
    let again_at = host.detail_updated_at?.plus(REFETCH_PAUSE);
    // Details of the future were stamped by a clock that is right again.
    let is_new = now < again_at && again_at.since(now) <= REFETCH_PAUSE;
    is_new.then_some(Refetch::TooNew(again_at))
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

    /// The host of a valid token that came from an address. Whoever tries many is told to wait, whatever it shows then.
    pub async fn authenticate_device_from(
        &self,
        token: &str,
        address: ClientAddress,
    ) -> Result<HostId, HostsError> {
        self.refuse_guesser(address)?;
        let guesses = &self.0.guesses;
        let found = self.authenticate_device(token).await;
        match &found {
            Ok(_) => guesses.succeeded(address),
            Err(HostsError::UnknownHost) => {
                if guesses.failed(address, &hash_secret(token), self.now()) {
                    metrics::counter!("muster_device_bans_total").increment(1);
                    tracing::warn!(
                        client.address = %address,
                        "too many wrong device tokens: everything of the device family is refused to this address for a \
                         minute"
                    );
                    self.note_guessing(address);
                }
            }
            // A fault says nothing about the token.
            Err(_) => {}
        }
        found
    }

    /// Refuses whoever is banned for trying device tokens.
    pub fn refuse_guesser(&self, address: ClientAddress) -> Result<(), HostsError> {
        match self.0.guesses.banned(address, self.now()) {
            None => Ok(()),
            Some(retry_after_seconds) => {
                self.note_guessing(address);
                Err(HostsError::TooManyGuesses {
                    retry_after_seconds,
                })
            }
        }
    }

    fn note_guessing(&self, address: ClientAddress) {
        self.0.denials.note(Denial {
            action: DENIED_REQUEST,
            actor: Actor::unknown(address),
            reason: "guessing",
            subject_kind: "device_token",
            subject_id: String::new(),
        });
    }

    /// Has a host send its details at its next check-in, as its user wishes, unless they are newer than
    /// [`REFETCH_PAUSE`].
    pub async fn refetch_device(&self, host: HostId) -> Result<Refetch, HostsError> {
        let now = self.now();
        let record = self.find_host(host).await?;
        let record = record.ok_or(HostsError::UnknownHost)?;
        if let Some(state) = refetch_state(&record, now) {
            return Ok(state);
        }
        // The time is compared as it was read: only one of many at once changes anything.
        let older_than = record.detail_updated_at.unwrap_or(now);
        if store::device::refetch(&mut &self.0.database, host, older_than).await? {
            self.0.check_in.announce(host).await;
        }
        Ok(Refetch::Wanted)
    }

    /// Where users of hosts learn what is collected; none when the organisation has no page of its own.
    pub fn transparency_url(&self) -> Option<String> {
        self.0.configurations.transparency_url()
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
