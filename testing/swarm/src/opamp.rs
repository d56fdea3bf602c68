//! Agents that speak OpAMP: a fleet that comes all at once with one shared token, gets keys of its own, and then sends
//! heartbeats.

mod agent;
mod figures;
mod line;
mod said;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use muster_clock::{Randomness as _, SeededRandomness};
use serde_json::json;
use tokio::time::Instant;

use crate::host::Target;
use crate::measure::Cost;
use crate::server::{Operator, Server};
use crate::{Failure, ServerOptions};

use agent::{Agent, Common};
use figures::{Figures, Report, Rollout, Run, ServerCounts};

/// How long all may take until they have their own key, before the rest is measured without them.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked whether all have it.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often it is looked how far a configuration is: it is counted over all of them.
const ROLLOUT_LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// For how many seconds a collector has to be healthy with it: the least that there is.
const SOAK_SECONDS: u32 = 5;
/// What all are given: of components that they have.
const CONFIGURATION: &str = "\
receivers: {otlp: {protocols: {grpc: {}}}}
processors: {batch: {timeout: 10s}}
exporters: {debug: {}}
service: {pipelines: {logs: {receivers: [otlp], processors: [batch], exporters: [debug]}}}
";
/// How often agents are heard by default, in seconds: what the server offers when nobody says otherwise.
const HEARTBEAT_SECONDS: u64 = 30;

/// By what agents come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Carrier {
    /// A socket for each, kept.
    #[default]
    Websocket,
    /// Requests over a connection for each, kept.
    Http,
}

impl Carrier {
    fn scheme(self) -> &'static str {
        match self {
            Self::Websocket => "wss",
            Self::Http => "https",
        }
    }

    /// The server's own count of what agents hold.
    fn gauge(self) -> &'static str {
        match self {
            Self::Websocket => "muster_collectors_sockets",
            Self::Http => "muster_connections",
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Opamp {
    /// How many agents.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    agents: u32,
    /// How long is measured, in seconds, after all have their own key and settled for the time of a heartbeat.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Within how many seconds they come; 0 is all at once.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    start_period: u64,
    /// How many heartbeats of a hundred tell a changed health, which the server has to write.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=100))]
    changed_health: u64,
    /// How often agents are heard, in seconds; the server is told to offer that.
    #[arg(long, default_value_t = HEARTBEAT_SECONDS, value_parser = clap::value_parser!(u64).range(5..=3_600))]
    heartbeat: u64,
    /// By what they come.
    #[arg(long, value_enum, default_value_t)]
    carrier: Carrier,
    /// Assign a configuration to all of them when what is measured begins, and tell how long it takes until all run it well.
    #[arg(long)]
    rollout: bool,
    /// What decides the agents' uids and phases. A database that knows them already takes them for agents that come back.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What is measured.
    #[command(flatten)]
    server: ServerOptions,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What agents do.
struct Plan {
    agents: u32,
    seed: u64,
    carrier: Carrier,
    start_period: Duration,
    /// How often they are heard; none for what they are offered.
    heartbeat: Option<Duration>,
    /// How long they settle once all have come.
    settle: Duration,
    /// How long is measured then.
    steady: Duration,
    /// How many heartbeats that makes for each agent.
    beats: f64,
    changes_percent: u64,
    /// Whether all are given a configuration then.
    rolls_out: bool,
}

/// Gives what makes the figures worthless, if anything does.
pub(crate) async fn run(options: &Opamp) -> Result<Option<String>, Failure> {
    let heartbeat = format!("{}s", options.heartbeat);
    let settings = [("MUSTER_OPAMP_HEARTBEAT", heartbeat.as_str())];
    let server = Server::start_with(&options.server, &settings).await?;
    let operator = server.operator().await?;
    let token = operator.collector_token().await?;
    let target = Target::new(server.address, &server.authority_pem, token)?;
    let plan = Plan {
        agents: options.agents,
        seed: options.seed,
        carrier: options.carrier,
        start_period: Duration::from_secs(options.start_period),
        heartbeat: None,
        settle: Duration::from_secs(options.heartbeat),
        steady: Duration::from_secs(options.seconds),
        beats: options.seconds as f64 / options.heartbeat as f64,
        changes_percent: options.changed_health,
        rolls_out: options.rollout,
    };
    let report = measure(&plan, target, &operator, || server.cost()).await?;
    if options.json {
        println!("{:#}", report.json());
    } else {
        print!("{}", report.text());
    }
    server.stop().await?;
    Ok(report.fault())
}

/// Puts the load on a server.
async fn measure(
    plan: &Plan,
    target: Target,
    operator: &Operator,
    cost: impl Fn() -> Result<Cost, Failure>,
) -> Result<Report, Failure> {
    let common = Arc::new(Common {
        target,
        carrier: plan.carrier,
        changes_percent: plan.changes_percent,
        rolls_out: plan.rolls_out,
        heartbeat: plan.heartbeat,
        figures: Figures::default(),
    });
    let figures = &common.figures;
    let randomness = SeededRandomness::new(plan.seed);
    let (before, begun) = (cost()?, Instant::now());
    let mut agents = tokio::task::JoinSet::new();
    for number in 0..plan.agents {
        let agent = Agent::new(number, plan.seed, Arc::clone(&common));
        let period_ms = u64::try_from(plan.start_period.as_millis())?;
        let delay = Duration::from_millis(randomness.below(period_ms.max(1)));
        agents.spawn(agent.live(delay));
    }
    let all = u64::from(plan.agents);
    while figures.own_keys() < all && begun.elapsed() < plan.start_period + PATIENCE {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    let until_all = (figures.own_keys() == all).then(|| begun.elapsed());
    let came = cost()?;
    tokio::time::sleep(plan.settle).await;
    let server_before = counts(operator, plan.carrier).await?;
    figures.begin();
    let (steady, steady_begun) = (cost()?, Instant::now());
    let ((), rollout) = tokio::join!(tokio::time::sleep(plan.steady), async {
        if plan.rolls_out {
            return roll_out(plan, operator, &cost).await.map(Some);
        }
        Ok(None)
    });
    let rollout = rollout?;
    let seconds = steady_begun.elapsed().as_secs_f64();
    let costs = [before, came, steady, cost()?];
    let report = figures.report(Run {
        agents: plan.agents,
        expected: f64::from(plan.agents) * plan.beats,
        seconds,
        until_all,
        costs,
        server: [server_before, counts(operator, plan.carrier).await?],
        rollout,
    });
    agents.shutdown().await;
    Ok(report)
}

/// Gives all agents a configuration, and waits until all run it well.
async fn roll_out(
    plan: &Plan,
    operator: &Operator,
    cost: impl Fn() -> Result<Cost, Failure>,
) -> Result<Rollout, Failure> {
    let before = (cost()?, counts(operator, plan.carrier).await?);
    let begun = Instant::now();
    let files = json!({ "collector.yaml": { "body": CONFIGURATION } });
    let made = operator
        .post(
            "/collector-configs",
            &json!({ "name": "swarm", "files": files }),
        )
        .await?;
    let id = &made["config"]["id"];
    let assignment =
        json!({ "configuration_id": id, "selector": "*", "soak_seconds": SOAK_SECONDS });
    operator
        .post("/collector-config-assignments", &assignment)
        .await?;
    let path = format!("/collector-configs/{id}");
    let mut until_all = None;
    while until_all.is_none() && begun.elapsed() < PATIENCE {
        tokio::time::sleep(ROLLOUT_LOOK_INTERVAL).await;
        let states = operator.get(&path).await?;
        if states["states"]["in_sync"] == plan.agents {
            until_all = Some(begun.elapsed());
        }
    }
    let after = (cost()?, counts(operator, plan.carrier).await?);
    Ok(Rollout {
        until_all,
        statements: after.1.statements - before.1.statements,
        cpu_seconds: after.0.cpu_seconds - before.0.cpu_seconds,
    })
}

/// What the server counts, from its metrics.
async fn counts(operator: &Operator, carrier: Carrier) -> Result<ServerCounts, Failure> {
    let text = operator.metrics().await?;
    let sum = |name: &str| -> f64 {
        let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        let of_name = lines.filter(|(series, _)| series.split('{').next() == Some(name));
        of_name
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum()
    };
    Ok(ServerCounts {
        sockets: sum(carrier.gauge()),
        statements: sum("muster_database_duration_seconds_count"),
    })
}
