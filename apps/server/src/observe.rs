//! What the server tells about itself: its log, its metrics, and an id for every request.
//!
//! Paths can hold secrets (device tokens), so logs and metrics name the route's pattern and never the path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use muster_clock::Randomness;
use muster_http::ClientAddress;
use tracing::Instrument as _;
use tracing_subscriber::EnvFilter;

/// The header that carries a request's id in both directions.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id of a client that is taken over, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 64;
/// Buckets of durations, in seconds.
const BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Begins logging to standard error. Later calls do nothing: tests start several servers in one process.
pub fn begin_logging(
    json: bool,
    level: &str,
) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::builder().parse(level)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
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
        use std::sync::OnceLock;
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
        self.handle.run_upkeep();
        self.handle.render()
    }
}

fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new()
        .set_buckets(BUCKETS)
        .expect("there are buckets")
        .build_recorder()
}

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(
        "muster_http_requests_total",
        Unit::Count,
        "Requests by route, method and status"
    );
    describe_histogram!(
        "muster_http_request_duration_seconds",
        Unit::Seconds,
        "Time to answer, by route"
    );
    describe_gauge!(
        "muster_database_statements",
        Unit::Count,
        "Statements run since the start"
    );
    describe_gauge!(
        "muster_database_up",
        Unit::Count,
        "1 when the database answered the last time it was asked"
    );
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

/// Makes ids of requests: a random start and a counter.
#[derive(Clone)]
pub struct RequestIds(Arc<(u64, AtomicU64)>);

impl RequestIds {
    /// Ids that other processes do not make.
    pub fn new(randomness: &dyn Randomness) -> Self {
        let mut start = [0; 8];
        randomness.fill(&mut start);
        Self(Arc::new((u64::from_le_bytes(start), AtomicU64::new(0))))
    }

    fn next(&self) -> String {
        let number = self.0.1.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}-{number:x}", self.0.0)
    }
}

/// Middleware on every route: gives the request an id, counts and times it, and logs it at level debug, or at info when
/// it was refused by a fault of ours. The answer carries the id.
pub async fn observe(State(ids): State<RequestIds>, mut request: Request, next: Next) -> Response {
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
        .map_or_else(|| ids.next(), str::to_owned);
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().as_str().to_owned();
    let address = request
        .extensions()
        .get::<ClientAddress>()
        .map(ToString::to_string)
        .unwrap_or_default();
    if let Ok(value) = HeaderValue::from_str(&id) {
        request.headers_mut().insert(REQUEST_ID, value);
    }
    let span = tracing::info_span!("request", request.id = %id);
    let start = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let elapsed = start.elapsed();
    let status = response.status();
    count(&route, &method, status.as_u16(), elapsed);
    let _entered = span.enter();
    let duration_ms = elapsed.as_secs_f64() * 1_000.0;
    if status.is_server_error() {
        tracing::info!(
            http.route = route,
            http.method = method,
            http.status = status.as_u16(),
            client.address = address,
            duration_ms,
            "answered with a fault"
        );
    } else {
        tracing::debug!(
            http.route = route,
            http.method = method,
            http.status = status.as_u16(),
            client.address = address,
            duration_ms,
            "answered"
        );
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

fn count(route: &str, method: &str, status: u16, elapsed: Duration) {
    // Methods are the client's word; only the usual ones become labels.
    const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let method = METHODS
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("other");
    let labels = [
        ("route", route.to_owned()),
        ("method", method.to_owned()),
        ("status", status.to_string()),
    ];
    metrics::counter!("muster_http_requests_total", &labels).increment(1);
    metrics::histogram!("muster_http_request_duration_seconds", "route" => route.to_owned())
        .record(elapsed.as_secs_f64());
}
