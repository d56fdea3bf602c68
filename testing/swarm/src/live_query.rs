//! One question to hosts that hold a notification socket: how long until every answer is in one stream.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::host::{Host, Target};
use crate::measure::Measures;
use crate::server::Server;
use crate::{Failure, ServerOptions};

/// How many hosts enroll at a time.
const AT_A_TIME: usize = 64;
/// How long all hosts may take to answer before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub(crate) struct LiveQuery {
    /// How many hosts.
    #[arg(long, default_value_t = 10_000)]
    hosts: u32,
    /// How many questions, one after the other.
    #[arg(long, default_value_t = 3)]
    questions: u32,
    /// What decides the hosts' names.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What is measured.
    #[command(flatten)]
    server: ServerOptions,
}

/// A host that asks whenever its socket says so.
async fn listen(
    mut host: Host,
    key: String,
    measures: Arc<Measures>,
    ready: tokio::sync::mpsc::Sender<()>,
) {
    let socket = async {
        let stream = host
            .target()
            .stream()
            .await
            .map_err(|error| error.to_string())?;
        let mut request = "wss://localhost/api/fleet/orbit/muster_notify"
            .into_client_request()
            .map_err(|error| error.to_string())?;
        let proof = format!("NodeKey {key}").parse();
        request
            .headers_mut()
            .insert("authorization", proof.map_err(|_| "a key".to_owned())?);
        let opened = tokio_tungstenite::client_async(request, stream).await;
        opened
            .map(|(socket, _)| socket)
            .map_err(|error| error.to_string())
    };
    let mut socket = match socket.await {
        Ok(socket) => socket,
        Err(error) => return measures.failed(&error),
    };
    // What is due to every new host comes first.
    for _ in 0..2 {
        if let Err(error) = host.check_in().await {
            measures.failed(&error);
        }
    }
    let _ = ready.send(()).await;
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text()
            && let Err(error) = host.check_in().await
        {
            measures.failed(&error);
        }
    }
}

/// Gives what went wrong, if anything did.
pub(crate) async fn run(options: &LiveQuery) -> Result<Option<String>, Failure> {
    let server = Server::start(&options.server).await?;
    let operator = server.operator().await?;
    let secret = operator.enrollment_secret().await?;
    let target = Arc::new(Target::new(server.address, &server.authority_pem, secret)?);
    let measures = Arc::new(Measures::default());
    let (ready, mut listening) = tokio::sync::mpsc::channel(1_000);
    let mut hosts = tokio::task::JoinSet::new();
    let mut enrolling = futures_util::stream::iter(0..options.hosts)
        .map(|number| {
            let (target, measures) = (Arc::clone(&target), Arc::clone(&measures));
            async move {
                let mut host = Host::new(number, options.seed, target, measures)
                    .enroll_only()
                    .await?;
                let key = host.enroll_orbit().await?;
                Ok::<_, String>((host, key))
            }
        })
        .buffer_unordered(AT_A_TIME);
    let mut waiting = 0;
    while let Some(enrolled) = enrolling.next().await {
        let (host, key) = enrolled?;
        hosts.spawn(listen(host, key, Arc::clone(&measures), ready.clone()));
        waiting += 1;
        while listening.try_recv().is_ok() {
            waiting -= 1;
        }
    }
    while waiting > 0 {
        let _ = listening.recv().await;
        waiting -= 1;
    }
    let mut fault = None;
    for question in 1..=options.questions {
        let before = server.cost()?;
        let begun = Instant::now();
        let body = json!({ "query": "SELECT 1", "target": { "all": true } });
        let campaign = operator.post("/campaigns", &body).await?;
        let asked = begun.elapsed();
        let answered =
            tokio::time::timeout(PATIENCE, read(&operator, &campaign["id"], begun)).await;
        let (by, first) = answered.map_err(|_| "not all hosts answered in time")??;
        let all = begun.elapsed();
        let cost = server.cost()?;
        println!(
            "question {question}: asked after {:.0} ms, first answer {:.0} ms, all {} of {} answers {:.0} ms; \
             server CPU {:.2} s, RSS {:.0} MiB",
            asked.as_secs_f64() * 1e3,
            first.as_secs_f64() * 1e3,
            by,
            options.hosts,
            all.as_secs_f64() * 1e3,
            cost.all_cpu_seconds() - before.all_cpu_seconds(),
            cost.rss_bytes as f64 / (1024.0 * 1024.0),
        );
        if by != options.hosts as usize {
            fault = Some(format!("{by} of {} hosts answered", options.hosts));
        }
    }
    let report = measures.report((options.hosts, 0.0), 1, &server.cost()?, &server.cost()?);
    hosts.shutdown().await;
    server.stop().await?;
    if report.errors > 0 {
        return Ok(Some(format!(
            "{} requests failed; the first: {}",
            report.errors, report.first_error
        )));
    }
    Ok(fault)
}

/// Reads the stream to its end; gives how many hosts answered, and when the first did.
async fn read(
    operator: &crate::server::Operator,
    id: &Value,
    begun: Instant,
) -> Result<(usize, Duration), Failure> {
    let mut response = operator.open(&format!("/campaigns/{id}/stream")).await?;
    let mut by = BTreeSet::new();
    let mut first = Duration::ZERO;
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        text.extend_from_slice(&chunk);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let Ok(event) = serde_json::from_slice::<Value>(&line) else {
                continue;
            };
            let result = &event["result"];
            if let Some(host) = result["host_id"].as_i64() {
                if by.is_empty() {
                    first = begun.elapsed();
                }
                by.insert(host);
            }
        }
    }
    Ok((by.len(), first))
}
