//! One line for each client and property, as soon as it is known.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// What was found so far.
pub(crate) struct Report {
    begun: Instant,
    passed: AtomicU32,
    failed: AtomicU32,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            passed: AtomicU32::new(0),
            failed: AtomicU32::new(0),
        }
    }
}

impl Report {
    /// Prints and counts a line. What was seen is said in either case.
    pub(crate) fn add(&self, case: &str, property: &str, found: &Result<String, String>) {
        let (word, seen, counter) = match found {
            Ok(seen) => ("ok  ", seen, &self.passed),
            Err(reason) => ("FAIL", reason, &self.failed),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let seconds = self.begun.elapsed().as_secs_f64();
        println!("{word} {seconds:6.1} s  {case:<28} {property:<52} {seen}");
    }

    /// How many lines of each kind there were.
    pub(crate) fn counts(&self) -> (u32, u32) {
        let count = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
        (count(&self.passed), count(&self.failed))
    }
}
