//! Questions at a prompt.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use muster_tables::{CancelFlag, Engine};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::config::Mode;
use crate::output;

const HELP: &str = "\
SQL ends with a semicolon. Besides:
  .tables [TEXT]   the tables, or those whose name contains TEXT
  .schema [TABLE]  the columns of a table, or of all
  .mode MODE       table, json, csv or line
  .help            this
  .exit            the end (also Ctrl-D); Ctrl-C stops the query that runs
";

/// Where the history is kept in the home folder.
const HISTORY: &str = ".muster_agent_history";

/// Reads, answers, prints, until the end.
pub fn run(engine: &Engine) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut editor = DefaultEditor::new()?;
    let history = std::env::var_os("HOME").map(|home| std::path::Path::new(&home).join(HISTORY));
    if let Some(history) = &history {
        // There is none the first time.
        let _ = editor.load_history(history);
    }
    let interrupted = Interrupted::default();
    if io::stdin().is_terminal() {
        interrupted.listen()?;
    }
    let mut mode = Mode::Table;
    let mut pending = String::new();
    loop {
        let prompt = if pending.is_empty() {
            "muster> "
        } else {
            "   ...> "
        };
        match editor.readline(prompt) {
            Ok(line) => {
                let line = line.trim_end();
                if pending.is_empty() && line.trim().is_empty() {
                    continue;
                }
                let _ = editor.add_history_entry(line);
                if pending.is_empty() && line.starts_with('.') {
                    if !command(engine, line, &mut mode)? {
                        break;
                    }
                    continue;
                }
                pending.push_str(line);
                pending.push('\n');
                if line.ends_with(';') {
                    let sql = std::mem::take(&mut pending);
                    answer(engine, &sql, mode, &interrupted.begin())?;
                }
            }
            Err(ReadlineError::Interrupted) => pending.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(history) = &history {
        editor.save_history(history)?;
    }
    Ok(())
}

/// Ctrl-C ends the query that runs, not the shell.
#[derive(Clone, Default)]
struct Interrupted(Arc<Mutex<CancelFlag>>);

impl Interrupted {
    fn listen(&self) -> io::Result<()> {
        let current = self.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let mut interrupts = {
            let _entered = runtime.enter();
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?
        };
        let work = move || {
            runtime.block_on(async {
                while interrupts.recv().await.is_some() {
                    current.lock().cancel();
                }
            });
        };
        std::thread::Builder::new()
            .name("interrupts".to_owned())
            .spawn(work)
            .map(drop)
    }

    /// What stops the next query.
    fn begin(&self) -> CancelFlag {
        let flag = CancelFlag::new();
        *self.lock() = flag.clone();
        flag
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, CancelFlag> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(engine: &Engine, sql: &str, mode: Mode, stop: &CancelFlag) -> io::Result<()> {
    match engine.query_with(sql, engine.limits(), stop) {
        Ok(result) => {
            output::print(&mut io::stdout().lock(), &result, mode)?;
            for warning in &result.warnings {
                writeln!(io::stderr(), "warning: {warning}")?;
            }
            Ok(())
        }
        Err(error) => writeln!(io::stderr(), "error: {error}"),
    }
}

/// Does what a line with a dot says; false at the end.
fn command(engine: &Engine, line: &str, mode: &mut Mode) -> io::Result<bool> {
    let mut words = line.split_whitespace();
    let (name, argument) = (words.next().unwrap_or_default(), words.next());
    let mut out = io::stdout().lock();
    match name {
        ".exit" | ".quit" => return Ok(false),
        ".help" => write!(out, "{HELP}")?,
        ".tables" => {
            let matching = |name: &str| argument.is_none_or(|text| name.contains(text));
            for table in engine.tables().filter(|table| matching(table.name)) {
                writeln!(out, "{}", table.name)?;
            }
        }
        ".schema" => match argument {
            Some(table) => match engine.schema(table) {
                Some(schema) => writeln!(out, "{schema}")?,
                None => writeln!(out, "there is no table {table}; see .tables")?,
            },
            None => {
                for table in engine.tables() {
                    if let Some(schema) = engine.schema(table.name) {
                        writeln!(out, "{schema}")?;
                    }
                }
            }
        },
        ".mode" => {
            match argument.and_then(|name| <Mode as clap::ValueEnum>::from_str(name, true).ok()) {
                Some(chosen) => *mode = chosen,
                None => writeln!(out, "the modes are table, json, csv and line")?,
            }
        }
        other => writeln!(out, "unknown command {other}; see .help")?,
    }
    Ok(true)
}
