//! What the server tells about itself: its log, its metrics, and an id for every request.
//!
//! Paths can hold secrets (device tokens), so logs and metrics name the route's pattern and never the path.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use metrics::{Counter, Histogram};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use muster_clock::Randomness;
use muster_http::{ClientAddress, Problem};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing_subscriber::EnvFilter;

/// The header that carries a request's id in both directions. The listener takes it off what no trusted proxy sent.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id of a client that is taken over, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 64;
/// Buckets of durations, in seconds.
const BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// The same of the database, which answers most statements within less.
const DATABASE_BUCKETS: &[f64] = &[
    0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0,
];

/// How often measurements are put into buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Begins logging to standard error. Later calls do nothing: tests start several servers in one process.
pub fn begin_logging(
    json: bool,
    level: &str,
) -> Result<(), tracing_subscriber::filter::ParseError> {
    // Libraries beneath would drown what the server itself has to say; name them to hear them.
    let quiet = "h2=info,hyper=info,hyper_util=info,rustls=info,tungstenite=info,sqlx=warn";
    let directives = if level.contains(['=', ',']) {
        level.to_owned()
    } else {
        format!("{level},{quiet}")
    };
    let filter = EnvFilter::builder().parse(directives)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let _ = if json {
        builder.json().try_init()
    } else {
        builder.with_target(false).try_init()
    };
    Ok(())
}

/// The metrics of this process.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Begins counting. The recorder is the process's; several servers in one process share it.
    pub fn begin() -> Self {
        static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
        let handle = HANDLE.get_or_init(|| {
            let recorder = recorder();
            let handle = recorder.handle();
            // Another recorder can be there only in a program that embeds the server; then that one counts.
            let _ = metrics::set_global_recorder(recorder);
            describe();
            handle
        });
        Self {
            handle: handle.clone(),
        }
    }

    /// All metrics in Prometheus's text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Puts what was measured into buckets now and then until `stop`: else every measurement since the last time
    /// somebody asked would be kept.
    pub async fn run(&self, stop: CancellationToken) {
        let mut timer = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timer.tick() => self.handle.run_upkeep(),
            }
        }
    }
}

fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new()
        .set_buckets(BUCKETS)
        .expect("there are buckets")
        .set_buckets_for_metric(
            Matcher::Prefix("muster_database_".to_owned()),
            DATABASE_BUCKETS,
        )
        .expect("there are buckets")
        .build_recorder()
}

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(
        "muster_http_requests_total",
        Unit::Count,
        "Requests by route, method and class of status"
    );
    describe_counter!(
        "muster_check_ins_total",
        Unit::Count,
        "Times that a host asked whether there is something to do, and was answered"
    );
    describe_histogram!(
        "muster_http_request_duration_seconds",
        Unit::Seconds,
        "Time to answer, by route"
    );
    describe_counter!(
        "muster_database_statements_total",
        Unit::Count,
        "Statements run on the database"
    );
    describe_gauge!(
        "muster_database_up",
        Unit::Count,
        "1 when the database answered the last time it was asked"
    );
    describe_gauge!(
        "muster_bus_up",
        Unit::Count,
        "1 while hints of other servers arrive"
    );
    describe_gauge!(
        "muster_bus_replicas",
        Unit::Count,
        "Servers that were heard on the bus in the last seconds, this one included"
    );
    describe_gauge!(
        "muster_bus_waiting_hints",
        Unit::Count,
        "Hints that wait to be sent to other servers"
    );
    describe_counter!(
        "muster_bus_losses_total",
        Unit::Count,
        "How often hints may have been lost: everybody then looks at the database"
    );
    describe_gauge!(
        "muster_bus_round_trip_seconds",
        Unit::Seconds,
        "How long the newest message took over the bus and back"
    );
    describe_counter!(
        "muster_device_bans_total",
        Unit::Count,
        "Addresses that were banned for a minute since many wrong device tokens came from there"
    );
    describe_counter!(
        "muster_device_errors_total",
        Unit::Count,
        "Errors that desktop apps of hosts reported"
    );
    crate::gauges::describe();
    describe_gauge!(
        "muster_build_info",
        Unit::Count,
        "1, with the release as a label"
    );
    describe_gauge!(
        "muster_process_resident_memory_bytes",
        Unit::Bytes,
        "Memory of this process"
    );
    describe_gauge!(
        "muster_process_start_time_seconds",
        Unit::Seconds,
        "When this process began, since 1970"
    );
}

/// Watches requests: gives them ids, counts and times them, logs them.
#[derive(Clone)]
pub struct Observer(Arc<Inner>);

struct Inner {
    /// Where ids begin: other processes do not make the same.
    start: u64,
    number: AtomicU64,
    /// Looking up a metric by its labels costs more than many requests do: each route's are looked up once.
    routes: RwLock<HashMap<String, Arc<RouteMetrics>>>,
}

/// What is counted for one route.
struct RouteMetrics {
    duration: Histogram,
    requests: [[OnceLock<Counter>; CLASSES.len()]; METHODS.len()],
    /// Set for the route by which osquery asks whether there is something to do.
    check_ins: Option<Counter>,
}

/// The methods that become labels; others are the client's word and count together.
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other",
];
/// The classes of answers.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// The route of requests that no route serves.
const NO_ROUTE: &str = "none";

impl RouteMetrics {
    fn new(route: &str) -> Self {
        let is_check_in = route.ends_with("/osquery/distributed/read");
        let labels = [("route", route.to_owned())];
        Self {
            duration: metrics::histogram!("muster_http_request_duration_seconds", &labels),
            requests: Default::default(),
            check_ins: is_check_in.then(|| metrics::counter!("muster_check_ins_total")),
        }
    }

    fn count(&self, route: &str, method: &str, status: StatusCode, elapsed: Duration) {
        let known = METHODS.iter().position(|known| *known == method);
        let method = known.unwrap_or(METHODS.len() - 1);
        let class = usize::from(status.as_u16() / 100 - 1).min(CLASSES.len() - 1);
        let counter = self.requests[method][class].get_or_init(|| {
            let labels = [
                ("route", route.to_owned()),
                ("method", METHODS[method].to_owned()),
                ("status", CLASSES[class].to_owned()),
            ];
            metrics::counter!("muster_http_requests_total", &labels)
        });
        counter.increment(1);
        self.duration.record(elapsed.as_secs_f64());
        if let Some(check_ins) = &self.check_ins
            && status.is_success()
        {
            check_ins.increment(1);
        }
    }
}

impl Observer {
    /// Nothing seen yet.
    pub fn new(randomness: &dyn Randomness) -> Self {
        let mut start = [0; 8];
        randomness.fill(&mut start);
        Self(Arc::new(Inner {
            start: u64::from_le_bytes(start),
            number: AtomicU64::new(0),
            routes: RwLock::default(),
        }))
    }

    fn next_id(&self) -> String {
        let number = self.0.number.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}-{number:x}", self.0.start)
    }

    fn route(&self, route: &str) -> Arc<RouteMetrics> {
        let routes = &self.0.routes;
        let known = routes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(route)
            .cloned();
        known.unwrap_or_else(|| {
            let mut routes = routes.write().unwrap_or_else(PoisonError::into_inner);
            let metrics = routes
                .entry(route.to_owned())
                .or_insert_with(|| Arc::new(RouteMetrics::new(route)));
            Arc::clone(metrics)
        })
    }
}

/// Middleware on every route: gives the request an id, counts and times it, and logs it at level debug, or at info when
/// a fault of ours kept it from being answered. The answer carries the id.
pub async fn observe(
    State(observer): State<Observer>,
    mut request: Request,
    next: Next,
) -> Response {
    let given = request
        .headers()
        .get(&REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    let allowed = |text: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !text.is_empty() && text.len() <= MAX_REQUEST_ID_BYTES && text.bytes().all(plain)
    };
    let id = given
        .filter(allowed)
        .map_or_else(|| observer.next_id(), str::to_owned);
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    let method = request.method().clone();
    let address = request.extensions().get::<ClientAddress>().copied();
    let header = HeaderValue::from_str(&id).ok();
    if let Some(value) = &header {
        request.headers_mut().insert(REQUEST_ID, value.clone());
    }
    // At the highest level: a log that is told little still has the id in each line.
    let span = tracing::error_span!("request", request.id = %id);
    let start = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let elapsed = start.elapsed();
    let status = response.status();
    if let Some(problem) = response.extensions().get::<Problem>() {
        // Codes are words of the program: their number is bounded.
        metrics::counter!("muster_refusals_total", "reason" => problem.code()).increment(1);
    }
    observer
        .route(route)
        .count(route, method.as_str(), status, elapsed);
    let _entered = span.enter();
    let duration_ms = elapsed.as_secs_f64() * 1_000.0;
    let address = address.as_ref().map(tracing::field::display);
    let (method, status) = (method.as_str(), status.as_u16());
    if status >= 500 {
        tracing::info!(
            http.route = route,
            http.method = method,
            http.status = status,
            client.address = address,
            duration_ms,
            "answered with a fault"
        );
    } else {
        tracing::debug!(
            http.route = route,
            http.method = method,
            http.status = status,
            client.address = address,
            duration_ms,
            "answered"
        );
    }
    if let Some(value) = header {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}
