//! `cargo xtask licences`: every dependency's licence is one that we accept, and no known advisory hits one.
//!
//! Reads what `cargo metadata` says of every package in `Cargo.lock`, for all platforms; no other tool is needed. A
//! licence is accepted by being in [`ACCEPTED`]; a single package with another one by being in [`EXCEPTIONS`].
//!
//! Not legal advice, and no look into source files: the packages' own statements are believed.

mod spdx;

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::error::XtaskError;
use crate::process;
use crate::steps::Outcome;
use crate::workspace::Workspace;

/// Our own licence, which every package of the workspace must state.
const OWN: &str = "Apache-2.0 OR MIT";

/// Licences that any dependency may have, by SPDX id, with what they ask of us.
const ACCEPTED: &[(&str, &str)] = &[
    ("0BSD", "asks nothing"),
    ("Apache-2.0", "notice; ours too"),
    (
        "Apache-2.0 WITH LLVM-exception",
        "Apache-2.0 with less asked of binaries",
    ),
    ("BSD-2-Clause", "notice"),
    ("BSD-3-Clause", "notice, no endorsement"),
    ("BSL-1.0", "notice in source only"),
    ("CC0-1.0", "asks nothing"),
    ("ISC", "notice"),
    ("MIT", "notice; ours too"),
    ("MIT-0", "asks nothing"),
    (
        "MPL-2.0",
        "changes to its own files are to be published; we change none",
    ),
    ("OpenSSL", "notice; parts of AWS-LC descend from OpenSSL"),
    ("Unicode-3.0", "notice; character tables"),
    ("Unlicense", "asks nothing"),
    ("Zlib", "asks nothing of binaries"),
];

/// Packages that may have another licence: name, licence, why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("webpki-root-certs", "CDLA-Permissive-2.0", ROOTS),
    ("webpki-roots", "CDLA-Permissive-2.0", ROOTS),
];
const ROOTS: &str =
    "data, not code: Mozilla's list of root certificates; asks only that its licence goes along";

/// Every dependency's licence is one we accept.
///
/// The accepted licences and the exceptions, each with its reason, are two tables in xtask/src/licences.rs.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  cargo xtask licences          fail when a dependency has a licence that is not accepted
  cargo xtask licences --list   every dependency with its licence")]
pub(crate) struct Arguments {
    /// Print every dependency with its licence.
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<(), XtaskError> {
    if arguments.list {
        for package in packages(workspace)? {
            let licence = package.licence.as_deref().unwrap_or("(none stated)");
            println!("{:<32} {:<14} {licence}", package.name, package.version);
        }
        return Ok(());
    }
    check(workspace)
}

/// Fails with the packages that have no accepted licence.
pub(crate) fn check(workspace: &Workspace) -> Result<(), XtaskError> {
    let packages = packages(workspace)?;
    let findings = findings(&packages);
    for finding in &findings {
        println!("    {finding}");
    }
    if findings.is_empty() {
        println!("    {} packages, all accepted", packages.len());
        return Ok(());
    }
    Err(XtaskError::Findings {
        what: "licences that are not accepted",
        count: findings.len(),
    })
}

/// Compares the dependencies with an advisory database where one is to be had.
pub(crate) fn advisories(workspace: &Workspace) -> Result<Outcome, XtaskError> {
    let Some(database) = advisory_database() else {
        return Ok(Outcome::Skipped(String::from("no advisory database")));
    };
    if process::find_program("cargo-audit").is_none() {
        return Ok(Outcome::Skipped(String::from("no cargo-audit program")));
    }
    process::run(
        workspace
            .cargo()
            .args(["audit", "--no-fetch", "--db"])
            .arg(database),
    )?;
    Ok(Outcome::Passed)
}

/// `$MUSTER_ADVISORY_DB`, else the copy of RustSec's database that `cargo audit` keeps.
fn advisory_database() -> Option<PathBuf> {
    let named = std::env::var_os("MUSTER_ADVISORY_DB").map(PathBuf::from);
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let kept = cargo_home.map(|home| home.join("advisory-db"));
    [named, kept]
        .into_iter()
        .flatten()
        .find(|folder| folder.join("crates").is_dir())
}

struct Package {
    name: String,
    version: String,
    licence: Option<String>,
    /// A package of this workspace.
    own: bool,
}

fn packages(workspace: &Workspace) -> Result<Vec<Package>, XtaskError> {
    let mut cargo = workspace.cargo();
    cargo.args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--all-features",
    ]);
    let unexpected = |what: String| XtaskError::Unexpected {
        command: String::from("cargo metadata"),
        what,
    };
    let text = process::capture(&mut cargo)?;
    let metadata: Value =
        serde_json::from_str(&text).map_err(|error| unexpected(error.to_string()))?;
    let listed = metadata["packages"]
        .as_array()
        .ok_or_else(|| unexpected(String::from("no packages")))?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    listed
        .iter()
        .map(|package| {
            Ok(Package {
                name: text(&package["name"])
                    .ok_or_else(|| unexpected(String::from("a package without a name")))?,
                version: text(&package["version"]).unwrap_or_default(),
                licence: text(&package["license"]),
                own: package["source"].is_null(),
            })
        })
        .collect()
}

fn findings(packages: &[Package]) -> Vec<String> {
    let mut findings: Vec<String> = packages.iter().filter_map(finding).collect();
    for (name, _, _) in EXCEPTIONS {
        if !packages.iter().any(|package| package.name == *name) {
            findings.push(format!(
                "{name}: is no dependency any more; remove its exception"
            ));
        }
    }
    findings
}

fn finding(package: &Package) -> Option<String> {
    let label = format!("{} {}", package.name, package.version);
    let Some(licence) = &package.licence else {
        return Some(format!("{label}: states no licence"));
    };
    if package.own {
        return (licence != OWN)
            .then(|| format!("{label}: is ours and must say `license.workspace = true`"));
    }
    let excepted: Vec<&str> = EXCEPTIONS
        .iter()
        .filter(|(name, _, _)| *name == package.name)
        .map(|(_, licence, _)| *licence)
        .collect();
    let accepts =
        |id: &str| ACCEPTED.iter().any(|(accepted, _)| *accepted == id) || excepted.contains(&id);
    match spdx::is_satisfied(licence, accepts) {
        Ok(true) => None,
        Ok(false) => Some(format!("{label}: `{licence}` is not accepted")),
        Err(error) => Some(format!(
            "{label}: `{licence}` cannot be understood: {error}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, licence: Option<&str>, own: bool) -> Package {
        Package {
            name: name.to_owned(),
            version: String::from("1.0.0"),
            licence: licence.map(str::to_owned),
            own,
        }
    }

    #[test]
    fn a_licence_outside_the_table_is_found() {
        assert_eq!(
            finding(&package("strict", Some("GPL-3.0-only"), false)).as_deref(),
            Some("strict 1.0.0: `GPL-3.0-only` is not accepted")
        );
        assert_eq!(
            finding(&package("choice", Some("GPL-3.0-only OR MIT"), false)),
            None
        );
        assert_eq!(
            finding(&package("silent", None, false)).as_deref(),
            Some("silent 1.0.0: states no licence")
        );
    }

    #[test]
    fn an_exception_holds_for_its_package_only() {
        let data = Some("CDLA-Permissive-2.0");
        assert_eq!(finding(&package("webpki-roots", data, false)), None);
        assert!(finding(&package("another", data, false)).is_some());
    }

    #[test]
    fn an_exception_that_nothing_needs_is_found() {
        assert_eq!(
            findings(&[]),
            [
                "webpki-root-certs: is no dependency any more; remove its exception",
                "webpki-roots: is no dependency any more; remove its exception"
            ]
        );
    }

    #[test]
    fn our_own_packages_state_our_licence() {
        assert_eq!(finding(&package("muster-x", Some(OWN), true)), None);
        assert!(finding(&package("muster-x", Some("MIT"), true)).is_some());
    }
}
