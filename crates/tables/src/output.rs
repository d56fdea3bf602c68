//! What a query returns.

use std::time::Duration;

use crate::limits::LimitKind;
use crate::value::Cell;

/// The rows of a query, and what there is to say about them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QueryOutput {
    /// The names of the columns, in order. Names may repeat.
    pub columns: Vec<String>,
    /// The rows, each with one cell for each column.
    pub rows: Vec<Vec<Cell>>,
    /// What could not be read, or was asked in a way that cannot be answered; each names the table and the reason.
    pub warnings: Vec<String>,
    /// How long the query took.
    pub wall_time: Duration,
    /// Set when rows are missing because a limit was reached and [`Limits::clip`](crate::Limits::clip) allowed to
    /// return the first ones.
    pub clipped: Option<LimitKind>,
}

impl QueryOutput {
    /// The rows as osquery sends them: every cell is text, NULL is the empty text.
    pub fn to_string_rows(&self) -> Vec<Vec<String>> {
        self.rows
            .iter()
            .map(|row| row.iter().map(Cell::to_wire).collect())
            .collect()
    }
}
