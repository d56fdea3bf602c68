//! A server that starts with many hosts in its database: how long until the first check-in is answered.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt as _;

use crate::host::{Host, Target};
use crate::measure::Measures;
use crate::server::Server;
use crate::{Failure, ServerOptions};

/// How many hosts enroll at a time.
const AT_A_TIME: usize = 32;

#[derive(Debug, clap::Args)]
pub(crate) struct ColdStart {
    /// How many hosts are in the database. Enrolling them takes some minutes.
    #[arg(long, default_value_t = 100_000)]
    hosts: u32,
    /// What decides the hosts' names.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What is measured.
    #[command(flatten)]
    server: ServerOptions,
}

/// Gives what went wrong, if anything did.
pub(crate) async fn run(options: &ColdStart) -> Result<Option<String>, Failure> {
    let server = Server::start(&options.server).await?;
    let secret = server.operator().await?.enrollment_secret().await?;
    let target = Arc::new(Target::new(
        server.address,
        &server.authority_pem,
        secret.clone(),
    )?);
    let measures = Arc::new(Measures::default());
    let begun = Instant::now();
    let mut enrolling = futures_util::stream::iter(0..options.hosts)
        .map(|number| {
            let (target, measures) = (Arc::clone(&target), Arc::clone(&measures));
            Host::new(number, options.seed, target, measures).enroll_only()
        })
        .buffer_unordered(AT_A_TIME);
    let mut some = None;
    while let Some(enrolled) = enrolling.next().await {
        some = Some(enrolled?);
    }
    println!(
        "enrolled             {} hosts in {:.0} s",
        options.hosts,
        begun.elapsed().as_secs_f64()
    );
    let host = some.ok_or("no host enrolled")?;
    let begun = Instant::now();
    let server = server.restart().await?;
    let listened = begun.elapsed();
    let target = Arc::new(Target::new(server.address, &server.authority_pem, secret)?);
    let mut host = host.moved_to(target);
    host.check_in().await?;
    let answered = begun.elapsed();
    let cost = server.cost()?;
    println!(
        "listens after        {:.0} ms",
        listened.as_secs_f64() * 1e3
    );
    println!(
        "first check-in after {:.0} ms",
        answered.as_secs_f64() * 1e3
    );
    println!(
        "server RSS           {:.1} MiB",
        cost.rss_bytes as f64 / (1024.0 * 1024.0)
    );
    server.stop().await?;
    Ok(None)
}
