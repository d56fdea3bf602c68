//! Results that the server has not taken yet.
//!
//! What a server takes in one body is bounded (5 MiB by Muster's and Fleet's servers), so results are sent in batches,
//! and one that does not fit by itself is replaced by the reason. A fault of the server loses nothing; only what it
//! refuses is given up, and it is told why.

use muster_wire_osquery::DistributedResult;

use crate::runner::FAILED;

/// The largest body that is sent, but for its last result.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// The most results that wait; what is older is given up first.
const MAX_RESULTS: usize = 1_000;
/// The most bytes that wait, as JSON; what is older is given up first.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// What a result takes besides its rows, its name and its message: a bound.
const OVERHEAD_BYTES: usize = 256;

/// Results in the order in which they came.
#[derive(Default)]
pub struct Outbox {
    results: Vec<DistributedResult>,
    /// The size of each.
    sizes: Vec<usize>,
    /// How many of the first are sent together at most; fewer after a refusal.
    most: Option<usize>,
}

impl Outbox {
    /// Adds results. One of the same name that still waits is replaced: the server asked again.
    pub fn add(&mut self, results: Vec<DistributedResult>) {
        for result in results {
            if let Some(index) = self.results.iter().position(|old| old.name == result.name) {
                self.remove(index..=index);
            }
            let mut result = result;
            let mut size = size_of(&result);
            if size > MAX_BATCH_BYTES {
                tracing::warn!(query = result.name, bytes = size, "an answer is too large");
                result = failed(
                    result,
                    format!(
                        "the answer has {size} bytes, more than the {MAX_BATCH_BYTES} that are sent; \
                         ask for fewer rows or columns"
                    ),
                );
                size = size_of(&result);
            }
            self.results.push(result);
            self.sizes.push(size);
        }
        let mut extra = self.results.len().saturating_sub(MAX_RESULTS);
        let mut bytes: usize = self.sizes[extra..].iter().sum();
        while bytes > MAX_BYTES {
            bytes -= self.sizes[extra];
            extra += 1;
        }
        if extra > 0 {
            tracing::warn!(given_up = extra, "too many results wait for the server");
            self.remove(0..=extra - 1);
        }
    }

    /// What is to be sent next; nothing when nothing waits.
    pub fn batch(&self) -> &[DistributedResult] {
        let mut bytes = 0;
        let fits = self.sizes.iter().take_while(|size| {
            bytes += **size;
            bytes <= MAX_BATCH_BYTES
        });
        let number = fits.count().max(1).min(self.most.unwrap_or(usize::MAX));
        &self.results[..number.min(self.results.len())]
    }

    /// The server took the batch.
    pub fn taken(&mut self, number: usize) {
        if number > 0 {
            self.remove(0..=number - 1);
        }
        self.most = None;
    }

    /// The server does not want the batch, whatever happens. Of several results each is tried by itself; one alone is
    /// replaced by the reason, and given up when that is not wanted either.
    pub fn refused(&mut self, number: usize, reason: &str) {
        if number > 1 {
            self.most = Some(1);
            return;
        }
        let Some(result) = self.results.first_mut() else {
            return;
        };
        if result.status == FAILED && result.rows.is_empty() {
            self.remove(0..=0);
        } else {
            let text = format!("the server did not take the answer: {reason}");
            *result = failed(std::mem::take(result), text);
            self.sizes[0] = size_of(&self.results[0]);
        }
    }

    /// Forgets everything: it was asked by a server that does not know the host any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn remove(&mut self, range: std::ops::RangeInclusive<usize>) {
        self.results.drain(range.clone());
        self.sizes.drain(range);
    }
}

fn failed(result: DistributedResult, message: String) -> DistributedResult {
    DistributedResult {
        name: result.name,
        status: FAILED,
        message: Some(message),
        rows: Vec::new(),
        stats: result.stats,
    }
}

/// A bound of what the result takes in a body.
fn size_of(result: &DistributedResult) -> usize {
    // The name stands in each of the four objects of the body.
    let names = 4 * json_bytes(&result.name);
    names + json_bytes(&result.message) + json_bytes(&result.rows) + OVERHEAD_BYTES
}

/// How many bytes a value has as JSON, without holding them.
fn json_bytes(value: &impl serde::Serialize) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // Counting cannot fail, and rows are texts.
    let _ = serde_json::to_writer(&mut counter, value);
    counter.0
}

#[cfg(test)]
mod tests {
    use muster_wire_osquery::{DistributedWrite, Row};

    use super::*;

    fn result(name: &str, bytes: usize) -> DistributedResult {
        let row: Row = [("text".to_owned(), "\"".repeat(bytes / 2))]
            .into_iter()
            .collect();
        DistributedResult {
            name: name.to_owned(),
            rows: vec![row],
            ..DistributedResult::default()
        }
    }

    fn names(batch: &[DistributedResult]) -> Vec<&str> {
        batch.iter().map(|result| result.name.as_str()).collect()
    }

    #[test]
    fn a_batch_is_never_larger_than_a_server_takes() {
        let mut outbox = Outbox::default();
        let megabyte = 1024 * 1024;
        outbox.add(
            ["a", "b", "c"]
                .map(|name| result(name, 2 * megabyte - 4096))
                .to_vec(),
        );
        assert_eq!(names(outbox.batch()), ["a", "b"]);
        let write = DistributedWrite {
            node_key: &"k".repeat(64),
            results: outbox.batch(),
        };
        let body = serde_json::to_vec(&write).expect("it can be written");
        assert!(body.len() <= 4 * megabyte, "{}", body.len());
        outbox.taken(2);
        assert_eq!(names(outbox.batch()), ["c"]);
        outbox.taken(1);
        assert!(outbox.batch().is_empty());
    }

    #[test]
    fn an_answer_that_fits_into_no_body_is_replaced_by_the_reason() {
        let mut outbox = Outbox::default();
        outbox.add(vec![result("large", 9 * 1024 * 1024), result("small", 10)]);
        assert_eq!(names(outbox.batch()), ["large", "small"]);
        let large = &outbox.batch()[0];
        assert_eq!((large.status, large.rows.len()), (FAILED, 0));
        let message = large.message.as_deref().unwrap_or_default();
        assert!(message.contains("ask for fewer rows"), "{message}");
    }

    #[test]
    fn of_a_refused_batch_only_what_is_refused_by_itself_is_lost_and_the_server_is_told() {
        let mut outbox = Outbox::default();
        outbox.add(vec![result("bad", 10), result("good", 10)]);
        outbox.refused(2, "413");
        assert_eq!(names(outbox.batch()), ["bad"]);
        outbox.refused(1, "413");
        assert_eq!(names(outbox.batch()), ["bad"]);
        let message = outbox.batch()[0].message.as_deref().unwrap_or_default();
        assert!(
            message.contains("did not take the answer: 413"),
            "{message}"
        );
        outbox.refused(1, "413");
        assert_eq!(names(outbox.batch()), ["good"]);
        outbox.taken(1);
        outbox.add(vec![result("c", 10), result("d", 10)]);
        assert_eq!(names(outbox.batch()), ["c", "d"]);
    }

    #[test]
    fn what_is_asked_again_replaces_what_waits_and_the_oldest_are_given_up() {
        let mut outbox = Outbox::default();
        outbox.add(vec![result("a", 10), result("b", 10), result("a", 20)]);
        assert_eq!(names(outbox.batch()), ["b", "a"]);
        let many = (0..MAX_RESULTS).map(|number| result(&number.to_string(), 10));
        outbox.add(many.collect());
        assert_eq!(outbox.results.len(), MAX_RESULTS);
        assert_eq!(outbox.results[0].name, "0");
        let large = (0..30).map(|number| result(&format!("large {number}"), 3_500_000));
        outbox.add(large.collect());
        assert!(outbox.sizes.iter().sum::<usize>() <= MAX_BYTES);
        assert_eq!(
            outbox.results.last().map(|last| last.name.as_str()),
            Some("large 29")
        );
    }
}
