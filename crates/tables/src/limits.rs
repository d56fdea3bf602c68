//! What one query may cost, and the watch that enforces it.
//!
//! Wall time, cancellation and memory are looked at from two places: SQLite's progress handler (every
//! [`CHECK_EVERY_OPERATIONS`] virtual machine operations) and the tables themselves while they read. Rows and bytes
//! are counted where the result is collected. The first limit that trips is remembered, so that the error names it
//! however SQLite reports the interruption.
//!
//! Not responsible for refusing statements; that is the authorizer in `engine`.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::bridge;

/// How long a query may run when nothing else is said.
pub const DEFAULT_WALL_TIME: Duration = Duration::from_secs(30);
/// How many rows a query may return when nothing else is said.
pub const DEFAULT_ROWS: usize = 100_000;
/// How many bytes of values a query may return when nothing else is said: 16 MiB.
pub const DEFAULT_BYTES: usize = 16 * 1024 * 1024;
/// How much memory SQLite and the tables may hold for a query when nothing else is said: 64 MiB.
pub const DEFAULT_MEMORY_BYTES: usize = 64 * 1024 * 1024;

/// The longest SQL text accepted, in bytes.
pub const MAX_SQL_BYTES: usize = 256 * 1024;
/// The longest single text or blob that an expression may build, in bytes. Time and memory are looked at only between
/// operations, so that one operation must not be able to take much: some of SQLite's functions compare every part of
/// one text with another.
pub(crate) const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// The longest `LIKE` or `GLOB` pattern, in bytes. Matching takes time that grows steeply with the wildcards and
/// cannot be interrupted.
pub(crate) const MAX_PATTERN_BYTES: usize = 1024;
/// How many warnings one query keeps; the rest are counted in a last one.
pub(crate) const MAX_WARNINGS: usize = 50;
/// How many operations SQLite runs between two looks at the watch.
pub(crate) const CHECK_EVERY_OPERATIONS: i32 = 50;

/// What one query may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How long it may run.
    pub wall_time: Duration,
    /// How many rows it may return.
    pub rows: usize,
    /// How many bytes its values may have together.
    pub bytes: usize,
    /// How much memory SQLite and the tables may hold for it, in bytes. A single step may overshoot by a few
    /// megabytes before it is noticed.
    pub memory_bytes: usize,
    /// When the rows or bytes are used up: return what is there and say so in
    /// [`QueryOutput::clipped`](crate::QueryOutput::clipped), instead of failing.
    pub clip: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall_time: DEFAULT_WALL_TIME,
            rows: DEFAULT_ROWS,
            bytes: DEFAULT_BYTES,
            memory_bytes: DEFAULT_MEMORY_BYTES,
            clip: false,
        }
    }
}

/// Which limit a query ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// [`Limits::wall_time`].
    WallTime,
    /// [`Limits::rows`].
    Rows,
    /// [`Limits::bytes`].
    Bytes,
    /// [`Limits::memory_bytes`].
    Memory,
}

impl LimitKind {
    /// A short stable word, for logs, metrics and wire messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::WallTime => "wall_time",
            Self::Rows => "rows",
            Self::Bytes => "bytes",
            Self::Memory => "memory",
        }
    }
}

impl fmt::Display for LimitKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::WallTime => "wall time",
            Self::Rows => "rows",
            Self::Bytes => "bytes of results",
            Self::Memory => "bytes of memory",
        })
    }
}

/// Stops a running query from another thread. Clones share the same flag.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// A flag that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every query that runs with this flag to stop, now and later.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Why the watch stopped a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Limit(LimitKind),
    Cancelled,
}

/// Watches over one query.
#[derive(Debug)]
pub(crate) struct Watch {
    started: Instant,
    limits: Limits,
    cancel: CancelFlag,
    sqlite_bytes_before: usize,
    table_bytes: AtomicUsize,
    stopped: OnceLock<Stop>,
    warnings: Mutex<Warnings>,
}

#[derive(Debug, Default)]
struct Warnings {
    kept: Vec<String>,
    dropped: usize,
}

impl Watch {
    pub(crate) fn start(limits: &Limits, cancel: &CancelFlag) -> Self {
        Self {
            started: Instant::now(),
            limits: limits.clone(),
            cancel: cancel.clone(),
            sqlite_bytes_before: bridge::sqlite_heap_bytes(),
            table_bytes: AtomicUsize::new(0),
            stopped: OnceLock::new(),
            warnings: Mutex::default(),
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// How much wall time is left.
    pub(crate) fn remaining(&self) -> Duration {
        self.limits.wall_time.saturating_sub(self.elapsed())
    }

    /// Looks at everything that can stop a running query. Once stopped, it stays stopped.
    pub(crate) fn check(&self) -> Result<(), Stop> {
        if let Some(stop) = self.stopped.get() {
            return Err(*stop);
        }
        if self.cancel.is_cancelled() {
            return Err(self.stop(Stop::Cancelled));
        }
        if self.elapsed() >= self.limits.wall_time {
            return Err(self.stop(Stop::Limit(LimitKind::WallTime)));
        }
        let sqlite = bridge::sqlite_heap_bytes().saturating_sub(self.sqlite_bytes_before);
        let tables = self.table_bytes.load(Ordering::Relaxed);
        if sqlite.saturating_add(tables) > self.limits.memory_bytes {
            return Err(self.stop(Stop::Limit(LimitKind::Memory)));
        }
        Ok(())
    }

    /// Stops the query; the first reason wins.
    pub(crate) fn stop(&self, reason: Stop) -> Stop {
        *self.stopped.get_or_init(|| reason)
    }

    pub(crate) fn stopped(&self) -> Option<Stop> {
        self.stopped.get().copied()
    }

    /// Counts memory that a table holds for its rows.
    pub(crate) fn hold(&self, bytes: usize) {
        self.table_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back what [`hold`](Self::hold) counted.
    pub(crate) fn release(&self, bytes: usize) {
        self.table_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Keeps a warning, unless it is already there.
    pub(crate) fn warn(&self, message: String) {
        let mut warnings = lock(&self.warnings);
        if warnings.kept.contains(&message) {
            return;
        }
        if warnings.kept.len() < MAX_WARNINGS {
            warnings.kept.push(message);
        } else {
            warnings.dropped += 1;
        }
    }

    pub(crate) fn take_warnings(&self) -> Vec<String> {
        let mut warnings = lock(&self.warnings);
        let mut kept = std::mem::take(&mut warnings.kept);
        if warnings.dropped > 0 {
            kept.push(format!("{} further warnings", warnings.dropped));
            warnings.dropped = 0;
        }
        kept
    }
}

/// A panic elsewhere must not turn every later query into one: what these locks guard is valid at all times.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_to_stop_is_the_one_that_is_kept() {
        let cancel = CancelFlag::new();
        let watch = Watch::start(&Limits::default(), &cancel);
        assert_eq!(watch.check(), Ok(()));
        watch.hold(DEFAULT_MEMORY_BYTES + 1);
        assert_eq!(watch.check(), Err(Stop::Limit(LimitKind::Memory)));
        cancel.cancel();
        watch.release(DEFAULT_MEMORY_BYTES + 1);
        assert_eq!(watch.check(), Err(Stop::Limit(LimitKind::Memory)));
    }

    #[test]
    fn warnings_are_kept_once_and_in_bounded_number() {
        let watch = Watch::start(&Limits::default(), &CancelFlag::new());
        for number in 0..MAX_WARNINGS + 5 {
            watch.warn(format!("warning {number}"));
            watch.warn("warning 0".to_owned());
        }
        let warnings = watch.take_warnings();
        assert_eq!(warnings.len(), MAX_WARNINGS + 1);
        assert_eq!(
            warnings.last().map(String::as_str),
            Some("5 further warnings")
        );
    }
}
