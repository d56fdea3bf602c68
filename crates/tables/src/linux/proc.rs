//! What the tables about processes and sockets share: reading `/proc`.

use std::io;

use crate::error::TableError;
use crate::table::{Constraints, Context};

/// The processes that a query may be about: the one it names, or all.
pub(super) fn pids(
    constraints: &Constraints,
    context: &Context<'_>,
) -> Result<Vec<i64>, TableError> {
    if constraints.equal("pid").is_some() {
        return Ok(constraints
            .integer("pid")
            .filter(|pid| *pid > 0)
            .into_iter()
            .collect());
    }
    all_pids(context)
}

pub(super) fn all_pids(context: &Context<'_>) -> Result<Vec<i64>, TableError> {
    let path = context.path("/proc");
    let entries = std::fs::read_dir(&path).map_err(|error| TableError::unreadable(&path, error))?;
    let mut pids: Vec<i64> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// What a process's file descriptors point to. A process that has ended has none; one that must not be read is an
/// error.
pub(super) fn descriptors(context: &Context<'_>, pid: i64) -> io::Result<Vec<(i64, String)>> {
    let folder = context.path(format!("/proc/{pid}/fd"));
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(fd) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if let Ok(target) = std::fs::read_link(entry.path()) {
            found.push((fd, target.to_string_lossy().into_owned()));
        }
    }
    Ok(found)
}

/// Says that rows are missing because the agent runs without privileges.
pub(super) fn warn_about_denied(context: &Context<'_>, processes: usize) {
    if processes > 0 {
        context.warn(format!(
            "{processes} processes belong to other users; reading them needs root"
        ));
    }
}

/// When the machine started, in seconds since 1970, from `/proc/stat`.
pub(super) fn boot_time(stat: &str) -> Option<i64> {
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

/// The kernel's clock ticks as milliseconds.
pub(super) fn ticks_to_ms(ticks: i64) -> i64 {
    let per_second = i64::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100);
    ticks.saturating_mul(1_000) / per_second.max(1)
}

/// The fields of `/proc/PID/stat` that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) parent: i64,
    pub(super) process_group: i64,
    pub(super) user_ticks: i64,
    pub(super) system_ticks: i64,
    pub(super) nice: i64,
    pub(super) threads: i64,
    pub(super) start_ticks: i64,
}

impl Stat {
    /// The name is in parentheses and may itself hold spaces and parentheses, so that the last one counts.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        // proc(5) counts from 1, and the state is its field 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
        Some(Self {
            name: name.to_owned(),
            state: (*fields.first()?).to_owned(),
            parent: number(4)?,
            process_group: number(5)?,
            user_ticks: number(14)?,
            system_ticks: number(15)?,
            nice: number(19)?,
            threads: number(20)?,
            start_ticks: number(22)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_process_may_have_parentheses_in_its_name() {
        let text =
            "77 (a) (b c)) S 1 77 77 0 -1 4194560 900 0 0 0 12 34 0 0 20 -5 3 0 4242 1000 50 rest";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat.name, "a) (b c)");
        assert_eq!(
            (stat.state.as_str(), stat.parent, stat.process_group),
            ("S", 1, 77)
        );
        assert_eq!(
            (stat.user_ticks, stat.system_ticks, stat.nice),
            (12, 34, -5)
        );
        assert_eq!((stat.threads, stat.start_ticks), (3, 4242));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in ".{0,200}") {
            let _ = Stat::parse(&text);
        }
    }
}
