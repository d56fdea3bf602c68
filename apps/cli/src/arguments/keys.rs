//! What can be typed about keys.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Format;
use crate::duration::parse as duration;

/// `keys`.
#[derive(Args)]
pub struct Keys {
    /// What to do.
    #[command(subcommand)]
    pub command: KeysCommand,
}

/// `keys …`.
#[derive(Subcommand)]
pub enum KeysCommand {
    /// Make an access key for a collector that cannot take one by itself, and print it.
    #[command(
        after_help = "Only the key goes to standard output; it is not shown again. It belongs to the first agent that uses \
            it.\n\nExamples:\n\
            \x20 muster keys create --name gateway-1 --team Edge > access-key\n\
            \x20 muster keys create --family opamp --name checkout-service --expires-in 7d"
    )]
    Create {
        /// Its name.
        #[arg(long)]
        name: String,
        /// The family of agents that it is for.
        #[arg(long, value_name = "NAME", value_parser = ["opamp"], default_value = "opamp")]
        family: String,
        /// The team that the collector comes into, by name or id.
        #[arg(long, value_name = "NAME")]
        team: Option<String>,
        /// It ends if no collector has used it within this time [default: never].
        #[arg(long, value_name = "TIME", value_parser = duration)]
        expires_in: Option<Duration>,
        /// Print what is known of the key, and the key itself, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List access keys of collectors, newest first, without the keys themselves.
    #[command(after_help = "Examples:\n  muster keys list --state active\n\
            \x20 muster keys list --made-in-advance --state pending\n  muster keys list --collector 12 --json")]
    List {
        /// Only those of this collector, by its id.
        #[arg(long, value_name = "ID")]
        collector: Option<i64>,
        /// Only those in this state: pending, active, superseded, ended, revoked.
        #[arg(long, value_name = "STATE")]
        state: Option<String>,
        /// Only those that were made by `muster keys create`.
        #[arg(long)]
        made_in_advance: bool,
        /// Only those whose name contains this.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// How they are listed.
        #[command(flatten)]
        format: Format,
    },
    /// Take an access key of a collector away; a host's is taken away by `muster host NAME --revoke-key ID`.
    #[command(
        after_help = "Its agent is refused at once, and goes on knocking until it is given another key or started anew with an\n\
            enrollment token.\n\nExamples:\n  muster keys revoke 41"
    )]
    Revoke {
        /// Its id.
        id: i64,
    },
    /// Renew the keys of all hosts or collectors, some at a time, or one access key. Each old key stays good until the new one
    /// is used.
    #[command(
        after_help = "Examples:\n  muster keys rotate\n  muster keys rotate --per-minute 100\n\
            \x20 muster keys rotate --family opamp --per-minute 100\n  muster keys rotate 41"
    )]
    Rotate(KeysRotate),
    /// List rotations of hosts' keys, newest first, and how many keys still wait.
    #[command(after_help = "Examples:\n  muster keys rotations\n  muster keys rotations --json")]
    Rotations(Format),
    /// Stop a rotation; hosts and collectors that were told go on.
    #[command(after_help = "Examples:\n  muster keys stop 3\n  muster keys stop --family opamp")]
    Stop {
        /// The id of a rotation of hosts' keys.
        #[arg(required_unless_present = "family", conflicts_with = "family")]
        id: Option<i64>,
        /// Stop the one of this family's keys instead.
        #[arg(long, value_name = "NAME", value_parser = ["opamp"])]
        family: Option<String>,
    },
    /// List banned hosts.
    #[command(after_help = "Examples:\n  muster keys bans --json")]
    Bans(Format),
    /// List agents that go on calling with keys which are no longer good.
    #[command(after_help = "Examples:\n  muster keys refused")]
    Refused(Format),
}

/// `keys rotate`.
#[derive(Args)]
pub struct KeysRotate {
    /// Only this access key of a collector, by its id; a host's are renewed by `muster host NAME --rotate-keys`.
    #[arg(value_name = "ID", conflicts_with_all = ["family", "per_minute"])]
    pub id: Option<i64>,
    /// The access keys of all collectors, instead of the keys of all hosts.
    #[arg(long, value_name = "NAME", value_parser = ["opamp"])]
    pub family: Option<String>,
    /// How many hosts are told to enroll again, or collectors are offered a key, per minute.
    #[arg(long, default_value_t = 60, value_name = "COUNT")]
    pub per_minute: u32,
}
