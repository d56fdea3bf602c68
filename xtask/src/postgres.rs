//! `cargo xtask postgres`: a private PostgreSQL server for tests.
//!
//! It lives in cargo's build folder (or below `$MUSTER_CACHE`), listens on a free port of 127.0.0.1 and on a socket in
//! its own folder, trusts everybody there, and does not wait for the disk: what it holds is worth nothing. A server
//! that the machine has anyway is never touched.
//!
//! PostgreSQL refuses to run as root, so root hands the folder and the processes to the user `postgres`.
//!
//! Not responsible for the databases on it: each test makes its own.

mod cluster;
mod session;

pub(crate) use cluster::find_binaries;
pub(crate) use session::Session;

use std::time::Instant;

use clap::{Args, Subcommand};

use crate::error::XtaskError;
use crate::workspace::Workspace;
use cluster::{Cluster, Contents};

/// Names the server on which tests may make databases; `muster_store::testing` reads it.
pub(crate) const VARIABLE: &str = "MUSTER_TEST_POSTGRES";
/// The program that tells that the server is installed.
pub(crate) const SERVER_PROGRAM: &str = "postgres";

/// A private PostgreSQL server for tests, in the build folder.
///
/// `cargo xtask test` starts and stops its own; this is for running single tests by hand.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  export MUSTER_TEST_POSTGRES=$(cargo xtask postgres start)
  cargo test --workspace --test store
  cargo xtask postgres url
  cargo xtask postgres stop

The cluster is target/postgres, or $MUSTER_CACHE/postgres when MUSTER_CACHE is set.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start it unless it runs, and print its URL.
    Start {
        /// Throw away what an earlier run left (only if it does not run).
        #[arg(long)]
        fresh: bool,
    },
    /// Stop it if it runs.
    Stop,
    /// Print its URL; fails when it does not run.
    Url,
}

pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<(), XtaskError> {
    let begun = Instant::now();
    let cluster = Cluster::locate(workspace)?;
    match arguments.verb {
        Verb::Start { fresh } => {
            let contents = if fresh {
                Contents::Fresh
            } else {
                Contents::Kept
            };
            let (server, started) = cluster.start(contents)?;
            // Only the URL goes to the standard output, so that a shell can take it.
            eprintln!(
                "PostgreSQL {} (process {}, {:.1} s)",
                if started { "started" } else { "runs already" },
                server.pid(),
                begun.elapsed().as_secs_f64()
            );
            println!("{}", server.url());
        }
        Verb::Stop => {
            let stopped = cluster.stop()?;
            eprintln!(
                "PostgreSQL {} ({:.1} s)",
                if stopped {
                    "stopped"
                } else {
                    "was not running"
                },
                begun.elapsed().as_secs_f64()
            );
        }
        Verb::Url => match cluster.running() {
            Some(server) => println!("{}", server.url()),
            None => {
                return Err(XtaskError::Postgres(String::from(
                    "it does not run; start it with `cargo xtask postgres start`",
                )));
            }
        },
    }
    Ok(())
}
