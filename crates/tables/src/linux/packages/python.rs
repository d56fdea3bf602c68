//! Python packages, by the metadata beside them.

use std::path::{Path, PathBuf};

use super::super::accounts::users_asked_for;
use super::super::glob;
use crate::error::TableError;
use crate::spec::Collation::Version;
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink, read_text};

pub(crate) static PYTHON_PACKAGES: TableSpec = TableSpec {
    name: "python_packages",
    description: "Python packages in the system's and the users' folders.",
    columns: &[
        column("name", Text),
        column("uid", BigInt).index(),
        column("version", Text).collate(Version),
        column("summary", Text),
        column("author", Text),
        column("license", Text),
        column("path", Text),
        column("directory", Text).index().optimized(),
        column("pid_with_namespace", Integer).additional().hidden(),
    ],
};

/// Folders with packages for everybody.
const SYSTEM_FOLDERS: [&str; 9] = [
    "/usr/lib/python%/dist-packages",
    "/usr/lib/python%/site-packages",
    "/usr/lib64/python%/site-packages",
    "/usr/local/lib/python%/dist-packages",
    "/usr/local/lib/python%/site-packages",
    "/usr/local/lib64/python%/site-packages",
    "/opt/conda/lib/python%/site-packages",
    "/opt/miniconda3/lib/python%/site-packages",
    "/opt/anaconda3/lib/python%/site-packages",
];

/// Folders with a user's packages, below the home folder: pip, and tools that manage versions or environments.
const USER_FOLDERS: [&str; 18] = [
    ".local/lib/python%/site-packages",
    ".pyenv/versions/%/lib/python%/site-packages",
    ".asdf/installs/python/%/lib/python%/site-packages",
    ".local/share/mise/installs/python/%/lib/python%/site-packages",
    ".local/share/uv/tools/%/lib/python%/site-packages",
    ".local/share/pipx/venvs/%/lib/python%/site-packages",
    ".local/pipx/venvs/%/lib/python%/site-packages",
    ".cache/pypoetry/virtualenvs/%/lib/python%/site-packages",
    ".virtualenvs/%/lib/python%/site-packages",
    ".local/share/virtualenvs/%/lib/python%/site-packages",
    "miniconda3/lib/python%/site-packages",
    "miniconda3/envs/%/lib/python%/site-packages",
    "anaconda3/lib/python%/site-packages",
    "anaconda3/envs/%/lib/python%/site-packages",
    "miniforge3/lib/python%/site-packages",
    "miniforge3/envs/%/lib/python%/site-packages",
    "mambaforge/lib/python%/site-packages",
    "mambaforge/envs/%/lib/python%/site-packages",
];

const ROOT_USER: i64 = 0;

pub(crate) fn python_packages(
    constraints: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    if let Some(folder) = constraints.text("directory") {
        return add_folder(context, rows, Path::new(folder), ROOT_USER);
    }
    let asks_for_system =
        constraints.equal("uid").is_none() || constraints.integer("uid") == Some(ROOT_USER);
    if asks_for_system {
        for pattern in SYSTEM_FOLDERS {
            for folder in distinct_folders(context, pattern)? {
                add_folder(context, rows, &folder, ROOT_USER)?;
            }
        }
    }
    for user in users_asked_for(constraints, context)? {
        // Accounts of services have `/`, or a folder that is not there.
        if user.directory.len() < 2 || !context.path(&user.directory).is_dir() {
            continue;
        }
        for pattern in USER_FOLDERS {
            let pattern = format!("{}/{pattern}", user.directory.trim_end_matches('/'));
            for folder in distinct_folders(context, &pattern)? {
                add_folder(context, rows, &folder, user.uid)?;
            }
        }
    }
    Ok(())
}

/// The folders that agree with a pattern, without those that are links to another one.
fn distinct_folders(context: &Context<'_>, pattern: &str) -> Result<Vec<PathBuf>, TableError> {
    let mut folders = glob::matches(context, pattern)?;
    folders.retain(|folder| {
        let parent = folder.parent().unwrap_or(folder);
        let is_link = |path: &Path| context.path(path).is_symlink();
        context.path(folder).is_dir() && !is_link(folder) && !is_link(parent)
    });
    Ok(folders)
}

fn add_folder(
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
    folder: &Path,
    uid: i64,
) -> Result<(), TableError> {
    for name in glob::names_in(context, folder) {
        context.check()?;
        let entry = folder.join(&name);
        let file = if name.ends_with(".dist-info") {
            entry.join("METADATA")
        } else if name.ends_with(".egg-info") && context.path(&entry).is_dir() {
            entry.join("PKG-INFO")
        } else if name.ends_with(".egg-info") {
            entry.clone()
        } else {
            continue;
        };
        let text = match read_text(&context.path(&file)) {
            Ok(text) => text,
            Err(error) => {
                // A folder that pip left behind when it removed a package has no metadata.
                if error.kind() != std::io::ErrorKind::NotFound {
                    context.warn(TableError::unreadable(&file, error));
                }
                continue;
            }
        };
        let field = |name: &str| metadata_field(&text, name);
        rows.row()
            .set("name", field("Name"))
            .set("uid", uid)
            .set("version", field("Version"))
            .set("summary", field("Summary"))
            .set("author", field("Author"))
            .set(
                "license",
                field("License").or_else(|| field("License-Expression")),
            )
            .set("path", entry.to_string_lossy())
            .set("directory", folder.to_string_lossy())
            .push()?;
    }
    Ok(())
}

/// A field of the metadata, which ends at the first empty line.
fn metadata_field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .take_while(|line| !line.trim().is_empty())
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_behind_the_fields_is_no_field() {
        let text = "Metadata-Version: 2.1\nName: requests\nVersion: 2.31.0\nSummary: HTTP: for people\n\nAuthor: nobody\n";
        assert_eq!(metadata_field(text, "Name"), Some("requests"));
        assert_eq!(metadata_field(text, "Summary"), Some("HTTP: for people"));
        assert_eq!(metadata_field(text, "Author"), None);
    }
}
