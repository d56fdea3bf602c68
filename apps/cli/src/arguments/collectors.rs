//! What can be typed about collectors.

use clap::{ArgGroup, Args};

use super::Format;

/// What follows the help of `collectors`.
pub(super) const LIST_EXAMPLES: &str = "\
Examples:
  muster collectors
  muster collectors --status offline --sort -seen_at
  muster collectors --unhealthy --attribute host.name=edge-1 --attribute deployment.environment
  muster collectors --capability accepts_remote_config --version 0.158.0 --team Edge --csv > collectors.csv
  muster collectors --key not_adopting
  muster collectors --state waiting
  muster collectors --token 3
  muster collectors --host web-1
  muster collectors --host-link suggested
  muster collectors --summary
  muster collectors --status offline --attribute service.name=demo --delete --yes";

/// What follows the help of `collector`.
pub(super) const EXAMPLES: &str = "\
A name that several have is refused with their ids.

Examples:
  muster collector edge-1
  muster collector otelcol-contrib@edge-1 --json
  muster collector 0193d3a4-7c2b-7e10-8a4b-1d2f3a4b5c6d --effective-config
  muster collector 7 --events
  muster collector edge-1 --restart
  muster collector edge-1 --rotate-key
  muster collector edge-1 --revoke 'misbehaves'
  muster collector edge-1 --unrevoke --with-its-key
  muster collector 7 --approve
  muster collector 7 --confirm-host web-1
  muster collector 7 --link-host web-1
  muster collector 7 --unlink-host
  muster collector 7 --team Edge
  muster collector 7 --delete";

/// `collectors`.
#[derive(Args)]
pub struct Collectors {
    /// Only collectors whose name, host, version, uid or value of an attribute contains this.
    #[arg(long, value_name = "TEXT")]
    pub search: Option<String>,
    /// Only collectors that are online, late (not heard for one and a half of their intervals) or offline (for three).
    #[arg(long, value_name = "STATUS")]
    pub status: Option<String>,
    /// Only collectors that are enrolled, waiting (for an approval) or revoked.
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// Only collectors whose key of their own is none (they live on an enrollment token), offered, adopted or not_adopting.
    #[arg(long, value_name = "STATE")]
    pub key: Option<String>,
    /// Only collectors that say of their remote configuration: unset, applying, applied or failed.
    #[arg(long, value_name = "STATE")]
    pub config: Option<String>,
    /// Only collectors that say that they are healthy.
    #[arg(long, conflicts_with = "unhealthy")]
    pub healthy: bool,
    /// Only collectors that say that they are not healthy.
    #[arg(long)]
    pub unhealthy: bool,
    /// Only collectors with this capability, such as accepts_remote_config (may be repeated: with all of them).
    #[arg(long, value_name = "NAME")]
    pub capability: Vec<String>,
    /// Only collectors with this attribute, or with this value of it (may be repeated: with all of them).
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub attribute: Vec<String>,
    /// Only collectors that showed this enrollment token last, by its id.
    #[arg(long, value_name = "ID")]
    pub token: Option<i64>,
    /// Only collectors that are linked to this host, by its id or by what identifies it.
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Only collectors that are linked to a host, for which one is suggested, or none.
    #[arg(long, value_name = "STATE")]
    pub host_link: Option<String>,
    /// Only collectors of this version.
    #[arg(long, value_name = "VERSION")]
    pub version: Option<String>,
    /// Only collectors of this team, by name or id; `none` for those without one.
    #[arg(long, value_name = "NAME")]
    pub team: Option<String>,
    /// The field to sort by: id, name, host_name, version, seen_at, created_at; `-` before it turns the order around.
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    pub sort: Option<String>,
    /// Count all collectors by their states instead of listing them.
    #[arg(long, conflicts_with_all = ["search", "status", "state", "key", "config", "healthy", "unhealthy", "capability",
        "attribute", "token", "host", "host_link", "version", "team", "sort"])]
    pub summary: bool,
    /// Delete those collectors and their keys instead of listing them; without --yes only tell how many. At least one filter has
    /// to be there.
    #[arg(long, conflicts_with_all = ["summary", "sort"])]
    pub delete: bool,
    /// Do it, without asking.
    #[arg(long, requires = "delete")]
    pub yes: bool,
    /// How it is printed.
    #[command(flatten)]
    pub format: Format,
}

/// `collector`.
#[derive(Args)]
#[command(group = ArgGroup::new("what").args(["effective_config", "components", "events", "revoke", "unrevoke", "approve",
    "restart", "rotate_key", "link_host", "unlink_host", "confirm_host", "reject_host", "team", "delete"]))]
pub struct Collector {
    /// Its id, uid, name, host name, NAME@HOST, or the value of its service.instance.id or host.id.
    pub name: String,
    /// Print the configuration that it runs, with secrets masked.
    #[arg(long)]
    pub effective_config: bool,
    /// List the components that it is built of.
    #[arg(long)]
    pub components: bool,
    /// List what happened to it, newest first.
    #[arg(long)]
    pub events: bool,
    /// Revoke it: its keys are taken away, its connections end, and whoever shows its uid is refused, by a token too. Whoever has
    /// an enrollment token can still enroll as another collector: after a theft rotate or revoke that as well.
    #[arg(long, value_name = "REASON")]
    pub revoke: Option<String>,
    /// Let it come again after it was revoked, by its enrollment token.
    #[arg(long)]
    pub unrevoke: bool,
    /// The key that it had is good again, so that it is let in at once; not when others may know the key.
    #[arg(long, requires = "unrevoke")]
    pub with_its_key: bool,
    /// Let it come back by its enrollment token, where that wants an approval.
    #[arg(long)]
    pub approve: bool,
    /// Have it restart.
    #[arg(long)]
    pub restart: bool,
    /// Offer it a new key; the old one stays good until the new one is used.
    #[arg(long)]
    pub rotate_key: bool,
    /// Link it to this host, by hand and whatever it says of its machine.
    #[arg(long, value_name = "HOST")]
    pub link_host: Option<String>,
    /// Undo the link to its host. It does not come back by itself.
    #[arg(long)]
    pub unlink_host: bool,
    /// Confirm this host, which is suggested for it.
    #[arg(long, value_name = "HOST")]
    pub confirm_host: Option<String>,
    /// Reject this host, which is suggested for it: it is not suggested again.
    #[arg(long, value_name = "HOST")]
    pub reject_host: Option<String>,
    /// Move it to this team, by name or id; `none` takes it out of its team.
    #[arg(long, value_name = "NAME")]
    pub team: Option<String>,
    /// Delete it and its keys. An agent that still runs there is a new one when it comes by an enrollment token.
    #[arg(long)]
    pub delete: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
