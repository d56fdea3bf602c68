//! Secrets that we make: how they are spelled, made and looked up.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use muster_clock::Randomness;

/// How many random bytes a secret of ours has.
const SECRET_BYTES: usize = 32;
/// How many random bytes a node key has, as agents know it: 32 characters of base64.
const NODE_KEY_BYTES: usize = 24;

/// What stands for a secret while a connection lasts that showed it: by it the secret is checked again and again without
/// being kept. Its text is never shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretHash(pub(crate) [u8; 32]);

impl SecretHash {
    /// Of a secret that somebody showed.
    pub fn of(secret: &str) -> Self {
        Self(hash(secret))
    }
}

impl std::fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretHash")
    }
}

/// The SHA-256 by which a secret is looked up.
///
/// The secrets are random and long, so that a plain hash tells nothing; looking up by it takes a time that does not
/// depend on how much of a guess was right.
pub fn hash(secret: &str) -> [u8; 32] {
    digest(secret.as_bytes())
}

/// SHA-256 of anything.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// A new secret, `mst_<kind>_<43 characters>`: the prefix lets scanners find one that leaked.
pub(crate) fn new(kind: &str, randomness: &dyn Randomness) -> String {
    let mut bytes = [0; SECRET_BYTES];
    randomness.fill(&mut bytes);
    spelled(kind, &bytes)
}

/// A secret as text.
pub(crate) fn spelled(kind: &str, bytes: &[u8; SECRET_BYTES]) -> String {
    format!("mst_{kind}_{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// A new node key: 32 characters, as osqueryd and orbit have always been given.
pub(crate) fn new_node_key(randomness: &dyn Randomness) -> String {
    let mut bytes = [0; NODE_KEY_BYTES];
    randomness.fill(&mut bytes);
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use muster_clock::SeededRandomness;

    use super::*;

    #[test]
    fn secrets_tell_their_kind_and_node_keys_have_32_characters() {
        let randomness = SeededRandomness::new(1);
        let secret = new("api", &randomness);
        assert!(
            secret.starts_with("mst_api_") && secret.len() == 8 + 43,
            "{secret}"
        );
        assert_ne!(secret, new("api", &randomness));
        assert_eq!(new_node_key(&randomness).len(), 32);
    }

    #[test]
    fn the_hash_is_sha_256() {
        let hex: String = hash("abc")
            .iter()
            .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        assert_eq!(
            hex,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
