//! Where random bytes come from.

use std::sync::{Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A source of random bytes.
pub trait Randomness: Send + Sync + 'static {
    /// Fills the whole of `bytes`.
    fn fill(&self, bytes: &mut [u8]);

    /// A number below `bound`, evenly spread; 0 when `bound` is 0. For jitter and sampling.
    fn below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        // The multiply-and-shift reduction; its bias at these sizes is below 2^-40.
        ((u128::from(u64::from_le_bytes(bytes)) * u128::from(bound)) >> 64) as u64
    }
}

/// The operating system's cryptographic generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn fill(&self, bytes: &mut [u8]) {
        // It fails only when the system has no generator at all; there is nothing safe to do then.
        aws_lc_rs::rand::fill(bytes).expect("the operating system gives random bytes");
    }
}

/// Bytes that follow from a seed: for tests and simulations, never for secrets.
#[derive(Debug)]
pub struct SeededRandomness(Mutex<StdRng>);

impl SeededRandomness {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Randomness for SeededRandomness {
    fn fill(&self, bytes: &mut [u8]) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fill_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_the_bytes_and_the_system_does_not_repeat() {
        let draw = |source: &dyn Randomness| {
            let mut bytes = [0; 32];
            source.fill(&mut bytes);
            bytes
        };
        assert_eq!(
            draw(&SeededRandomness::new(7)),
            draw(&SeededRandomness::new(7))
        );
        assert_ne!(
            draw(&SeededRandomness::new(7)),
            draw(&SeededRandomness::new(8))
        );
        assert_ne!(draw(&SystemRandomness), draw(&SystemRandomness));
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let source = SeededRandomness::new(1);
        assert_eq!(source.below(0), 0);
        assert!((0..1_000).all(|_| source.below(10) < 10));
        assert!((0..1_000).any(|_| source.below(10) == 9));
    }
}
