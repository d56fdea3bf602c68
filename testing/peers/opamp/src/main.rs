//! Real OpAMP clients against a real server over TLS: prints one line for each client and property.
//!
//! Each client has a server of its own, as a process with its own data folder, and comes twice, so that one can be revoked while
//! its neighbour goes on. All clients run side by side. What a client is expected to do is known from running it against other
//! servers, never taken from ours; that a property holds is read where it shows: in what the client prints, or in what an
//! operator sees by the native API.
//!
//! Not responsible for having the clients: `cargo xtask peers install opamp` makes them.

mod agent;
mod cases;
mod launch;
mod properties;
mod report;
mod scene;
mod server;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use report::Report;

/// What goes wrong here is for people.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs OpAMP clients against servers of ours and prints what each of them found.
#[derive(Parser)]
struct Arguments {
    /// The program that serves.
    #[arg(long, value_name = "FILE")]
    server: PathBuf,
    /// A client and the folder that it is in (may be given several times).
    #[arg(long = "peer", value_name = "NAME=FOLDER", value_parser = peer)]
    peers: Vec<(String, PathBuf)>,
    /// Where logs are left.
    #[arg(long, value_name = "FOLDER")]
    logs: PathBuf,
}

fn peer(text: &str) -> Result<(String, PathBuf), String> {
    let (name, folder) = text.split_once('=').ok_or("write NAME=FOLDER")?;
    Ok((name.to_owned(), folder.into()))
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let peers: BTreeMap<String, PathBuf> = arguments.peers.into_iter().collect();
    let bench = server::Bench {
        server: arguments.server,
        logs: arguments.logs,
        peers,
    };
    if let Err(error) = bench.clear() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    let report = Report::default();
    let cases = cases::ALL.iter().filter(|case| {
        case.needs
            .iter()
            .all(|peer| bench.peers.contains_key(*peer))
    });
    futures_util::future::join_all(cases.map(|case| properties::judge(case, &bench, &report)))
        .await;
    let (passed, failed) = report.counts();
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
