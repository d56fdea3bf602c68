//! Times that mean something else than a time.

use muster_clock::Timestamp;

/// How "never" is written in a host's `detail_updated_at` and its kin: 1970-01-02T00:00:00Z.
pub const NEVER: Timestamp = Timestamp::from_seconds(86_400);

/// Year 1, how programs in Go write a time that was not set: fleetctl sends it in documents, and Fleet answers it for
/// objects that it has just created.
pub const ZERO: Timestamp = Timestamp::from_seconds(-62_135_596_800);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_special_times_are_spelled_as_clients_know_them() {
        assert_eq!(NEVER.to_string(), "1970-01-02T00:00:00Z");
        assert_eq!(ZERO.to_string(), "0001-01-01T00:00:00Z");
        assert_eq!("0001-01-01T00:00:00Z".parse(), Ok(ZERO));
    }
}
