//! What can be typed about configurations of collectors.

use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use super::Format;
use crate::duration::parse as duration;

/// Examples for `collector-config`.
pub(super) const EXAMPLES: &str = "\
Examples:
  muster collector-config create gateway otelcol.yaml
  muster collector-config assign gateway --selector 'service.name=otelcol, env in (prod, staging)' --dry-run
  muster collector-config assign gateway --selector 'service.name=otelcol, env in (prod, staging)'
  muster collector-config push gateway otelcol.yaml --note 'batch of 10 s' --apply
  muster collector-config status gateway --state failed
  muster collector-config rollback gateway";

/// `collector-config`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CollectorConfig {
    /// What to do; without it configurations are listed.
    #[command(subcommand)]
    pub command: Option<CollectorConfigCommand>,
    /// How they are listed.
    #[command(flatten)]
    pub format: Format,
}

/// `collector-config …`.
#[derive(Subcommand)]
pub enum CollectorConfigCommand {
    /// List configurations.
    #[command(after_help = "Examples:\n  muster collector-config list --json")]
    List {
        /// Only configurations of this team, by name or id.
        #[arg(long, value_name = "NAME")]
        team: Option<String>,
        /// Only configurations whose name or description contains this.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// How they are listed.
        #[command(flatten)]
        format: Format,
    },
    /// Show a configuration with its assignments and versions, or print the files of a version.
    #[command(
        group = ArgGroup::new("content").args(["files", "json"]).multiple(true),
        after_help = "Examples:\n  muster collector-config show gateway\n  muster collector-config show gateway --files \
                      --version 3\n  muster collector-config show gateway --json"
    )]
    Show {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigName,
        /// Of which version, with --files or --json; the newest when left out.
        #[arg(long, value_name = "NUMBER", requires = "content")]
        version: Option<i64>,
        /// Print the files of the version and nothing else.
        #[arg(long)]
        files: bool,
        /// Print JSON, with the files.
        #[arg(long)]
        json: bool,
    },
    /// Make a configuration of one or several files, which agents merge in the order of their names.
    #[command(after_help = "\
A file is called as it is on this machine; NAME=FILE calls it otherwise, and =FILE makes it the one without a name, which is
merged last. Files are checked first, and every mistake is told with its place.

Examples:
  muster collector-config create gateway otelcol.yaml
  muster collector-config create edge base.yaml 50-edge.yaml --team Edge --description 'Shops'
  muster collector-config create apps elastic=apm.json --kind other")]
    Create {
        /// Its name.
        name: String,
        /// The files.
        #[command(flatten)]
        files: ConfigFiles,
        /// What it is for.
        #[arg(long, default_value = "")]
        description: String,
        /// Only for collectors of this team, by name or id.
        #[arg(long, value_name = "NAME")]
        team: Option<String>,
        /// What kind of agent it is for.
        #[arg(long, default_value = "collector")]
        kind: ConfigKind,
        /// Why it is made.
        #[arg(long, default_value = "", value_name = "TEXT")]
        note: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a new version of a configuration. All its files are given anew.
    #[command(
        after_help = "Assignments that follow the newest version move on to it; with --apply all of them do.\n\nExamples:\n  \
                      muster collector-config push gateway otelcol.yaml --note 'batch of 10 s'\n  \
                      muster collector-config push gateway otelcol.yaml --base 7 --apply"
    )]
    Push {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigName,
        /// The files.
        #[command(flatten)]
        files: ConfigFiles,
        /// Why it is made.
        #[arg(long, default_value = "", value_name = "TEXT")]
        note: String,
        /// Have all assignments of the configuration move on to it.
        #[arg(long)]
        apply: bool,
        /// The version that the files were made from: when there is a newer one by now, nothing is done [default: the newest].
        #[arg(long, value_name = "NUMBER")]
        base: Option<i64>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look whether a collector would start with some files. Nothing is kept.
    #[command(
        after_help = "Ends with 1 when it would not.\n\nExamples:\n  muster collector-config validate otelcol.yaml\n  \
                      muster collector-config validate base.yaml 50-edge.yaml --collector 7"
    )]
    Validate {
        /// The files.
        #[command(flatten)]
        files: ConfigFiles,
        /// Also look whether this collector has the components: its id, uid, name or host name.
        #[arg(long, value_name = "COLLECTOR")]
        collector: Option<String>,
        /// What kind of agent they are for.
        #[arg(long, default_value = "collector")]
        kind: ConfigKind,
        /// Print JSON, one finding per line.
        #[arg(long)]
        json: bool,
    },
    /// Compare two versions, or what a collector runs with what it would get.
    #[command(after_help = "Examples:\n  muster collector-config diff gateway\n  \
                      muster collector-config diff gateway --from 2 --to 5\n  \
                      muster collector-config diff gateway --collector web-1")]
    Diff {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigName,
        /// The version to begin from; the one before when left out.
        #[arg(long, value_name = "NUMBER", conflicts_with = "collector")]
        from: Option<i64>,
        /// The version to get to; the newest when left out.
        #[arg(long, value_name = "NUMBER")]
        to: Option<i64>,
        /// Compare with what this collector runs: its id, uid, name or host name.
        #[arg(long, value_name = "COLLECTOR")]
        collector: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Assign a version of a configuration to collectors.
    #[command(after_help = "\
A selector has requirements on the attributes of collectors, all of which must hold:
  name=value  name!=value  name in (a, b)  name notin (a, b)  name  !name
`*` is every collector. Of several assignments that are for a collector the one with the highest priority counts, and then
the one that was made last. Assigning a configuration again by the same selector changes the assignment; what you leave out
stays there, the version too.

Examples:
  muster collector-config assign gateway --selector 'service.name=otelcol, env in (prod, staging), !canary'
  muster collector-config assign gateway --selector 'env=canary' --version 7 --priority 10 --soak 5m
  muster collector-config assign gateway --selector '*' --follow --auto-rollback assignment --after-failures 3
  muster collector-config assign gateway --selector 'env=prod' --dry-run")]
    Assign {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigName,
        /// Which collectors.
        #[arg(long, value_name = "SELECTOR")]
        selector: String,
        /// Which version; of a new assignment the newest when left out.
        #[arg(long, value_name = "NUMBER")]
        version: Option<i64>,
        /// Move on to each new version by itself.
        #[arg(long, conflicts_with = "version")]
        follow: bool,
        /// How and when it counts.
        #[command(flatten)]
        how: AssignmentHow,
        /// Only tell which collectors it would be for, and what would change for each.
        #[arg(long)]
        dry_run: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List assignments, those that count most first.
    #[command(
        after_help = "Examples:\n  muster collector-config assignments\n  muster collector-config assignments gateway --json"
    )]
    Assignments {
        /// Only those of this configuration, by name or id.
        name: Option<String>,
        /// The configuration's team.
        #[command(flatten)]
        of: OfTeam,
        /// How they are listed.
        #[command(flatten)]
        format: Format,
    },
    /// Change an assignment. What you leave out stays.
    #[command(
        after_help = "Examples:\n  muster collector-config edit-assignment 4 --version 7\n  \
                      muster collector-config edit-assignment 4 --pause\n  \
                      muster collector-config edit-assignment 4 --resume --priority 5"
    )]
    EditAssignment {
        /// Its id.
        id: i64,
        /// Which version.
        #[arg(long, value_name = "NUMBER")]
        version: Option<i64>,
        /// Move on to each new version by itself.
        #[arg(long, conflicts_with = "version")]
        follow: bool,
        /// Send again what is to be sent.
        #[arg(long, conflicts_with = "pause")]
        resume: bool,
        /// How and when it counts.
        #[command(flatten)]
        how: AssignmentHow,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Delete an assignment. Its collectors keep what they run until another one is for them.
    #[command(after_help = "Examples:\n  muster collector-config unassign 4")]
    Unassign {
        /// Its id.
        id: i64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show how far collectors are with the configuration that they should run.
    #[command(
        after_help = "With --wait it ends with 1 when a version failed somewhere, or an assignment went back.\n\nExamples:\n  \
                      muster collector-config status\n  muster collector-config status gateway --state failed\n  \
                      muster collector-config status gateway --wait --timeout 10m\n  \
                      muster collector-config status --assignment 4\n  \
                      muster collector-config status --collector web-1"
    )]
    Status(ConfigStatus),
    /// Take assignments one step back: to the version before that ran well.
    #[command(
        after_help = "They do not follow the newest version any more then. With --from a command that is repeated, or that two \
                      people give at once, takes one step only.\n\nExamples:\n  \
                      muster collector-config rollback gateway\n  muster collector-config rollback gateway --from 7\n  \
                      muster collector-config rollback --assignment 4"
    )]
    Rollback {
        /// The configuration whose assignments go back, by name or id.
        #[arg(required_unless_present = "assignment", conflicts_with = "assignment")]
        name: Option<String>,
        /// The configuration's team.
        #[command(flatten)]
        of: OfTeam,
        /// Only this assignment.
        #[arg(long, value_name = "ID")]
        assignment: Option<i64>,
        /// Only assignments that are on this version.
        #[arg(long, value_name = "NUMBER")]
        from: Option<i64>,
        /// Print JSON, one assignment per line.
        #[arg(long)]
        json: bool,
    },
    /// Delete a configuration with all its versions. One that is assigned stays.
    #[command(after_help = "Examples:\n  muster collector-config delete gateway")]
    Delete {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigName,
    },
}

/// A configuration by its name.
#[derive(Args)]
pub struct ConfigName {
    /// The configuration's name or id.
    pub name: String,
    /// The configuration's team.
    #[command(flatten)]
    pub of: OfTeam,
}

/// The team of a configuration: names are unique within one only.
#[derive(Args)]
pub struct OfTeam {
    /// The one of this team, by name or id, when several have the name; `none` for the one of all teams.
    #[arg(long, value_name = "TEAM", requires = "name")]
    pub team: Option<String>,
}

/// `collector-config status`.
#[derive(Args)]
#[command(group = ArgGroup::new("whose").args(["name", "assignment"]))]
pub struct ConfigStatus {
    /// Only collectors that should run this configuration, by name or id.
    pub name: Option<String>,
    /// The configuration's team.
    #[command(flatten)]
    pub of: OfTeam,
    /// Only collectors that follow this assignment.
    #[arg(long, value_name = "ID")]
    pub assignment: Option<i64>,
    /// Only collectors in this state.
    #[arg(long)]
    pub state: Option<ConfigState>,
    /// Only this collector: its id, uid, name or host name. Tells which assignments are for it.
    #[arg(long, value_name = "COLLECTOR",
        conflicts_with_all = ["name", "assignment", "state", "csv", "wait", "timeout"])]
    pub collector: Option<String>,
    /// Wait until none of the collectors of the configuration or assignment is on the way any more.
    #[arg(long, requires = "whose")]
    pub wait: bool,
    /// How long to wait at most [default: without an end].
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "wait")]
    pub timeout: Option<Duration>,
    /// How they are listed.
    #[command(flatten)]
    pub format: Format,
}

/// Files of a configuration.
#[derive(Args)]
pub struct ConfigFiles {
    /// A file, or NAME=FILE to call it otherwise; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<String>,
}

/// How and when an assignment counts.
#[derive(Args)]
pub struct AssignmentHow {
    /// Of several assignments that are for a collector the one with the highest counts [of a new assignment: 0].
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub priority: Option<i64>,
    /// How long a collector has to be healthy until a version counts as run, at least 5s [of a new assignment: 30s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub soak: Option<Duration>,
    /// What happens by itself when a version fails [of a new assignment: off].
    #[arg(long, value_name = "WHAT")]
    pub auto_rollback: Option<AutoRollback>,
    /// On how many collectors it fails until all go back, with --auto-rollback assignment [of a new assignment: 1].
    #[arg(long, value_name = "COUNT")]
    pub after_failures: Option<u32>,
    /// Send nothing new for now.
    #[arg(long)]
    pub pause: bool,
}

/// Kinds of agents.
#[derive(Clone, Copy, ValueEnum)]
pub enum ConfigKind {
    /// OpenTelemetry collectors.
    Collector,
    /// Others, such as SDKs; only looked at whether they can be read.
    Other,
}

/// How far collectors are.
#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum ConfigState {
    /// They run what they should, and well.
    InSync,
    /// They are on the way.
    Applying,
    /// What they should run failed there.
    Failed,
    /// Nothing is assigned to them.
    Unmanaged,
    /// They cannot be given what is assigned.
    Cannot,
}

/// What happens by itself when a version fails.
#[derive(Clone, Copy, ValueEnum)]
pub enum AutoRollback {
    /// Nothing.
    Off,
    /// A collector on which it fails goes back to what it last ran well.
    Collector,
    /// When it fails on so many collectors, all go back to the version before.
    Assignment,
}
