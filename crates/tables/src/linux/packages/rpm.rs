//! Packages that rpm knows, from its SQLite database.
//!
//! Older formats (Berkeley DB, NDB) are named in a warning; their systems are out of their makers' support.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::rpm_header::{Header, tag};
use crate::error::TableError;
use crate::spec::Collation::{NoCase, VersionRhel};
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink};

pub(crate) static RPM_PACKAGES: TableSpec = TableSpec {
    name: "rpm_packages",
    description: "The packages in rpm's database.",
    columns: &[
        column("name", Text).index().optimized(),
        column("version", Text).collate(VersionRhel).index(),
        column("release", Text).index(),
        column("source", Text),
        column("size", BigInt),
        column("sha1", Text).collate(NoCase),
        column("arch", Text).index(),
        column("epoch", Integer).index(),
        column("install_time", Integer),
        column("vendor", Text),
        column("package_group", Text),
        column("pid_with_namespace", Integer).additional().hidden(),
        column("mount_namespace_id", Text).hidden(),
    ],
};

/// Where rpm keeps its database: by default, on newer systems, on image-based ones.
const FOLDERS: [&str; 3] = ["/var/lib/rpm", "/usr/lib/sysimage/rpm", "/usr/share/rpm"];
const DATABASE: &str = "rpmdb.sqlite";
/// Databases of older formats, with the name of each.
const OLD_DATABASES: [(&str, &str); 2] = [("Packages", "Berkeley DB"), ("Packages.db", "NDB")];
/// How long a transaction of rpm itself is waited for.
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// How many operations SQLite runs in rpm's database between two looks at the query's watch.
const CHECK_EVERY_OPERATIONS: i32 = 1_000;

pub(crate) fn rpm_packages(
    constraints: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let Some(path) = find_database(context)? else {
        // Not a system with rpm.
        return Ok(());
    };
    let unreadable = |error: rusqlite::Error| {
        TableError::unreadable(&path, std::io::Error::other(error.to_string()))
    };
    let database = open(&path).map_err(unreadable)?;
    let stopped = context.stop_check();
    database
        .progress_handler(CHECK_EVERY_OPERATIONS, Some(stopped))
        .map_err(unreadable)?;
    let name = constraints.text("name");
    let mut statement = database
        .prepare("SELECT blob FROM Packages")
        .map_err(unreadable)?;
    let mut found = statement.query([]).map_err(unreadable)?;
    let mut broken = 0_usize;
    loop {
        context.check()?;
        let row = match found.next() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            Err(error) => {
                context.check()?;
                return Err(unreadable(error));
            }
        };
        let header = row
            .get_ref(0)
            .ok()
            .and_then(|value| Header::parse(value.as_blob().ok()?));
        let Some(header) = header else {
            broken += 1;
            continue;
        };
        if name.is_none() || name == header.text(tag::NAME).as_deref() {
            add_package(rows, &header)?;
        }
    }
    if broken > 0 {
        context.warn(format!("{broken} packages could not be understood"));
    }
    Ok(())
}

fn find_database(context: &Context<'_>) -> Result<Option<PathBuf>, TableError> {
    let folders = FOLDERS.map(|folder| context.path(folder));
    if let Some(path) = folders
        .iter()
        .map(|folder| folder.join(DATABASE))
        .find(|path| path.exists())
    {
        return Ok(Some(path));
    }
    for folder in &folders {
        for (file, format) in OLD_DATABASES {
            if folder.join(file).exists() {
                return Err(TableError::unsupported(format!(
                    "{} is in the format {format}, which only older releases of rpm use; only SQLite is read",
                    folder.join(file).display()
                )));
            }
        }
    }
    Ok(None)
}

/// Opens the database to read. While nothing is waiting in its write-ahead log it is opened as unchangeable, so that
/// SQLite makes no files beside it.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let is_quiet = std::fs::metadata(&log).map_or(true, |metadata| metadata.len() == 0);
    let mut address = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            address.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(address, "%{byte:02X}");
        }
    }
    address.push_str(if is_quiet {
        "?mode=ro&immutable=1"
    } else {
        "?mode=ro"
    });
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(address, flags)?;
    database.busy_timeout(BUSY_WAIT)?;
    Ok(database)
}

fn add_package(rows: &mut RowSink<'_>, header: &Header<'_>) -> Result<(), TableError> {
    rows.row()
        .set("name", header.text(tag::NAME))
        .set("version", header.text(tag::VERSION))
        .set("release", header.text(tag::RELEASE))
        .set("source", header.text(tag::SOURCE_RPM))
        .set(
            "size",
            header
                .number(tag::SIZE)
                .or_else(|| header.number(tag::LONG_SIZE)),
        )
        .set("sha1", header.text(tag::SHA1_HEADER))
        .set("arch", header.text(tag::ARCH))
        .set("epoch", header.number(tag::EPOCH))
        .set("install_time", header.number(tag::INSTALL_TIME))
        .set("vendor", header.text(tag::VENDOR))
        .set("package_group", header.text(tag::GROUP))
        .push()
}
