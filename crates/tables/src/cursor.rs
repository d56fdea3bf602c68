//! The safe half of a virtual table: which constraints it takes, and its rows for one pass.
//!
//! SQLite asks for a plan (which constraints of this query shall be handed over?) while it prepares a statement and
//! for rows when it runs it. `bridge` translates between rusqlite's traits and this.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use rusqlite::ffi;
use rusqlite::types::ValueRef;
use rusqlite::vtab::{IndexConstraintOp, IndexInfo};

use crate::engine::Shared;
use crate::error::TableError;
use crate::limits::{Watch, lock};
use crate::spec::{ColumnSpec, TableSpec};
use crate::table::{Constraints, Context, HIGHEST_COLUMN_BIT, Operator, RowSink, Table};
use crate::value::Cell;

/// A table together with the engine that it belongs to.
pub(crate) struct Served {
    pub(crate) table: Box<dyn Table>,
    pub(crate) shared: Arc<Shared>,
    /// Plans that SQLite may come back with, while one statement is alive; the engine forgets them afterwards.
    pub(crate) plans: Mutex<Vec<Plan>>,
}

/// Which constraints a pass gets, in the order of its arguments, and which columns it has to fill in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    arguments: Vec<(usize, Operator)>,
    used: u64,
}

/// SQLite's planner compares costs: a whole table, a table narrowed by an index, and a table that cannot give rows
/// because a required constraint is missing (so that any other order of a join wins).
const COST_WHOLE_TABLE: f64 = 1_000_000.0;
const COST_ADDITIONAL: f64 = 100_000.0;
const COST_INDEXED: f64 = 10.0;
const COST_UNUSABLE: f64 = 1e15;

/// More plans than any statement needs; a bound against a leak, not a limit anybody meets.
const MAX_PLANS: usize = 10_000;

impl Served {
    pub(crate) fn spec(&self) -> &'static TableSpec {
        self.table.spec()
    }

    /// Chooses the constraints that the table shall get.
    pub(crate) fn choose_plan(&self, info: &mut IndexInfo) -> rusqlite::Result<()> {
        let spec = self.spec();
        let mut arguments: Vec<(usize, Operator)> = Vec::new();
        for (constraint, mut usage) in info.constraints_and_usages() {
            let Ok(position) = usize::try_from(constraint.column()) else {
                continue;
            };
            let Some((position, column)) = real_column(spec, position) else {
                continue;
            };
            if !column.takes_constraints() || !constraint.is_usable() {
                continue;
            }
            let operator = match constraint.operator() {
                IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ => Operator::Equal,
                IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LIKE => Operator::Like,
                _ => continue,
            };
            if arguments.contains(&(position, operator)) {
                continue;
            }
            arguments.push((position, operator));
            usage.set_argv_index(i32::try_from(arguments.len()).unwrap_or(i32::MAX));
        }
        let constrains = |wanted: fn(&ColumnSpec) -> bool| {
            arguments
                .iter()
                .any(|(position, _)| wanted(&spec.columns[*position]))
        };
        let misses_required =
            spec.required_columns().next().is_some() && !constrains(|column| column.required);
        let (cost, rows) = if misses_required {
            (COST_UNUSABLE, 1_000_000)
        } else if constrains(|column| column.index || column.required) {
            (COST_INDEXED, 1)
        } else if constrains(|column| column.additional) {
            (COST_ADDITIONAL, 100)
        } else {
            (COST_WHOLE_TABLE, 10_000)
        };
        info.set_estimated_cost(cost);
        info.set_estimated_rows(rows);
        let plan = Plan {
            arguments,
            used: used_columns(spec, info.col_used()),
        };
        let mut plans = lock(&self.plans);
        let number = plans
            .iter()
            .position(|known| *known == plan)
            .unwrap_or_else(|| {
                plans.push(plan);
                plans.len() - 1
            });
        if number >= MAX_PLANS {
            return Err(failure(ffi::SQLITE_TOOBIG));
        }
        info.set_idx_num(i32::try_from(number).unwrap_or(i32::MAX));
        Ok(())
    }

    /// Reads the table for one pass.
    pub(crate) fn read(&self, plan: i32, arguments: Vec<Cell>) -> rusqlite::Result<Pass> {
        let Some(watch) = self.shared.watch() else {
            return Err(failure(ffi::SQLITE_MISUSE));
        };
        let spec = self.spec();
        let plan = usize::try_from(plan)
            .ok()
            .and_then(|number| lock(&self.plans).get(number).cloned())
            .ok_or_else(|| failure(ffi::SQLITE_MISUSE))?;
        let constraints = Constraints(
            plan.arguments
                .iter()
                .zip(arguments)
                .map(|((position, operator), value)| {
                    (spec.columns[*position].name, *operator, value)
                })
                .collect(),
        );
        let context = Context {
            spec,
            shared: &self.shared,
            watch: &watch,
            used: plan.used,
        };
        if let Some(reason) = cannot_answer(spec, &constraints) {
            context.warn(reason);
            return Ok(Pass::empty());
        }
        // A column that is compared with NULL matches nothing, whatever the table has.
        if constraints.0.iter().any(|(_, _, value)| value.is_null()) {
            return Ok(Pass::empty());
        }
        let mut sink = RowSink::new(
            spec,
            &watch,
            plan.used,
            self.shared.namespace_defaults(spec),
        );
        // Rows come from bytes that others wrote. A mistake in a reader must not end the agent; unwinding through
        // SQLite's C code would.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            self.table.generate(&constraints, &context, &mut sink)
        }));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(TableError::Stopped)) => return Err(failure(ffi::SQLITE_INTERRUPT)),
            Ok(Err(error)) => context.warn(error),
            Err(_) => context.warn("reading it failed because of a mistake in the agent"),
        }
        let (rows, slots, held_bytes) = sink.finish();
        Ok(Pass {
            rows,
            slots,
            held_bytes,
            watch: Some(watch),
        })
    }
}

/// The column that SQLite's `position` stands for, aliases followed.
fn real_column(spec: &'static TableSpec, position: usize) -> Option<(usize, &'static ColumnSpec)> {
    if let Some(column) = spec.columns.get(position) {
        return Some((position, column));
    }
    let (_, aliased) = spec.alias_columns().nth(position - spec.columns.len())?;
    let position = spec.position(aliased.name, 0)?;
    Some((position, aliased))
}

/// The columns that a query reads, a column also when it is read by another of its names.
fn used_columns(spec: &'static TableSpec, used: u64) -> u64 {
    let aliased = spec
        .alias_columns()
        .zip(spec.columns.len()..)
        .filter(|(_, position)| used >> (*position).min(HIGHEST_COLUMN_BIT) & 1 == 1)
        .filter_map(|((_, column), _)| spec.position(column.name, 0))
        .fold(0, |bits, position| {
            bits | 1 << position.min(HIGHEST_COLUMN_BIT)
        });
    used | aliased
}

/// Why a table has no rows for these constraints, when it cannot have any.
fn cannot_answer(spec: &TableSpec, constraints: &Constraints) -> Option<String> {
    let required: Vec<&str> = spec.required_columns().collect();
    if !required.is_empty() && !required.iter().any(|column| constraints.has(column)) {
        return Some(format!(
            "needs a constraint on {}, such as `WHERE {} = …`",
            required.join(" or "),
            required[0]
        ));
    }
    match constraints.equal("pid_with_namespace") {
        Some(value) if value.as_integer() != Some(0) => {
            Some("reading another process's mount namespace is not supported".to_owned())
        }
        _ => None,
    }
}

/// An error for SQLite that needs no allocation on its side.
pub(crate) fn failure(code: i32) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
}

/// A value that SQLite hands over.
pub(crate) fn cell_from(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Integer(number),
        ValueRef::Real(number) => Cell::Real(number),
        ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Cell::Blob(bytes.to_vec()),
    }
}

/// The rows of one pass over a table.
pub(crate) struct Pass {
    rows: Vec<Vec<Cell>>,
    slots: Vec<Option<usize>>,
    held_bytes: usize,
    watch: Option<Arc<Watch>>,
}

impl Pass {
    pub(crate) fn empty() -> Self {
        Self {
            rows: Vec::new(),
            slots: Vec::new(),
            held_bytes: 0,
            watch: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The cell of a column, aliases followed.
    pub(crate) fn cell(&self, spec: &'static TableSpec, row: usize, column: usize) -> &Cell {
        const NULL: &Cell = &Cell::Null;
        real_column(spec, column)
            .and_then(|(position, _)| self.rows.get(row)?.get((*self.slots.get(position)?)?))
            .unwrap_or(NULL)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.release(self.held_bytes);
        }
    }
}
