//! The program `muster-agent`.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use muster_agent::config::{Cli, Command, QueryArgs, RunArgs};
use muster_agent::session::Session;
use muster_agent::{output, shell};
use muster_clock::{SystemClock, SystemRandomness};
use muster_tables::{AgentFacts, CancelFlag, Engine, EngineOptions, Limits};
use tokio::signal::unix::{SignalKind, signal};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run(*args),
        Command::Query(args) => query(&args),
        Command::Shell => engine(Limits::default()).and_then(|engine| shell::run(&engine)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("muster-agent: {error}");
            let mut source = error.source();
            while let Some(inner) = source {
                text = format!("{text}: {inner}");
                source = inner.source();
            }
            let _ = writeln!(io::stderr(), "{text}");
            ExitCode::FAILURE
        }
    }
}

fn engine(limits: Limits) -> Result<Engine, Failure> {
    let facts = AgentFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..AgentFacts::default()
    };
    Ok(Engine::new(EngineOptions {
        limits,
        facts,
        ..EngineOptions::default()
    })?)
}

fn query(args: &QueryArgs) -> Result<(), Failure> {
    let limits = Limits {
        wall_time: Duration::from_secs(args.timeout),
        rows: 10_000_000,
        bytes: 1 << 30,
        ..Limits::default()
    };
    let engine = engine(limits.clone())?;
    let result = engine.query_with(&args.sql, &limits, &CancelFlag::new())?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let printed = output::print(&mut out, &result, args.mode()).and_then(|()| out.flush());
    match printed {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        done => done?,
    }
    for warning in &result.warnings {
        let _ = writeln!(io::stderr(), "warning: {warning}");
    }
    Ok(())
}

fn run(args: RunArgs) -> Result<(), Failure> {
    let settings = args.settings(std::env::var("MUSTER_AGENT_ENROLLMENT_TOKEN").ok())?;
    // Libraries beneath would drown what the agent itself has to say; name them to hear them.
    let quiet = "h2=info,hyper=info,hyper_util=info,reqwest=info,rustls=info,tungstenite=info";
    let level = &settings.log_level;
    let directives = if level.contains(['=', ',']) {
        level.clone()
    } else {
        format!("{level},{quiet}")
    };
    let filter = tracing_subscriber::EnvFilter::builder().parse(directives)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    // One thread for the network is plenty, and small; queries have their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let session = Session::new(settings, Arc::new(SystemClock), Arc::new(SystemRandomness))?;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            let _ = stop.send(true);
        });
        session.run(stopped).await?;
        tracing::info!("stopped");
        Ok(())
    })
}
