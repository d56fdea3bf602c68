//! Passwords: the rules, and argon2id.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use muster_clock::Randomness;
use tokio::sync::Semaphore;

use crate::IdentityError;

/// The fewest characters of a password.
pub const MIN_PASSWORD_CHARACTERS: usize = 12;
/// The most characters of a password, as Fleet has it, so that accounts can move in both directions.
pub const MAX_PASSWORD_CHARACTERS: usize = 48;

/// Memory per hash in KiB: the second recommendation of OWASP, which a small server can afford.
const MEMORY_KIB: u32 = 19 * 1024;
/// Passes over that memory.
const PASSES: u32 = 2;
/// How many hashes are computed at once: a flood of logins must not take all memory and processors.
const MAX_CONCURRENT: usize = 2;
/// How many random bytes of salt.
const SALT_BYTES: usize = 16;

/// Computes and checks hashes of passwords, a few at a time, off the threads that serve requests.
#[derive(Clone)]
pub(crate) struct Passwords(Arc<Semaphore>);

impl Passwords {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_CONCURRENT)))
    }

    /// The hash of a password, in PHC form.
    pub(crate) async fn hash(&self, password: &str, randomness: &dyn Randomness) -> String {
        let mut salt = [0; SALT_BYTES];
        randomness.fill(&mut salt);
        let password = password.to_owned();
        self.run(move || {
            let hash = hasher().hash_password_with_salt(password.as_bytes(), &salt);
            hash.expect("a password and a salt of allowed lengths can be hashed")
                .to_string()
        })
        .await
    }

    /// Whether it is the password. An unknown account is checked against no hash, at the same cost.
    pub(crate) async fn verify(&self, password: &str, hash: Option<String>) -> bool {
        let password = password.to_owned();
        self.run(move || {
            let hash = hash
                .as_deref()
                .and_then(|hash| PasswordHash::new(hash).ok());
            let Some(hash) = hash else {
                let _ = hasher().hash_password_with_salt(password.as_bytes(), &[0; SALT_BYTES]);
                return false;
            };
            hasher().verify_password(password.as_bytes(), &hash).is_ok()
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = Arc::clone(&self.0)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        // The permit goes with the work: whoever asked may hang up, and the work goes on.
        let work = move || {
            let done = work();
            drop(permit);
            done
        };
        tokio::task::spawn_blocking(work)
            .await
            .expect("hashing a password does not panic")
    }
}

fn hasher() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None)
        .expect("the parameters are within argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Checks a new password against the rules; the message is the one that Fleet's users know.
pub(crate) fn check(password: &str) -> Result<(), IdentityError> {
    let characters = password.chars().count();
    if characters > MAX_PASSWORD_CHARACTERS {
        let reason = format!("password too long: at most {MAX_PASSWORD_CHARACTERS} characters");
        return Err(IdentityError::invalid("password", reason));
    }
    let number = password.chars().any(|character| character.is_ascii_digit());
    let symbol = password
        .chars()
        .any(|character| !character.is_alphanumeric());
    if characters < MIN_PASSWORD_CHARACTERS || !number || !symbol {
        let reason = format!(
            "Password does not meet required criteria: Must include {MIN_PASSWORD_CHARACTERS} characters, at least 1 \
             number (e.g. 0 - 9), and at least 1 symbol (e.g. &*#)."
        );
        return Err(IdentityError::invalid("password", reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use muster_clock::SystemRandomness;

    use super::*;

    #[test]
    fn the_rules_are_those_that_fleet_has() {
        for good in ["password123#", "ÄÖÜ äöü 12345", &"a1#".repeat(16)] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "short1#",
            "passwordpassword",
            "password12345",
            "password####",
            &"a1#".repeat(17),
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn only_the_password_itself_verifies() {
        let passwords = Passwords::new();
        let hash = passwords.hash("password123#", &SystemRandomness).await;
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        assert!(passwords.verify("password123#", Some(hash.clone())).await);
        assert!(!passwords.verify("password123", Some(hash)).await);
        assert!(!passwords.verify("password123#", None).await);
        assert!(!passwords.verify("password123#", Some("!".into())).await);
    }
}
