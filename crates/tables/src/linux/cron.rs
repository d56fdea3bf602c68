//! What cron runs.

use std::path::{Path, PathBuf};

use crate::error::TableError;
use crate::spec::ColumnType::{Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink};

pub(crate) static CRONTAB: TableSpec = TableSpec {
    name: "crontab",
    description: "Commands that cron runs, from the system's and the users' tables.",
    columns: &[
        column("event", Text),
        column("minute", Text),
        column("hour", Text),
        column("day_of_month", Text),
        column("month", Text),
        column("day_of_week", Text),
        column("command", Text),
        column("path", Text),
        column("pid_with_namespace", Integer).additional().hidden(),
    ],
};

/// Folders with tables: of packages, of users (Red Hat), of users (Debian).
const FOLDERS: [&str; 3] = ["/etc/cron.d", "/var/spool/cron", "/var/spool/cron/crontabs"];

pub(crate) fn crontab(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let mut files = vec![PathBuf::from("/etc/crontab")];
    for folder in FOLDERS {
        files.extend(files_in(context, Path::new(folder)));
    }
    for file in files {
        context.check()?;
        let path = context.path(&file);
        let text = match crate::table::read_text(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                context.warn(TableError::unreadable(&file, error));
                continue;
            }
        };
        for entry in text.lines().filter_map(Entry::parse) {
            rows.row()
                .set("event", entry.event)
                .set("minute", entry.times.map(|times| times[0]))
                .set("hour", entry.times.map(|times| times[1]))
                .set("day_of_month", entry.times.map(|times| times[2]))
                .set("month", entry.times.map(|times| times[3]))
                .set("day_of_week", entry.times.map(|times| times[4]))
                .set("command", entry.command)
                .set("path", file.to_string_lossy())
                .push()?;
        }
    }
    Ok(())
}

fn files_in(context: &Context<'_>, folder: &Path) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(context.path(folder)) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                context.warn(TableError::unreadable(folder, error));
            }
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.path().is_file())
        .map(|entry| folder.join(entry.file_name()))
        .collect();
    files.sort();
    files
}

/// A line of a table: when, and what. In the system's tables the command begins with the user who runs it.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    event: Option<&'a str>,
    times: Option<[&'a str; 5]>,
    command: String,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim();
        if line.starts_with('#') {
            return None;
        }
        let mut words = line.split_whitespace();
        let first = words.next()?;
        let (event, times) = if first.starts_with('@') {
            (Some(first), None)
        } else if first.contains('=') {
            // A variable for the commands.
            return None;
        } else {
            let times = [
                first,
                words.next()?,
                words.next()?,
                words.next()?,
                words.next()?,
            ];
            (None, Some(times))
        };
        let command = words.collect::<Vec<_>>().join(" ");
        // `NAME = value` has an equals sign on its own.
        let is_variable = times.is_some_and(|times| times[1] == "=");
        (!command.is_empty() && !is_variable).then_some(Self {
            event,
            times,
            command,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_variables_and_comments_are_told_apart() {
        let entry = Entry::parse("17 *\t* * 1-5 root  cd / && run-parts --report /etc/cron.hourly")
            .unwrap();
        assert_eq!(entry.times, Some(["17", "*", "*", "*", "1-5"]));
        assert_eq!(
            entry.command,
            "root cd / && run-parts --report /etc/cron.hourly"
        );
        let entry = Entry::parse("@reboot /usr/bin/true").unwrap();
        assert_eq!(
            (entry.event, entry.command.as_str()),
            (Some("@reboot"), "/usr/bin/true")
        );
        for line in [
            "",
            "# * * * * * x",
            "SHELL=/bin/sh a b c d e",
            "MAILTO = a b c d e",
            "* * * * *",
        ] {
            assert_eq!(Entry::parse(line), None, "{line}");
        }
    }
}
