//! Codes that depend on the time: TOTP (RFC 6238) over HOTP (RFC 4226), as authenticator apps compute them.
//!
//! With what all of those apps understand: SHA-1, six digits, a new code every 30 seconds. That SHA-1 has collisions does
//! not matter to HMAC.

use std::fmt::Write as _;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use data_encoding::BASE32_NOPAD;
use muster_clock::{Randomness, Timestamp};

/// How long a code is shown, in seconds.
const STEP_SECONDS: u64 = 30;
/// How many decimal digits a code has.
const DIGITS: usize = 6;
/// How many steps a clock may be off, either way.
const SKEW_STEPS: i64 = 1;
/// How many bytes of shared secret: what RFC 4226 recommends, as long as what SHA-1 gives.
const SECRET_BYTES: usize = 20;

/// What the server and the app share, in the Base32 that people may have to type.
pub(super) fn new_secret(randomness: &dyn Randomness) -> String {
    let mut bytes = [0; SECRET_BYTES];
    randomness.fill(&mut bytes);
    BASE32_NOPAD.encode(&bytes)
}

/// The time step that a moment lies in.
fn step(at: Timestamp) -> i64 {
    i64::try_from(at.as_seconds().max(0).unsigned_abs() / STEP_SECONDS).unwrap_or(i64::MAX)
}

/// HOTP of a counter.
fn code(key: &hmac::Key, counter: i64) -> String {
    let tag = hmac::sign(key, &counter.to_be_bytes());
    let bytes = tag.as_ref();
    let offset = usize::from(bytes[bytes.len() - 1] & 0xf);
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    let number = (u32::from_be_bytes(word) & 0x7fff_ffff) % 10_u32.pow(DIGITS as u32);
    format!("{number:0DIGITS$}")
}

/// The step whose code somebody typed, give or take what clocks are off. None: it is none of them.
pub(super) fn matching_step(secret: &str, typed: &str, now: Timestamp) -> Option<i64> {
    let key = BASE32_NOPAD.decode(secret.as_bytes()).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
    let now = step(now);
    let is = |step: &i64| {
        verify_slices_are_equal(code(&key, *step).as_bytes(), typed.as_bytes()).is_ok()
    };
    (now - SKEW_STEPS..=now + SKEW_STEPS).find(is)
}

/// Whether it looks like a code at all; anything else is a recovery code.
pub(super) fn is_code(typed: &str) -> bool {
    typed.len() == DIGITS && typed.bytes().all(|byte| byte.is_ascii_digit())
}

/// The address that apps read from a QR code.
/// <https://github.com/google/google-authenticator/wiki/Key-Uri-Format>
pub(super) fn uri(issuer: &str, account: &str, secret: &str) -> String {
    let (issuer, account) = (escaped(issuer), escaped(account));
    format!(
        "otpauth://totp/{issuer}:{account}?secret={secret}&issuer={issuer}&algorithm=SHA1&digits={DIGITS}\
         &period={STEP_SECONDS}"
    )
}

/// Percent-encoded; apps do not take a plus sign for a space.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte);
    text.bytes().fold(String::new(), |mut text, byte| {
        if plain(byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of RFC 6238's test vectors.
    const RFC_SECRET: &[u8] = b"12345678901234567890";

    #[test]
    fn codes_are_those_of_rfc_6238() {
        let secret = BASE32_NOPAD.encode(RFC_SECRET);
        // Appendix B shows eight digits; the last six of them are the code of six.
        for (seconds, expected) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            let now = Timestamp::from_seconds(seconds);
            assert_eq!(
                matching_step(&secret, expected, now),
                Some(seconds / 30),
                "{seconds}"
            );
        }
    }

    #[test]
    fn a_clock_may_be_off_by_one_step_and_no_more() {
        let secret = BASE32_NOPAD.encode(RFC_SECRET);
        let at = |seconds| matching_step(&secret, "287082", Timestamp::from_seconds(seconds));
        for seconds in [0, 29, 30, 59, 60, 89] {
            assert_eq!(at(seconds), Some(1), "{seconds}");
        }
        assert_eq!(at(90), None);
        for wrong in ["", "28708", "2870820", "28708x", "２８７０８２"] {
            assert_eq!(
                matching_step(&secret, wrong, Timestamp::from_seconds(59)),
                None
            );
        }
    }

    #[test]
    fn the_uri_survives_odd_names() {
        let uri = uri("Muster (lab)", "ann+x@example.com", "ABC");
        assert_eq!(
            uri,
            "otpauth://totp/Muster%20%28lab%29:ann%2Bx@example.com?secret=ABC&issuer=Muster%20%28lab%29\
             &algorithm=SHA1&digits=6&period=30"
        );
    }
}
