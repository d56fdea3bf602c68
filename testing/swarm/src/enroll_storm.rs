//! Hosts that enroll all at once, while others check in: what the others notice of it.

use std::sync::Arc;
use std::time::Duration;

use muster_clock::{Randomness as _, SeededRandomness};

use crate::host::{Host, Target};
use crate::measure::Measures;
use crate::server::Server;
use crate::{Failure, ServerOptions};

/// How long the others settle before.
const SETTLE: Duration = Duration::from_secs(40);

#[derive(Debug, clap::Args)]
pub(crate) struct EnrollStorm {
    /// How many hosts enroll, and check in from then on.
    #[arg(long, default_value_t = 10_000)]
    hosts: u32,
    /// Within how many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many others check in meanwhile.
    #[arg(long, default_value_t = 1_000)]
    others: u32,
    /// What decides the hosts' names and phases.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What is measured.
    #[command(flatten)]
    server: ServerOptions,
}

/// Gives what went wrong, if anything did.
pub(crate) async fn run(options: &EnrollStorm) -> Result<Option<String>, Failure> {
    let server = Server::start(&options.server).await?;
    let operator = server.operator().await?;
    let secret = operator.enrollment_secret().await?;
    let target = Arc::new(Target::new(server.address, &server.authority_pem, secret)?);
    let (others, storm) = (Arc::new(Measures::default()), Arc::new(Measures::default()));
    let randomness = SeededRandomness::new(options.seed);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut hosts = tokio::task::JoinSet::new();
    let mut begin = |first: u32, count: u32, span: Duration, measures: &Arc<Measures>| {
        for number in first..first + count {
            let (target, measures) = (Arc::clone(&target), Arc::clone(measures));
            let host = Host::new(number, options.seed, target, measures);
            let delay = Duration::from_millis(randomness.below(span.as_millis() as u64));
            hosts.spawn(host.live(delay, stopped.clone()));
        }
    };
    begin(0, options.others, SETTLE / 4, &others);
    tokio::time::sleep(SETTLE).await;
    others.begin();
    storm.begin();
    let before = server.cost()?;
    begin(
        options.others,
        options.hosts,
        Duration::from_secs(options.seconds),
        &storm,
    );
    tokio::time::sleep(Duration::from_secs(options.seconds + 2)).await;
    let after = server.cost()?;
    others.end();
    let total = operator.get("/hosts?limit=1").await?["total"]
        .as_u64()
        .unwrap_or(0);
    let expected = u64::from(options.others) + u64::from(options.hosts);
    let seconds = options.seconds + 2;
    let noticed = others.report((options.others, 0.0), seconds, &before, &after);
    let enrolled = storm.report((options.hosts, 0.0), seconds, &before, &after);
    println!(
        "enrolled             {} of {} in {} s",
        enrolled.enrolled, options.hosts, options.seconds
    );
    println!("hosts in the server  {total} ({expected} are right)");
    println!(
        "failed               {} of the storm, {} of the others",
        enrolled.errors, noticed.errors
    );
    println!(
        "storm p50, p99       {:.2} ms, {:.2} ms",
        enrolled.p50_ms, enrolled.p99_ms
    );
    println!(
        "others p50, p99      {:.2} ms, {:.2} ms",
        noticed.p50_ms, noticed.p99_ms
    );
    println!("server CPU           {:.2} s", noticed.cpu_seconds());
    println!(
        "server RSS           {:.1} MiB",
        noticed.rss_bytes as f64 / (1024.0 * 1024.0)
    );
    let _ = stop.send(true);
    hosts.shutdown().await;
    server.stop().await?;
    if noticed.errors + enrolled.errors > 0 {
        let first = if enrolled.errors > 0 {
            enrolled.first_error
        } else {
            noticed.first_error
        };
        return Ok(Some(format!("requests failed; the first: {first}")));
    }
    Ok((total != expected).then(|| "hosts are missing or doubled".to_owned()))
}
