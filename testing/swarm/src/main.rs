//! Simulated hosts from one seed, over real TLS: the load that benchmarks put on a server.
//!
//! Each host has a connection of its own that it keeps, enrolls, and then lives on one of two profiles. It answers the
//! details and live queries that it is asked. Agents that speak OpAMP hold a socket and send heartbeats. The server's
//! processor time and memory are read from the kernel, so that the figure does not depend on what else the machine does.

mod cold_start;
mod connection;
mod enroll_storm;
mod fleet;
mod host;
mod live_query;
mod measure;
mod opamp;
mod server;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use muster_clock::{Randomness as _, SeededRandomness};

use crate::host::{Host, Target};
use crate::measure::Measures;
use crate::server::Server;

/// Puts the load of a fleet on a server and says what it cost.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  muster-swarm check-in --hosts 2000 --seconds 60 --server-binary target/release/muster-server\n  \
    muster-swarm check-in --profile fleet --server-binary target/release/muster-server\n  \
    muster-swarm opamp --agents 10000 --seconds 120 --server-binary target/release/muster-server"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Hosts that check in: how many one core of the server carries.
    CheckIn(CheckIn),
    /// Hosts that enroll all at once, while others check in.
    EnrollStorm(enroll_storm::EnrollStorm),
    /// One question to hosts that hold a notification socket.
    LiveQuery(live_query::LiveQuery),
    /// How soon a server answers that starts with many hosts in its database.
    ColdStart(cold_start::ColdStart),
    /// Agents that speak OpAMP: how soon all have keys of their own, and what it costs to hold them.
    Opamp(opamp::Opamp),
}

/// The server under load.
#[derive(Debug, Clone, clap::Args)]
struct ServerOptions {
    /// The server to start.
    #[arg(long, value_name = "FILE")]
    server_binary: std::path::PathBuf,
    /// The database that the server uses; without it, the embedded one.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// The Redis by which it tells other servers what changed.
    #[arg(long, value_name = "URL")]
    bus: Option<String>,
    /// Count the processor time and memory of the processes of this name, too, such as postgres or redis-server, or of the
    /// process of this number and its children, where others of the name run beside it (may be repeated).
    #[arg(long, value_name = "NAME|NUMBER")]
    count: Vec<String>,
}

/// What a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Profile {
    /// What osquery does with Muster's default options, and a batch of results every 10 s.
    #[default]
    Osquery,
    /// What the hosts of Fleet's simulator of January 2025 do at its defaults: half of them with orbit, HTTP/2, a new
    /// connection every 10 s, logs only when queries are scheduled.
    Fleet,
}

#[derive(Debug, clap::Args)]
struct CheckIn {
    /// What a host does.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// How many hosts [default: 2000; fleet: 1000].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    hosts: Option<u32>,
    /// How long is measured, in seconds, after all have enrolled and settled [default: 60; fleet: 120].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: Option<u64>,
    /// Over how many seconds hosts enroll; also how long they settle before the measure begins, but no more than 30 s with
    /// the profile fleet [default: 20; fleet: 60].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    start_period: Option<u64>,
    /// How many queries run by schedule, each once a minute, with results that are logged. For the profile fleet.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    scheduled: u32,
    /// What decides the hosts' names and phases.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Open a new connection every 10 s instead of keeping one, as Fleet's simulator does: each is a whole handshake.
    #[arg(long)]
    reconnect: bool,
    /// What is measured.
    #[command(flatten)]
    server: ServerOptions,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    raise_file_limit();
    let command = Cli::parse().command;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = runtime.map_err(Failure::from).and_then(|runtime| {
        runtime.block_on(async {
            match command {
                Command::CheckIn(options) => check_in(&options).await,
                Command::EnrollStorm(options) => enroll_storm::run(&options).await,
                Command::LiveQuery(options) => live_query::run(&options).await,
                Command::ColdStart(options) => cold_start::run(&options).await,
                Command::Opamp(options) => opamp::run(&options).await,
            }
        })
    });
    match result {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(fault)) => {
            eprintln!("muster-swarm: {fault}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("muster-swarm: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Gives what makes the figures worthless, if anything does.
async fn check_in(options: &CheckIn) -> Result<Option<String>, Failure> {
    let is_fleet = options.profile == Profile::Fleet;
    let or_default = |given: Option<u64>, osquery, fleet| {
        given.unwrap_or(if is_fleet { fleet } else { osquery })
    };
    let count = options
        .hosts
        .unwrap_or(if is_fleet { 1_000 } else { 2_000 });
    let seconds = or_default(options.seconds, 60, 120);
    let start_period = or_default(options.start_period, 20, 60);
    let settle = if is_fleet {
        start_period.min(30)
    } else {
        start_period
    };
    let server = Server::start(&options.server).await?;
    let operator = server.operator().await?;
    let secret = operator.enrollment_secret().await?;
    for number in 0..options.scheduled {
        operator.schedule(number).await?;
    }
    let target = Target::new(server.address, &server.authority_pem, secret)?;
    let target = Arc::new(if is_fleet {
        target.with_http2()
    } else {
        target.reconnecting(options.reconnect)
    });
    let measures = Arc::new(Measures::default());
    let randomness = SeededRandomness::new(options.seed);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut hosts = tokio::task::JoinSet::new();
    let period_ms = start_period * 1_000;
    for number in 0..count {
        let host = Host::new(
            number,
            options.seed,
            Arc::clone(&target),
            Arc::clone(&measures),
        );
        let delay = Duration::from_millis(randomness.below(period_ms));
        if is_fleet {
            hosts.spawn(fleet::live(host, delay, stopped.clone()));
        } else {
            hosts.spawn(host.live(delay, stopped.clone()));
        }
    }
    let enrolling = server.cost()?;
    // Enrolling, and the details that follow, are another figure.
    tokio::time::sleep(Duration::from_secs(start_period + settle)).await;
    measures.begin();
    let before = server.cost()?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = server.cost()?;
    measures.end();
    // Hosts that see it end with the next thing they would do; the rest are dropped.
    let _ = stop.send(true);
    hosts.shutdown().await;
    let each = if is_fleet {
        fleet::requests_in(seconds, options.scheduled)
    } else {
        Host::requests_in(seconds)
    };
    let expected = f64::from(count) * each;
    let report = measures.report((count, expected), seconds, &before, &after);
    if options.json {
        println!("{:#}", report.json());
    } else {
        print!("{}", report.text());
        println!(
            "CPU of enrolling     {:.2} s",
            before.all_cpu_seconds() - enrolling.all_cpu_seconds()
        );
    }
    server.stop().await?;
    Ok(report.fault())
}

/// A connection per host needs as many files.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it large swarms fail with a clear error of the kernel.
    let _ = setrlimit(Resource::Nofile, limit);
}
