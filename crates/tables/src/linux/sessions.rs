//! Logins, from the records of utmp and wtmp.

use crate::error::TableError;
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink, read_bytes};

pub(crate) static LOGGED_IN_USERS: TableSpec = TableSpec {
    name: "logged_in_users",
    description: "The sessions and other records in utmp.",
    columns: &[
        column("type", Text),
        column("user", Text),
        column("tty", Text),
        column("host", Text),
        column("time", BigInt),
        column("pid", Integer),
        column("sid", Text).foreign(),
        column("registry_hive", Text).foreign(),
    ],
};

pub(crate) static LAST: TableSpec = TableSpec {
    name: "last",
    description: "The logins and logouts recorded in wtmp.",
    columns: &[
        column("username", Text),
        column("tty", Text),
        column("pid", Integer),
        column("type", Integer),
        column("type_name", Text),
        column("time", Integer),
        column("host", Text),
    ],
};

const USER_PROCESS: i16 = 7;
const DEAD_PROCESS: i16 = 8;

/// The kinds of records, by number, as the two tables name them.
const KINDS: [(&str, &str); 10] = [
    ("empty", "empty"),
    ("runlevel", "run-level"),
    ("boot_time", "boot-time"),
    ("new_time", "new-time"),
    ("old_time", "old-time"),
    ("init", "init-process"),
    ("login", "login-process"),
    ("user", "user-process"),
    ("dead", "dead-process"),
    ("accounting", "accounting"),
];

/// Where the fields are that differ: older architectures kept 32 bits for times when they went to 64.
#[derive(Debug, Clone, Copy)]
struct Layout {
    record_bytes: usize,
    time_at: usize,
    time_bytes: usize,
}

const COMPATIBLE: Layout = Layout {
    record_bytes: 384,
    time_at: 340,
    time_bytes: 4,
};
const WIDE: Layout = Layout {
    record_bytes: 400,
    time_at: 344,
    time_bytes: 8,
};

const LAYOUT: Layout = if cfg!(any(
    target_arch = "aarch64",
    target_arch = "riscv64",
    target_arch = "loongarch64"
)) {
    WIDE
} else {
    COMPATIBLE
};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    kind: i16,
    pid: i32,
    line: String,
    user: String,
    host: String,
    time_s: i64,
}

/// The whole records in `bytes`; a last one that is cut off is left out.
fn records(bytes: &[u8], layout: Layout) -> impl Iterator<Item = Record> {
    bytes
        .chunks_exact(layout.record_bytes)
        .filter_map(move |record| {
            let time_s = if layout.time_bytes == 8 {
                i64::from_ne_bytes(field(record, layout.time_at)?)
            } else {
                i64::from(i32::from_ne_bytes(field(record, layout.time_at)?))
            };
            Some(Record {
                kind: i16::from_ne_bytes(field(record, 0)?),
                pid: i32::from_ne_bytes(field(record, 4)?),
                line: text(record, 8, 32)?,
                user: text(record, 44, 32)?,
                host: text(record, 76, 256)?,
                time_s,
            })
        })
}

fn field<const SIZE: usize>(record: &[u8], at: usize) -> Option<[u8; SIZE]> {
    record.get(at..at + SIZE)?.try_into().ok()
}

/// A text that ends at the first NUL or fills its place.
fn text(record: &[u8], at: usize, size: usize) -> Option<String> {
    let bytes = record.get(at..at + size)?;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(size);
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

fn kind_names(kind: i16) -> Option<(&'static str, &'static str)> {
    KINDS.get(usize::try_from(kind).ok()?).copied()
}

pub(crate) fn logged_in_users(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let path = context.path("/run/utmp");
    let bytes = read_bytes(&path).map_err(|error| TableError::unreadable(&path, error))?;
    for record in records(&bytes, LAYOUT) {
        // What init records about itself is no session.
        if record.pid == 1 {
            continue;
        }
        rows.row()
            .set(
                "type",
                kind_names(record.kind).map_or("unknown", |names| names.0),
            )
            .set("user", record.user)
            .set("tty", record.line)
            .set("host", record.host)
            .set("time", record.time_s)
            .set("pid", record.pid)
            .push()?;
    }
    Ok(())
}

pub(crate) fn last(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let path = context.path("/var/log/wtmp");
    let bytes = read_bytes(&path).map_err(|error| TableError::unreadable(&path, error))?;
    for record in records(&bytes, LAYOUT) {
        if record.kind != USER_PROCESS && record.kind != DEAD_PROCESS {
            continue;
        }
        rows.row()
            .set("username", record.user)
            .set("tty", record.line)
            .set("pid", record.pid)
            .set("type", record.kind)
            .set("type_name", kind_names(record.kind).map(|names| names.1))
            .set("time", record.time_s)
            .set("host", record.host)
            .push()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(layout: Layout) -> Vec<u8> {
        let mut bytes = vec![0; layout.record_bytes];
        bytes[..2].copy_from_slice(&USER_PROCESS.to_ne_bytes());
        bytes[4..8].copy_from_slice(&4242_i32.to_ne_bytes());
        bytes[8..13].copy_from_slice(b"pts/0");
        bytes[44..47].copy_from_slice(b"ada");
        bytes[76..332].fill(b'h');
        let time = 1_795_392_000_i64;
        let at = layout.time_at;
        if layout.time_bytes == 8 {
            bytes[at..at + 8].copy_from_slice(&time.to_ne_bytes());
        } else {
            bytes[at..at + 4].copy_from_slice(&(time as i32).to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn records_of_both_layouts_are_read_and_a_cut_one_is_left_out() {
        for layout in [COMPATIBLE, WIDE] {
            let mut bytes = record(layout);
            bytes.extend(&record(layout)[..100]);
            let found: Vec<Record> = records(&bytes, layout).collect();
            assert_eq!(
                found,
                [Record {
                    kind: USER_PROCESS,
                    pid: 4242,
                    line: "pts/0".to_owned(),
                    user: "ada".to_owned(),
                    host: "h".repeat(256),
                    time_s: 1_795_392_000,
                }]
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            for layout in [COMPATIBLE, WIDE] {
                prop_assert_eq!(records(&bytes, layout).count(), bytes.len() / layout.record_bytes);
            }
        }
    }
}
