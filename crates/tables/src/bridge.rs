//! The one place with unsafe code: SQLite's virtual table structures, and its count of allocated bytes.
//!
//! rusqlite's virtual table traits are unsafe because SQLite casts between its own structures and ours, which
//! therefore have to begin with SQLite's. All behaviour is in `cursor`; nothing here decides anything.

use std::ffi::c_int;
use std::sync::Arc;

use rusqlite::vtab::{
    Context, CreateVTab, Filters, IndexInfo, VTab, VTabConnection, VTabCursor, VTabKind,
    sqlite3_vtab, sqlite3_vtab_cursor,
};
use rusqlite::{Connection, ffi};

use crate::cursor::{Pass, Served, cell_from};
use crate::value::Cell;

/// How many bytes SQLite holds in this process.
#[expect(
    unsafe_code,
    reason = "rusqlite has no safe name for this SQLite function"
)]
pub(crate) fn sqlite_heap_bytes() -> usize {
    // SAFETY: the function takes no arguments, may be called from any thread and initialises what it needs.
    let bytes = unsafe { ffi::sqlite3_memory_used() };
    usize::try_from(bytes).unwrap_or(0)
}

/// Makes `table` known to `connection` under its name.
pub(crate) fn register(connection: &Connection, table: Arc<Served>) -> rusqlite::Result<()> {
    let name = table.spec().name;
    let module = rusqlite::vtab::read_only_module::<VirtualTable>();
    connection.create_module(name, module, Some(table))?;
    connection.execute_batch(&format!(
        "CREATE VIRTUAL TABLE temp.\"{name}\" USING \"{name}\""
    ))
}

#[repr(C)]
struct VirtualTable {
    /// SQLite's part; has to come first.
    base: sqlite3_vtab,
    served: Arc<Served>,
}

// SAFETY: the structure is `repr(C)` and begins with `sqlite3_vtab`.
#[expect(unsafe_code, reason = "rusqlite's trait is unsafe to implement")]
unsafe impl VTab<'_> for VirtualTable {
    type Aux = Arc<Served>;
    type Cursor = Cursor;

    fn connect(
        _: &mut VTabConnection,
        served: Option<&Self::Aux>,
        _: &[&[u8]],
    ) -> rusqlite::Result<(String, Self)> {
        let served = served
            .ok_or_else(|| crate::cursor::failure(ffi::SQLITE_MISUSE))?
            .clone();
        let schema = served.spec().schema();
        let base = sqlite3_vtab::default();
        Ok((schema, Self { base, served }))
    }

    fn best_index(&self, info: &mut IndexInfo) -> rusqlite::Result<()> {
        self.served.choose_plan(info)
    }

    fn open(&mut self) -> rusqlite::Result<Cursor> {
        Ok(Cursor {
            base: sqlite3_vtab_cursor::default(),
            served: self.served.clone(),
            pass: Pass::empty(),
            row: 0,
        })
    }
}

impl CreateVTab<'_> for VirtualTable {
    const KIND: VTabKind = VTabKind::Default;
}

#[repr(C)]
struct Cursor {
    /// SQLite's part; has to come first.
    base: sqlite3_vtab_cursor,
    served: Arc<Served>,
    pass: Pass,
    row: usize,
}

// SAFETY: the structure is `repr(C)` and begins with `sqlite3_vtab_cursor`.
#[expect(unsafe_code, reason = "rusqlite's trait is unsafe to implement")]
unsafe impl VTabCursor for Cursor {
    fn filter(
        &mut self,
        plan: c_int,
        _: Option<&str>,
        arguments: &Filters<'_>,
    ) -> rusqlite::Result<()> {
        // The rows of the pass before go first, so that memory holds only one.
        self.pass = Pass::empty();
        self.row = 0;
        self.pass = self
            .served
            .read(plan, arguments.iter().map(cell_from).collect())?;
        Ok(())
    }

    fn next(&mut self) -> rusqlite::Result<()> {
        self.row += 1;
        Ok(())
    }

    fn eof(&self) -> bool {
        self.row >= self.pass.len()
    }

    fn column(&self, context: &mut Context, column: c_int) -> rusqlite::Result<()> {
        let column = usize::try_from(column).unwrap_or(usize::MAX);
        match self.pass.cell(self.served.spec(), self.row, column) {
            Cell::Null => context.set_result(&rusqlite::types::Null),
            Cell::Integer(number) => context.set_result(number),
            Cell::Real(number) => context.set_result(number),
            Cell::Text(text) => context.set_result(text),
            Cell::Blob(bytes) => context.set_result(bytes),
        }
    }

    fn rowid(&self) -> rusqlite::Result<i64> {
        Ok(i64::try_from(self.row).unwrap_or(i64::MAX))
    }
}
