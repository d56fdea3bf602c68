//! Verbs that are a table of named steps: run in order, timed, summed up at the end.

use std::time::{Duration, Instant};

use crate::error::{self, XtaskError};
use crate::postgres;
use crate::workspace::Workspace;

/// One named part of a verb.
pub(crate) struct Step {
    /// What `--only` calls it.
    pub(crate) name: &'static str,
    /// What it shows, in one line.
    pub(crate) about: &'static str,
    /// Does it.
    pub(crate) run: fn(&mut Context) -> Result<Outcome, XtaskError>,
}

/// How a step ended, short of failing.
pub(crate) enum Outcome {
    Passed,
    /// It could not be done here; the text says why.
    Skipped(String),
}

/// What steps share.
pub(crate) struct Context {
    pub(crate) workspace: Workspace,
    /// Whether to show all failures rather than the first.
    pub(crate) keep_going: bool,
    postgres: Option<postgres::Session>,
}

impl Context {
    pub(crate) fn new(workspace: Workspace, keep_going: bool) -> Self {
        Self {
            workspace,
            keep_going,
            postgres: None,
        }
    }

    /// The address of a PostgreSQL server on which tests may make databases: the one that the environment names, else a
    /// private one that is started now and ends with this program.
    pub(crate) fn postgres(&mut self) -> Result<String, XtaskError> {
        let named = std::env::var(postgres::VARIABLE).ok();
        if let Some(url) = named.filter(|url| !url.is_empty()) {
            return Ok(url);
        }
        let session = match self.postgres.take() {
            Some(session) => session,
            None => postgres::Session::open(&self.workspace)?,
        };
        let url = session.url().to_owned();
        self.postgres = Some(session);
        Ok(url)
    }
}

enum Ended {
    Passed,
    Skipped(String),
    Failed,
}

/// The steps whose names were asked for, in the table's order; all when none was.
pub(crate) fn select<'a>(table: &'a [Step], only: &[String]) -> Result<Vec<&'a Step>, XtaskError> {
    if let Some(unknown) = only
        .iter()
        .find(|name| !table.iter().any(|step| step.name == *name))
    {
        return Err(XtaskError::Unknown {
            kind: "step",
            name: unknown.clone(),
            known: names(table),
        });
    }
    Ok(table
        .iter()
        .filter(|step| only.is_empty() || only.iter().any(|name| name == step.name))
        .collect())
}

/// Prints the table.
pub(crate) fn list(table: &[Step]) {
    for (number, step) in table.iter().enumerate() {
        println!("{:>2}  {:<14} {}", number + 1, step.name, step.about);
    }
}

/// Runs the steps, then prints what became of each. Without `keep_going` the first failure ends it.
pub(crate) fn run(steps: &[&Step], mut context: Context) -> Result<(), XtaskError> {
    let begun = Instant::now();
    let mut ended: Vec<(&'static str, Ended, Duration)> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        println!(
            "==> {}/{} {}: {}",
            index + 1,
            steps.len(),
            step.name,
            step.about
        );
        let begun = Instant::now();
        let end = match (step.run)(&mut context) {
            Ok(Outcome::Passed) => Ended::Passed,
            Ok(Outcome::Skipped(reason)) => {
                println!("    skipped: {reason}");
                Ended::Skipped(reason)
            }
            Err(failure) => {
                println!("    error: {}", error::chain(&failure));
                Ended::Failed
            }
        };
        let stop = matches!(end, Ended::Failed) && !context.keep_going;
        ended.push((step.name, end, begun.elapsed()));
        if stop {
            break;
        }
    }
    drop(context);
    summarise(steps, &ended, begun.elapsed())
}

fn summarise(
    steps: &[&Step],
    ended: &[(&'static str, Ended, Duration)],
    total: Duration,
) -> Result<(), XtaskError> {
    println!("==> summary");
    for (index, step) in steps.iter().enumerate() {
        let (word, took, note) = match ended.get(index) {
            Some((_, Ended::Passed, took)) => ("passed", seconds(*took), ""),
            Some((_, Ended::Skipped(reason), took)) => ("skipped", seconds(*took), reason.as_str()),
            Some((_, Ended::Failed, took)) => ("FAILED", seconds(*took), ""),
            None => ("not run", String::new(), ""),
        };
        let line = format!("    {:<14} {word:<8} {took:>9}  {note}", step.name);
        println!("{}", line.trim_end());
    }
    println!("    {:<14} {:<8} {:>9}", "total", "", seconds(total));
    let failed: Vec<&str> = ended
        .iter()
        .filter(|(_, end, _)| matches!(end, Ended::Failed))
        .map(|(name, _, _)| *name)
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(XtaskError::Steps(failed.join(", ")))
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn names(table: &[Step]) -> String {
    let names: Vec<&str> = table.iter().map(|step| step.name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Step] = &[
        Step {
            name: "good",
            about: "passes",
            run: |_| Ok(Outcome::Passed),
        },
        Step {
            name: "bad",
            about: "fails",
            run: |_| Err(XtaskError::NoWorkspace),
        },
        Step {
            name: "absent",
            about: "cannot be done",
            run: |_| Ok(Outcome::Skipped(String::from("not here"))),
        },
    ];

    fn context(keep_going: bool) -> Context {
        Context::new(
            Workspace::find().expect("tests run in the workspace"),
            keep_going,
        )
    }

    #[test]
    fn a_step_that_is_asked_for_by_a_wrong_name_is_an_error_that_lists_the_right_ones() {
        let error = select(TABLE, &[String::from("god")])
            .err()
            .expect("there is no such step");
        assert_eq!(
            error.to_string(),
            "there is no step `god`; known: good, bad, absent"
        );
    }

    #[test]
    fn steps_run_in_the_order_of_the_table_whatever_the_order_asked_for() {
        let only = [String::from("absent"), String::from("good")];
        let steps = select(TABLE, &only).expect("both exist");
        let names: Vec<&str> = steps.iter().map(|step| step.name).collect();
        assert_eq!(names, ["good", "absent"]);
    }

    #[test]
    fn a_failed_step_fails_the_verb_and_is_named() {
        for keep_going in [false, true] {
            let steps = select(TABLE, &[]).expect("all exist");
            let error = run(&steps, context(keep_going)).expect_err("one step fails");
            assert_eq!(error.to_string(), "failed: bad");
        }
    }

    #[test]
    fn a_skipped_step_is_no_failure() {
        let steps = select(TABLE, &[String::from("absent")]).expect("it exists");
        assert!(run(&steps, context(false)).is_ok());
    }
}
