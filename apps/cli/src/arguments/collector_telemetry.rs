//! What can be typed about collectors' own telemetry.

use clap::{Args, Subcommand};

use super::Format;

/// `collector-telemetry`.
#[derive(Args)]
pub struct CollectorTelemetry {
    /// What to do; lists the settings when left out.
    #[command(subcommand)]
    pub command: Option<CollectorTelemetryCommand>,
    /// How they are listed.
    #[command(flatten)]
    pub format: Format,
}

/// `collector-telemetry …`.
#[derive(Subcommand)]
pub enum CollectorTelemetryCommand {
    /// List the settings, those that count most first.
    #[command(after_help = "Examples:\n  muster collector-telemetry list --json")]
    List(Format),
    /// Look at settings. Values of headers are masked.
    #[command(after_help = "Examples:\n  muster collector-telemetry show backend")]
    Show {
        /// Their name or id.
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make settings, or change those that have the name.
    #[command(
        after_help = "What is left out stays as it is. A value of a header that begins with @ is read from that file, so that\n\
            it is not seen by others on this machine.\n\nExamples:\n\
            \x20 muster collector-telemetry set backend --metrics https://otel.example.com/v1/metrics \\\n\
            \x20   --logs https://otel.example.com/v1/logs --header 'Authorization: @otel-token'\n\
            \x20 muster collector-telemetry set canaries --selector 'env=canary' --priority 10 \\\n\
            \x20   --traces https://otel.example.com/v1/traces\n\
            \x20 muster collector-telemetry set backend --no-logs"
    )]
    Set(Box<CollectorTelemetrySet>),
    /// Delete settings. Collectors keep what they were offered unless others are for them.
    #[command(after_help = "Examples:\n  muster collector-telemetry delete canaries")]
    Delete {
        /// Their name or id.
        name: String,
    },
}

/// `collector-telemetry set`.
#[derive(Args)]
pub struct CollectorTelemetrySet {
    /// Their name.
    pub name: String,
    /// Which collectors, by their attributes: `env=prod, !canary`; every one unless you say so.
    #[arg(long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Of several that are for a collector those with the highest count [default: 0].
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub priority: Option<i64>,
    /// The team whose collectors they are for, by name or id; it cannot change.
    #[arg(long, value_name = "NAME")]
    pub team: Option<String>,
    /// Where metrics go: the whole URL of a receiver of OTLP by HTTP.
    #[arg(long, value_name = "URL", conflicts_with = "no_metrics")]
    pub metrics: Option<String>,
    /// Where traces go.
    #[arg(long, value_name = "URL", conflicts_with = "no_traces")]
    pub traces: Option<String>,
    /// Where logs go.
    #[arg(long, value_name = "URL", conflicts_with = "no_logs")]
    pub logs: Option<String>,
    /// Say nothing of metrics any more.
    #[arg(long)]
    pub no_metrics: bool,
    /// Say nothing of traces any more.
    #[arg(long)]
    pub no_traces: bool,
    /// Say nothing of logs any more.
    #[arg(long)]
    pub no_logs: bool,
    /// A header to send with everything (may be repeated).
    #[arg(long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,
    /// Forget the headers that there are.
    #[arg(long)]
    pub no_headers: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
