//! What can be typed about features that are dark.

use clap::Args;

use super::Format;

/// `skew`.
#[derive(Args)]
pub struct Skew {
    /// Only hosts of this team, by name or id.
    #[arg(long, value_name = "NAME")]
    pub team: Option<String>,
    /// Only the feature of this capability, such as `muster_notify`.
    #[arg(long, value_name = "NAME")]
    pub capability: Option<String>,
    /// Only what is dark because of this process: muster-server, muster-agent, orbit or osquery.
    #[arg(long, value_name = "NAME")]
    pub process: Option<String>,
    /// Only this host, by its id, host name, hardware UUID or serial number.
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Only hosts whose name, address or serial number contains this.
    #[arg(long, value_name = "TEXT")]
    pub search: Option<String>,
    /// Only count; without it hosts are listed too.
    #[arg(long)]
    pub summary: bool,
    /// How it is printed.
    #[command(flatten)]
    pub format: Format,
}
