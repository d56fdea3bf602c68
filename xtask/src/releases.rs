//! `cargo xtask releases`: programs of earlier releases, built from this repository's history.
//!
//! Tests of mixed versions run them beside those that were just built. They lie in the user's cache by version and commit, so
//! that each is built once on a machine. Which there are stands in `releases.toml`; `testing/skew` finds them again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use clap::Args;

use crate::error::XtaskError;
use crate::process;
use crate::workspace::{self, Workspace};

/// The packages whose programs are built.
const PACKAGES: &[&str] = &["muster-server", "muster-agent", "muster-cli"];
/// The programs of those packages.
const PROGRAMS: &[&str] = &["muster-server", "muster-agent", "muster"];
/// How many characters of a commit stand in a folder's name.
const COMMIT_CHARACTERS: usize = 12;

/// Programs of earlier releases, for tests of mixed versions: builds those that are not there yet.
///
/// They come from this repository's history and are kept in the user's cache, or below `$MUSTER_CACHE`.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  cargo xtask releases          builds what is missing, some minutes for each release
  cargo xtask releases --list   the releases and where their programs are")]
pub(crate) struct Arguments {
    /// Print the releases and where their programs are; build nothing.
    #[arg(long)]
    list: bool,
}

/// A release that a peer may still run.
#[derive(Debug, PartialEq, Eq)]
struct Release {
    version: String,
    commit: String,
}

pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<(), XtaskError> {
    if !arguments.list {
        return ensure(workspace);
    }
    for release in listed(workspace)? {
        println!("{}  {}", release.version, release.folder()?.display());
    }
    Ok(())
}

/// Builds what is missing.
pub(crate) fn ensure(workspace: &Workspace) -> Result<(), XtaskError> {
    for release in listed(workspace)? {
        let folder = release.folder()?;
        if PROGRAMS.iter().all(|name| folder.join(name).is_file()) {
            println!("    release {} is in {}", release.version, folder.display());
        } else {
            release.build(workspace, &folder)?;
        }
    }
    Ok(())
}

fn listed(workspace: &Workspace) -> Result<Vec<Release>, XtaskError> {
    let path = workspace.root().join("releases.toml");
    let text = fs::read_to_string(&path).map_err(XtaskError::file("reading", &path))?;
    Ok(read(&text))
}

/// The releases of `releases.toml`, whose form is known: no TOML library for three lines each.
fn read(text: &str) -> Vec<Release> {
    let entries = text.split("[[release]]").skip(1);
    let entries = entries.filter_map(|entry| {
        let member = |name: &str| {
            let lines = entry.lines().filter_map(|line| line.split_once('='));
            let mut members = lines.map(|(name, value)| (name.trim(), value.trim()));
            let (_, value) = members.find(|(found, _)| *found == name)?;
            Some(value.trim_matches('"').to_owned())
        };
        Some(Release {
            version: member("version")?,
            commit: member("commit")?,
        })
    });
    entries.collect()
}

impl Release {
    /// Where its programs are: `$MUSTER_CACHE/releases`, else the user's cache.
    fn folder(&self) -> Result<PathBuf, XtaskError> {
        let named = std::env::var_os(workspace::CACHE_VARIABLE).filter(|value| !value.is_empty());
        let cache = match named {
            Some(cache) => PathBuf::from(cache),
            None => workspace::user_cache().ok_or(XtaskError::NoCache)?,
        };
        let commit = self.commit.get(..COMMIT_CHARACTERS).unwrap_or(&self.commit);
        Ok(cache
            .join("releases")
            .join(format!("{}-{commit}", self.version)))
    }

    fn build(&self, workspace: &Workspace, folder: &Path) -> Result<(), XtaskError> {
        println!(
            "    building release {} from its commit; this is done once",
            self.version
        );
        let begun = Instant::now();
        let parent = folder.parent().unwrap_or(folder);
        // Of two that build it at once each has a folder of its own.
        let scratch = parent.join(format!(".building-{}-{}", self.version, std::process::id()));
        let (source, target, done) = (
            scratch.join("source"),
            scratch.join("target"),
            scratch.join("programs"),
        );
        for path in [&source, &done] {
            fs::create_dir_all(path).map_err(XtaskError::file("making", path))?;
        }
        let built = self.take_out(workspace, &scratch, &source).and_then(|()| {
            let mut cargo = workspace.cargo();
            cargo
                .current_dir(&source)
                .args(["build", "--quiet", "--locked"])
                .args(PACKAGES.iter().flat_map(|package| ["--package", package]))
                .env("CARGO_TARGET_DIR", &target)
                .env("CARGO_INCREMENTAL", "0")
                .env("CARGO_PROFILE_DEV_DEBUG", "0");
            process::run(&mut cargo)?;
            for name in PROGRAMS {
                let program = target.join("debug").join(name);
                let copied = fs::copy(&program, done.join(name));
                copied.map_err(XtaskError::file("copying", &program))?;
            }
            let moved = fs::rename(&done, folder);
            if folder.is_dir() {
                Ok(())
            } else {
                moved.map_err(XtaskError::file("making", folder))
            }
        });
        let removed = fs::remove_dir_all(&scratch);
        built?;
        removed.map_err(XtaskError::file("removing", &scratch))?;
        let seconds = begun.elapsed().as_secs();
        println!(
            "    release {} is in {}, after {seconds} s",
            self.version,
            folder.display()
        );
        Ok(())
    }

    /// Its source, from the repository's history.
    fn take_out(
        &self,
        workspace: &Workspace,
        scratch: &Path,
        source: &Path,
    ) -> Result<(), XtaskError> {
        let git = |arguments: &[&str]| {
            let mut git = workspace.command("git");
            // In a container the repository often belongs to another user; only reading is asked.
            git.args(["-c", "safe.directory=*"]).args(arguments);
            git
        };
        let commit = format!("{}^{{commit}}", self.commit);
        let is_there = process::capture(&mut git(&["cat-file", "-e", &commit]));
        is_there.map_err(|source| XtaskError::NoHistory {
            version: self.version.clone(),
            commit: self.commit.clone(),
            source: Box::new(source),
        })?;
        let archive = scratch.join("source.tar");
        let mut archiving = git(&["archive", "--format=tar", "--output"]);
        process::capture(archiving.arg(&archive).arg(&self.commit))?;
        let mut tar = Command::new("tar");
        process::capture(tar.arg("-xf").arg(&archive).arg("-C").arg(source))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_is_read_with_its_commit() {
        let text = include_str!("../../releases.toml");
        let releases = read(text);
        assert_eq!(releases.len(), text.matches("[[release]]").count());
        for release in releases {
            assert_eq!(release.commit.len(), 40, "{release:?}");
            assert_eq!(release.version.split('.').count(), 3, "{release:?}");
        }
    }
}
