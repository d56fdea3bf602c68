//! Passwords: the rules, and argon2id.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use muster_clock::Randomness;
use tokio::sync::oneshot;

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
/// How many logins wait for their turn at most; more are told to come again.
const MAX_WAITING: usize = 100;
/// How many random bytes of salt.
const SALT_BYTES: usize = 16;

type Work = Box<dyn FnOnce(&mut Vec<Block>) + Send>;

/// Computes and checks hashes of passwords, a few at a time, off the threads that serve requests.
///
/// It has threads of its own, each with the memory that a hash takes: glibc's allocator does not find freed memory again
/// for blocks of argon2's alignment, so that each login would take another 19 MiB.
#[derive(Clone)]
pub(crate) struct Passwords(Arc<Inner>);

#[derive(Default)]
struct Inner {
    threads: OnceLock<Sender<Work>>,
    /// How many wait for their turn, or are worked off.
    waiting: AtomicUsize,
}

/// One that waits; it does no more when this goes, however it ends.
struct Waiting(Arc<Inner>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Passwords {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// The hash of a password, in PHC form.
    pub(crate) async fn hash(&self, password: &str, randomness: &dyn Randomness) -> String {
        let mut salt = [0; SALT_BYTES];
        randomness.fill(&mut salt);
        let password = password.to_owned();
        self.run(move |memory| {
            hash(&password, &salt, memory)
                .expect("a password and a salt of allowed lengths can be hashed")
                .to_string()
        })
        .await
    }

    /// Whether more may wait: a flood of logins must not keep people waiting for ever.
    pub(crate) fn is_busy(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) >= MAX_WAITING
    }

    /// Whether it is the password. An unknown account is checked against no hash, at the same cost.
    pub(crate) async fn verify(&self, password: &str, kept: Option<String>) -> bool {
        let password = password.to_owned();
        self.run(move |memory| {
            let kept = kept
                .as_deref()
                .and_then(|kept| PasswordHash::new(kept).ok());
            let Some(kept) = kept else {
                let _ = hash(&password, &[0; SALT_BYTES], memory);
                return false;
            };
            is_hash_of(&password, &kept, memory).unwrap_or_default()
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Vec<Block>) -> T + Send + 'static,
    ) -> T {
        let (tell, told) = oneshot::channel();
        self.0.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(Arc::clone(&self.0));
        let work = Box::new(move |memory: &mut Vec<Block>| {
            // Whoever asked may have hung up while this waited for its turn.
            if !tell.is_closed() {
                let _ = tell.send(work(memory));
            }
            drop(waiting);
        });
        let threads = self.0.threads.get_or_init(start_threads);
        let sent = threads.send(work);
        sent.expect("the threads last as long as whoever sends to them");
        told.await.expect("hashing a password does not panic")
    }
}

/// Threads that work one thing off after another, until nobody can send them any more.
fn start_threads() -> Sender<Work> {
    let (sender, receiver) = channel::<Work>();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..MAX_CONCURRENT {
        let receiver = Arc::clone(&receiver);
        let next = move || {
            let receiver = receiver.lock().unwrap_or_else(PoisonError::into_inner);
            receiver.recv().ok()
        };
        std::thread::Builder::new()
            .name("passwords".to_owned())
            .spawn(move || {
                let mut memory = Vec::new();
                while let Some(work) = next() {
                    work(&mut memory);
                }
            })
            .expect("a thread can be started");
    }
    sender
}

fn hash(
    password: &str,
    salt: &[u8],
    memory: &mut Vec<Block>,
) -> argon2::password_hash::Result<PasswordHash> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None)?;
    let (algorithm, version) = (Algorithm::Argon2id, Version::V0x13);
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    fill(
        algorithm,
        version,
        &params,
        password,
        salt,
        &mut output,
        memory,
    )?;
    Ok(PasswordHash {
        algorithm: algorithm.ident(),
        version: Some(version.into()),
        params: ParamsString::try_from(&params)?,
        salt: Some(Salt::new(salt)?),
        hash: Some(Output::new(&output)?),
    })
}

/// Whether a hash is that of the password, by the parameters that it was made with: an older release may have had others.
fn is_hash_of(
    password: &str,
    kept: &PasswordHash,
    memory: &mut Vec<Block>,
) -> argon2::password_hash::Result<bool> {
    let (Some(salt), Some(expected)) = (&kept.salt, &kept.hash) else {
        return Ok(false);
    };
    let params = Params::try_from(kept)?;
    let algorithm = Algorithm::try_from(kept.algorithm.as_str())?;
    let version = kept.version.map_or(Ok(Version::V0x13), Version::try_from)?;
    let mut output = vec![0; expected.len()];
    fill(
        algorithm,
        version,
        &params,
        password,
        salt,
        &mut output,
        memory,
    )?;
    // Compared in constant time: that is what `Output` does.
    Ok(Output::new(&output)? == *expected)
}

fn fill(
    algorithm: Algorithm,
    version: Version,
    params: &Params,
    password: &str,
    salt: &[u8],
    output: &mut [u8],
    memory: &mut Vec<Block>,
) -> argon2::Result<()> {
    memory.resize(params.block_count().max(memory.len()), Block::default());
    let blocks = &mut memory[..params.block_count()];
    Argon2::new(algorithm, version, params.clone()).hash_password_into_with_memory(
        password.as_bytes(),
        salt,
        output,
        blocks,
    )
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

/// Characters of passwords that are made up, without those that look like others.
const MADE_UP_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// How many of them, in groups of four: 80 bits.
const MADE_UP_CHARACTERS: usize = 16;

/// A password that somebody can dictate, and that keeps the rules: `abcd-efgh-ijkm-npqr-47`.
pub(crate) fn made_up(randomness: &dyn Randomness) -> String {
    let mut bytes = [0; MADE_UP_CHARACTERS + 1];
    randomness.fill(&mut bytes);
    let (digits, letters) = (bytes[0] % 100, &bytes[1..]);
    let mut text = String::new();
    for (place, byte) in letters.iter().enumerate() {
        text.push(char::from(MADE_UP_ALPHABET[usize::from(byte % 32)]));
        if place % 4 == 3 {
            text.push('-');
        }
    }
    format!("{text}{digits:02}")
}

#[cfg(test)]
mod tests {
    use muster_clock::SystemRandomness;

    use super::*;

    #[test]
    fn passwords_that_are_made_up_keep_the_rules_and_differ() {
        let randomness = muster_clock::SeededRandomness::new(3);
        let one = made_up(&randomness);
        assert_eq!(one.len(), 22, "{one}");
        assert_ne!(one, made_up(&randomness));
        for _ in 0..100 {
            check(&made_up(&randomness)).unwrap();
        }
    }

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
