//! What can be typed about collectors.

use clap::{ArgGroup, Args};

use super::Format;

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
        "attribute", "version", "team", "sort"])]
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
    "restart", "rotate_key", "team", "delete"]))]
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
    /// Revoke it: its keys are taken away and its connections end; it is refused, by its enrollment token too.
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
