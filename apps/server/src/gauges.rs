//! Measurements that somebody has to take: how hosts stand, how full queues and disks are, when the certificate ends.
//!
//! Cheap ones are taken when the metrics are read. Counting hosts asks the database, so that it is done at intervals,
//! however often somebody reads.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use muster_http::error_chain;
use muster_queries::MAX_WAITING_ANSWERS_BYTES;
use muster_sinks::MAX_QUEUED_BYTES;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::services::Services;
use crate::tls::Tls;

/// How often hosts are counted.
pub const CENSUS_INTERVAL: Duration = Duration::from_secs(30);

/// Takes measurements.
#[derive(Clone)]
pub struct Gauges {
    services: Services,
    tls: Option<Arc<Tls>>,
    folders: [(&'static str, PathBuf); 2],
    max_connections: usize,
}

impl Gauges {
    /// Of a server.
    pub fn new(settings: &Settings, services: Services, tls: Option<Arc<Tls>>) -> Self {
        Self {
            services,
            tls,
            folders: [
                ("data", settings.data_dir.clone()),
                ("logs", settings.sink_folder.clone()),
            ],
            max_connections: settings.max_connections,
        }
    }

    /// Takes those that cost nothing.
    pub fn take(&self) {
        let services = &self.services;
        let queue = |name: &'static str, bytes: usize, most: usize| {
            metrics::gauge!("muster_queue_bytes", "queue" => name).set(bytes as f64);
            metrics::gauge!("muster_queue_max_bytes", "queue" => name).set(most as f64);
        };
        queue("host_logs", services.sink.waiting_bytes(), MAX_QUEUED_BYTES);
        let answers = services.queries.live.waiting_bytes();
        queue("answers", answers, MAX_WAITING_ANSWERS_BYTES);
        let marks = services.agents.check_in().presence().waiting();
        metrics::gauge!("muster_presence_waiting_hosts").set(marks as f64);
        let sockets = services.queries.notifier.count();
        metrics::gauge!("muster_notification_sockets").set(sockets as f64);
        let sockets = services.collectors.sockets();
        metrics::gauge!("muster_collectors_sockets").set(sockets as f64);
        metrics::gauge!("muster_connections_max").set(self.max_connections as f64);
        let (used, idle) = services.database.connections();
        for (state, count) in [("used", used), ("idle", idle)] {
            metrics::gauge!("muster_database_connections", "state" => state).set(f64::from(count));
        }
        if let Some(tls) = &self.tls
            && let Some(ends_at) = tls.ends_at()
        {
            metrics::gauge!("muster_certificate_end_time_seconds").set(ends_at as f64);
        }
        for (name, folder) in &self.folders {
            if let Ok(disk) = rustix::fs::statvfs(folder) {
                let free = disk.f_bavail.saturating_mul(disk.f_frsize);
                metrics::gauge!("muster_disk_free_bytes", "folder" => *name).set(free as f64);
                let all = disk.f_blocks.saturating_mul(disk.f_frsize);
                metrics::gauge!("muster_disk_size_bytes", "folder" => *name).set(all as f64);
            }
        }
    }

    /// Counts hosts now and then until `stop`. Every server of a database counts the same.
    pub async fn count_hosts(self, stop: CancellationToken) {
        let mut timer = tokio::time::interval(CENSUS_INTERVAL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timer.tick() => {}
            }
            match self.services.hosts.census().await {
                Ok(census) => {
                    metrics::gauge!("muster_hosts_enrolled").set(census.total as f64);
                    for (status, count) in [
                        ("online", census.online),
                        ("offline", census.offline),
                        ("missing", census.missing),
                        ("new", census.new),
                    ] {
                        metrics::gauge!("muster_hosts", "status" => status).set(count as f64);
                    }
                }
                // The numbers stay as they were; the database's own metrics tell that it is away.
                Err(error) => {
                    tracing::debug!(error = error_chain(&error), "hosts were not counted");
                }
            }
            self.count_collectors().await;
            self.count_config_states().await;
        }
    }
}

impl Gauges {
    async fn count_collectors(&self) {
        let counts = match self.services.collectors.counts().await {
            Ok(counts) => counts,
            Err(error) => {
                tracing::debug!(error = error_chain(&error), "collectors were not counted");
                return;
            }
        };
        for standing in ["enrolled", "waiting", "revoked"] {
            for key in ["none", "offered", "adopted", "not_adopting"] {
                let found = counts
                    .iter()
                    .find(|count| count.standing == standing && count.key_status == key);
                let (total, online) = found.map_or((0, 0), |count| (count.total, count.online));
                let labels = [("standing", standing), ("key", key)];
                metrics::gauge!("muster_collectors", &labels).set(total as f64);
                metrics::gauge!("muster_collectors_online", &labels).set(online as f64);
            }
        }
    }
}

impl Gauges {
    async fn count_config_states(&self) {
        match self.services.configurations.counts().await {
            Ok(counts) => {
                for state in muster_collectors::configurations::State::ALL {
                    let total = counts.get(state.name()).copied().unwrap_or(0);
                    let labels = [("state", state.name())];
                    metrics::gauge!("muster_collectors_config_states", &labels).set(total as f64);
                }
            }
            Err(error) => {
                tracing::debug!(
                    error = error_chain(&error),
                    "what collectors run was not counted"
                );
            }
        }
    }
}

/// Tells what the measurements mean.
pub(crate) fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    let gauges = [
        (
            "muster_hosts",
            "Hosts by status, counted every 30 s: online, offline, and of these missing (for long) and new (lately \
             enrolled). Every server of a database says the same",
        ),
        ("muster_hosts_enrolled", "All hosts, counted every 30 s"),
        ("muster_queue_bytes", "Bytes that wait to be kept, by queue"),
        (
            "muster_queue_max_bytes",
            "Bytes that may wait; more are told to come again",
        ),
        (
            "muster_presence_waiting_hosts",
            "Hosts that were heard and whose time is not written yet",
        ),
        (
            "muster_notification_sockets",
            "Sockets over which agents are told to ask now",
        ),
        (
            "muster_collectors",
            "Collectors by standing and by how far they are with keys of their own, counted every 30 s. Every server of a \
             database says the same",
        ),
        (
            "muster_collectors_online",
            "Those of them that were heard in time",
        ),
        (
            "muster_collectors_config_states",
            "Collectors by how far they are with the configuration that they should run",
        ),
        (
            "muster_collectors_sockets",
            "Sockets of collectors that are open on this server",
        ),
        (
            "muster_timer_late_seconds",
            "How late a timer of the server comes: beyond 0.25 it asks for no details, beyond 0.5 it takes no logs",
        ),
        ("muster_connections", "Connections of clients that are open"),
        ("muster_connections_max", "The most connections of clients"),
        (
            "muster_database_connections",
            "Connections to the database, used and idle",
        ),
        (
            "muster_disk_free_bytes",
            "Room on the disk of the data folder and of the logs of hosts",
        ),
        (
            "muster_disk_size_bytes",
            "Size of the disk of the data folder and of the logs of hosts",
        ),
        (
            "muster_certificate_end_time_seconds",
            "When the certificate ends, since 1970",
        ),
    ];
    for (name, text) in gauges {
        describe_gauge!(name, text);
    }
    describe_histogram!(
        "muster_database_duration_seconds",
        Unit::Seconds,
        "Time until the database answered a statement, by kind"
    );
    describe_histogram!(
        "muster_database_wait_seconds",
        Unit::Seconds,
        "Time until a connection to the database was to be had"
    );
    describe_counter!(
        "muster_database_unavailable_total",
        Unit::Count,
        "Statements that found the database away, locked, full or too slow"
    );
    describe_counter!(
        "muster_refusals_total",
        Unit::Count,
        "Requests that were not answered as asked, by the class of the reason"
    );
    describe_counter!(
        "muster_put_off_total",
        Unit::Count,
        "What was put off since there was too much to do, by class: logs that agents were told to send later, details \
         that hosts were not asked for"
    );
    describe_counter!(
        "muster_hosts_expired_total",
        Unit::Count,
        "Hosts that were deleted since they stayed away for longer than operators allow"
    );
    for (name, text) in [
        (
            "muster_collectors_expired_total",
            "Collectors that were deleted since they stayed away for longer than operators allow",
        ),
        (
            "muster_collectors_messages_total",
            "Messages of collectors that were answered or refused, by carrier",
        ),
        (
            "muster_collectors_offers_total",
            "Keys that collectors were offered",
        ),
        (
            "muster_collectors_adoptions_total",
            "Keys that collectors used for the first time",
        ),
        (
            "muster_collectors_requests_total",
            "What collectors were asked to say again: their full state, or their components",
        ),
        (
            "muster_collectors_refusals_total",
            "Messages of collectors that were refused, by the class of the reason",
        ),
        (
            "muster_collectors_config_failures_total",
            "Versions of configurations that failed on collectors",
        ),
        (
            "muster_collectors_config_rollbacks_total",
            "Assignments of configurations that went back by themselves, since too many collectors failed",
        ),
    ] {
        describe_counter!(name, Unit::Count, text);
    }
    describe_counter!(
        "muster_enrollment_refusals_total",
        Unit::Count,
        "Enrollments that a rule refused, by that rule"
    );
}
