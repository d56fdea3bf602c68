//! What a table is to the engine: a spec, and a function that fills in rows.
//!
//! A table gets the [`Constraints`] that the query put on its columns, a [`Context`] that tells it about the query
//! and the machine, and a [`RowSink`] for its rows. It may ignore any constraint: SQLite tests every row again.
//! It has to call [`Context::check`] in loops that may take long; the sink calls it with every row.

use std::cell::Cell as StdCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_clock::Timestamp;

use crate::engine::Shared;
use crate::error::TableError;
use crate::facts::AgentFacts;
use crate::limits::Watch;
use crate::spec::TableSpec;
use crate::value::Cell;

/// A table that the engine serves.
pub trait Table: Send + Sync + 'static {
    /// Its name, columns and description.
    fn spec(&self) -> &'static TableSpec;

    /// Adds the rows that agree with `constraints` (or more: SQLite leaves out what does not).
    ///
    /// # Errors
    ///
    /// An error ends the table, not the query: the rows so far count, and the query carries a warning that names the
    /// table and the reason.
    fn generate(
        &self,
        constraints: &Constraints,
        context: &Context<'_>,
        rows: &mut RowSink<'_>,
    ) -> Result<(), TableError>;
}

/// A table made of a spec and a function.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FunctionTable {
    pub(crate) spec: &'static TableSpec,
    pub(crate) generate: Generate,
}

pub(crate) type Generate =
    fn(&Constraints, &Context<'_>, &mut RowSink<'_>) -> Result<(), TableError>;

impl Table for FunctionTable {
    fn spec(&self) -> &'static TableSpec {
        self.spec
    }

    fn generate(
        &self,
        constraints: &Constraints,
        context: &Context<'_>,
        rows: &mut RowSink<'_>,
    ) -> Result<(), TableError> {
        (self.generate)(constraints, context, rows)
    }
}

/// How a query constrains a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `column = value`. `column IN (…)` arrives as one pass of the table for each value.
    Equal,
    /// `column LIKE pattern`.
    Like,
}

/// What a query asks of a table's columns, for one pass over the table.
#[derive(Debug, Clone, Default)]
pub struct Constraints(pub(crate) Vec<(&'static str, Operator, Cell)>);

impl Constraints {
    fn values<'a>(&'a self, column: &str, operator: Operator) -> impl Iterator<Item = &'a Cell> {
        self.0
            .iter()
            .filter(move |(name, found, _)| *name == column && *found == operator)
            .map(|(_, _, value)| value)
    }

    /// The value that `column` has to equal, when the query says so.
    pub fn equal(&self, column: &str) -> Option<&Cell> {
        self.values(column, Operator::Equal).next()
    }

    /// The number that `column` has to equal. A text that is no number gives `None` too; SQLite then drops every row.
    pub fn integer(&self, column: &str) -> Option<i64> {
        self.equal(column).and_then(Cell::as_integer)
    }

    /// The text that `column` has to equal.
    pub fn text(&self, column: &str) -> Option<&str> {
        self.equal(column).and_then(Cell::as_text)
    }

    /// The pattern that `column` has to match with `LIKE`.
    pub fn like(&self, column: &str) -> Option<&str> {
        self.values(column, Operator::Like)
            .next()
            .and_then(Cell::as_text)
    }

    /// Whether there is any constraint on `column`.
    pub fn has(&self, column: &str) -> bool {
        self.0.iter().any(|(name, _, _)| *name == column)
    }
}

/// What a table may know while it is read: the query's watch, the agent's facts, where the machine's files are.
pub struct Context<'a> {
    pub(crate) spec: &'static TableSpec,
    pub(crate) shared: &'a Shared,
    pub(crate) watch: &'a Arc<Watch>,
    /// A bit for each column that the query reads; the highest stands for all columns from the 64th on.
    pub(crate) used: u64,
}

impl Context<'_> {
    /// Fails when the query has been stopped: call it wherever reading may take long.
    pub fn check(&self) -> Result<(), TableError> {
        Ok(self.watch.check()?)
    }

    /// How long the query may still take.
    pub fn remaining(&self) -> Duration {
        self.watch.remaining()
    }

    /// Tells whoever asked that something is missing, without ending the table.
    pub fn warn(&self, reason: impl std::fmt::Display) {
        self.watch.warn(format!("{}: {reason}", self.spec.name));
    }

    /// Whether the query reads `column`; what is expensive and not wanted need not be found out.
    pub fn wants(&self, column: &str) -> bool {
        self.spec
            .position(column, 0)
            .is_none_or(|position| is_used(self.used, position))
    }

    /// Where `path` (absolute) is found: below the engine's root.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        below(&self.shared.root, path.as_ref())
    }

    /// What the agent says of itself.
    pub fn facts(&self) -> AgentFacts {
        self.shared.facts.get()
    }

    /// The present time.
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// The tables that the engine serves.
    pub fn tables(&self) -> &[&'static TableSpec] {
        &self.shared.specs
    }

    /// Whether the query has been stopped, as something that can be asked from elsewhere.
    pub(crate) fn stop_check(&self) -> impl Fn() -> bool + Send + 'static {
        let watch = self.watch.clone();
        move || watch.check().is_err()
    }

    /// Reads the whole file at `path` (absolute, below the root) as text, with what is not UTF-8 replaced.
    pub(crate) fn read_text(&self, path: impl AsRef<Path>) -> Result<String, TableError> {
        let path = self.path(path);
        read_text(&path).map_err(|source| TableError::unreadable(&path, source))
    }
}

/// The largest file that a table reads whole, in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Reads at most [`MAX_FILE_BYTES`] of a file.
pub(crate) fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = open_without_waiting(path)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            format!("larger than {MAX_FILE_BYTES} bytes"),
        ));
    }
    Ok(bytes)
}

/// Opens a file so that a named pipe in its place cannot hold up the agent, and refuses what is neither file nor
/// directory entry of the kernel's file systems.
pub(crate) fn open_without_waiting(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    Ok(file)
}

/// As [`read_bytes`], as text.
pub(crate) fn read_text(path: &Path) -> std::io::Result<String> {
    Ok(lossy(read_bytes(path)?))
}

/// Bytes as text; what is not UTF-8 is replaced.
pub(crate) fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// `path` below `root`; `path` itself when the root is `/`.
pub(crate) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Whether a column is among those that a query reads.
fn is_used(used: u64, position: usize) -> bool {
    used >> position.min(HIGHEST_COLUMN_BIT) & 1 == 1
}

/// SQLite has one bit for all columns from this one on.
pub(crate) const HIGHEST_COLUMN_BIT: usize = 63;

/// Takes a table's rows and counts what they weigh.
pub struct RowSink<'a> {
    spec: &'static TableSpec,
    watch: &'a Arc<Watch>,
    /// Where each column is in a row; only columns that the query reads are kept.
    slots: Vec<Option<usize>>,
    kept_columns: usize,
    rows: Vec<Vec<Cell>>,
    held_bytes: StdCell<usize>,
    defaults: Vec<(usize, Cell)>,
}

impl<'a> RowSink<'a> {
    pub(crate) fn new(
        spec: &'static TableSpec,
        watch: &'a Arc<Watch>,
        used: u64,
        defaults: Vec<(usize, Cell)>,
    ) -> Self {
        let mut kept_columns = 0;
        let slots = (0..spec.columns.len())
            .map(|position| {
                is_used(used, position).then(|| {
                    kept_columns += 1;
                    kept_columns - 1
                })
            })
            .collect();
        Self {
            spec,
            watch,
            slots,
            kept_columns,
            rows: Vec::new(),
            held_bytes: StdCell::new(0),
            defaults,
        }
    }

    /// Starts a row; columns that are not set are NULL.
    pub fn row(&mut self) -> RowBuilder<'_, 'a> {
        let mut cells = vec![Cell::Null; self.kept_columns];
        for (position, value) in &self.defaults {
            if let Some(slot) = self.slots[*position] {
                cells[slot] = value.clone();
            }
        }
        RowBuilder {
            sink: self,
            cells,
            next: 0,
        }
    }

    /// How many rows there are so far.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row yet.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows, where each column is in them, and the bytes that the watch still counts for them.
    pub(crate) fn finish(mut self) -> (Vec<Vec<Cell>>, Vec<Option<usize>>, usize) {
        (
            std::mem::take(&mut self.rows),
            std::mem::take(&mut self.slots),
            self.held_bytes.take(),
        )
    }
}

impl Drop for RowSink<'_> {
    fn drop(&mut self) {
        self.watch.release(self.held_bytes.get());
    }
}

/// One row being filled in.
pub struct RowBuilder<'s, 'a> {
    sink: &'s mut RowSink<'a>,
    cells: Vec<Cell>,
    next: usize,
}

impl RowBuilder<'_, '_> {
    /// Sets a column. The name has to be one of the spec's; tests read every table in debug builds, where it is
    /// checked.
    pub fn set(mut self, column: &str, value: impl Into<Cell>) -> Self {
        match self.sink.spec.position(column, self.next) {
            Some(position) => {
                if let Some(slot) = self.sink.slots[position] {
                    self.cells[slot] = value.into();
                }
                self.next = position + 1;
            }
            None => debug_assert!(false, "`{}` has no column `{column}`", self.sink.spec.name),
        }
        self
    }

    /// Adds the row.
    ///
    /// # Errors
    ///
    /// [`TableError::Stopped`] when the query has been stopped, which the table passes on.
    pub fn push(self) -> Result<(), TableError> {
        let weight: usize = self
            .cells
            .iter()
            .map(|cell| cell.weight() + size_of::<Cell>())
            .sum::<usize>()
            + size_of::<Vec<Cell>>();
        self.sink.watch.hold(weight);
        self.sink
            .held_bytes
            .set(self.sink.held_bytes.get() + weight);
        self.sink.rows.push(self.cells);
        Ok(self.sink.watch.check()?)
    }
}
