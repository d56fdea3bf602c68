//! Packages that dpkg knows.

use std::path::Path;

use super::super::glob;
use super::{control_fields, paragraphs};
use crate::error::TableError;
use crate::spec::Collation::VersionDpkg;
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink, read_text};

pub(crate) static DEB_PACKAGES: TableSpec = TableSpec {
    name: "deb_packages",
    description: "The packages in dpkg's database.",
    columns: &[
        column("name", Text),
        column("version", Text).collate(VersionDpkg),
        column("source", Text),
        column("size", BigInt),
        column("arch", Text),
        column("revision", Text),
        column("status", Text),
        column("maintainer", Text),
        column("section", Text),
        column("priority", Text),
        column("admindir", Text).additional().optimized(),
        column("pid_with_namespace", Integer).additional().hidden(),
        column("mount_namespace_id", Text).hidden(),
    ],
};

/// dpkg's own folder.
const ADMIN_FOLDER: &str = "/var/lib/dpkg";

pub(crate) fn deb_packages(
    constraints: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let asked = constraints.text("admindir");
    let folder = asked.unwrap_or(ADMIN_FOLDER);
    if asked.is_none() && !context.path(folder).exists() {
        // Not a system with dpkg.
        return Ok(());
    }
    let mut files = vec![Path::new(folder).join("status")];
    // Images without a package manager keep a file for each package.
    let parts = Path::new(folder).join("status.d");
    if context.path(&parts).is_dir() {
        files.extend(
            glob::names_in(context, &parts)
                .into_iter()
                .filter(|name| !name.ends_with(".md5sums"))
                .map(|name| parts.join(name)),
        );
    }
    let has_parts = files.len() > 1;
    for file in files {
        let text = match read_text(&context.path(&file)) {
            Ok(text) => text,
            Err(error) if has_parts && error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(TableError::unreadable(&file, error)),
        };
        for paragraph in paragraphs(&text) {
            add_package(rows, paragraph, folder)?;
        }
    }
    Ok(())
}

fn add_package(rows: &mut RowSink<'_>, paragraph: &str, folder: &str) -> Result<(), TableError> {
    let fields = control_fields(paragraph);
    let field = |name: &str| fields.get(name).copied();
    let Some(name) = field("package") else {
        return Ok(());
    };
    let version = field("version").unwrap_or_default();
    rows.row()
        .set("name", name)
        .set("version", version)
        .set("source", field("source").unwrap_or_default())
        .set(
            "size",
            field("installed-size").and_then(|size| size.parse::<i64>().ok()),
        )
        .set("arch", field("architecture"))
        .set("revision", revision(version))
        // A package whose file carries no status is in an image that was built with it.
        .set("status", field("status").unwrap_or("install ok installed"))
        .set("maintainer", field("maintainer"))
        .set("section", field("section"))
        .set("priority", field("priority"))
        .set("admindir", folder)
        .push()
}

/// What follows the last hyphen of a version.
fn revision(version: &str) -> &str {
    version
        .rsplit_once('-')
        .map_or("", |(_, revision)| revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_native_package_has_no_revision() {
        assert_eq!(revision("1:1.2.13.dfsg-1+deb12u1"), "1+deb12u1");
        assert_eq!(revision("2.6.1"), "");
    }
}
