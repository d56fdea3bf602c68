//! Node packages, by their `package.json`.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::glob;
use crate::error::TableError;
use crate::spec::Collation::Version;
use crate::spec::ColumnType::{Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink, read_bytes};

pub(crate) static NPM_PACKAGES: TableSpec = TableSpec {
    name: "npm_packages",
    description: "Node packages in the global folders, or below a given one.",
    columns: &[
        column("name", Text),
        column("version", Text).collate(Version),
        column("description", Text),
        column("author", Text),
        column("license", Text),
        column("homepage", Text),
        column("path", Text),
        column("directory", Text).index().optimized(),
        column("depth", Integer),
        column("max_depth", Integer).additional().hidden(),
        column("pid_with_namespace", Integer).additional().hidden(),
        column("mount_namespace_id", Text).hidden(),
    ],
};

/// Folders that hold a `node_modules` for everybody, or for a user by one of the tools that manage versions.
const FOLDERS: [&str; 8] = [
    "/usr/lib",
    "/usr/local/lib",
    "/home/%/.npm-global/lib",
    "/home/%/.nvm/versions/node/%/lib",
    "/home/%/.asdf/installs/nodejs/%/lib",
    "/home/%/.local/share/fnm/node-versions/%/installation/lib",
    "/home/%/.local/share/mise/installs/node/%/lib",
    "/home/%/.volta/tools/image/node/%/lib",
];

/// How deep packages within packages are followed when the query does not say.
const DEFAULT_DEPTH: i64 = 100;

pub(crate) fn npm_packages(
    constraints: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let max_depth = constraints.integer("max_depth").unwrap_or(DEFAULT_DEPTH);
    let mut folders = Vec::new();
    if let Some(folder) = constraints.text("directory") {
        folders.push(PathBuf::from(folder));
    } else {
        for pattern in FOLDERS {
            folders.extend(glob::matches(context, pattern)?);
        }
    }
    for folder in folders {
        add_folder(context, rows, &folder, max_depth)?;
    }
    Ok(())
}

/// Adds the packages in the folder's `node_modules`, and those within them, each folder once.
fn add_folder(
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
    site: &Path,
    max_depth: i64,
) -> Result<(), TableError> {
    let mut seen = BTreeSet::new();
    let mut waiting = vec![(site.to_owned(), 0)];
    while let Some((folder, depth)) = waiting.pop() {
        let modules = folder.join("node_modules");
        let Ok(metadata) = context.path(&modules).metadata() else {
            continue;
        };
        if !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        for package in packages_in(context, &modules) {
            context.check()?;
            let manifest = package.join("package.json");
            let Ok(bytes) = read_bytes(&context.path(&manifest)) else {
                continue;
            };
            match serde_json::from_slice::<Value>(&bytes) {
                Ok(value) => add_package(rows, &value, site, &manifest, depth, max_depth)?,
                Err(error) => context.warn(format!("{}: {error}", manifest.display())),
            }
            // -1 means without end.
            if max_depth < 0 || depth < max_depth {
                waiting.push((package, depth + 1));
            }
        }
    }
    Ok(())
}

/// The folders of packages, those of scopes (`@scope/name`) included.
fn packages_in(context: &Context<'_>, modules: &Path) -> Vec<PathBuf> {
    let mut packages = Vec::new();
    for name in glob::names_in(context, modules) {
        let path = modules.join(&name);
        if name.starts_with('@') {
            packages.extend(
                glob::names_in(context, &path)
                    .into_iter()
                    .map(|name| path.join(name)),
            );
        } else if !name.starts_with('.') {
            packages.push(path);
        }
    }
    packages
}

fn add_package(
    rows: &mut RowSink<'_>,
    manifest: &Value,
    site: &Path,
    path: &Path,
    depth: i64,
    max_depth: i64,
) -> Result<(), TableError> {
    let text = |name: &str| manifest.get(name).and_then(Value::as_str);
    // Older manifests have objects where newer ones have texts.
    let text_or = |name: &str, member: &str| {
        let value = manifest.get(name)?;
        value.as_str().or_else(|| value.get(member)?.as_str())
    };
    rows.row()
        .set("name", text("name"))
        .set("version", text("version"))
        .set("description", text("description"))
        .set("author", text_or("author", "name"))
        .set(
            "license",
            text_or("license", "type").or_else(|| text_or("license", "url")),
        )
        .set("homepage", text("homepage"))
        .set("path", path.to_string_lossy())
        .set("directory", site.to_string_lossy())
        .set("depth", depth)
        .set("max_depth", max_depth)
        .push()
}
