//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::duration::parse as duration;

mod collector_config;
mod collectors;
mod identity;
mod keys;
mod me;
mod skew;

pub use collector_config::{
    AssignmentHow, AutoRollback, CollectorConfig, CollectorConfigCommand, ConfigFiles, ConfigKind,
    ConfigState,
};
pub use collectors::{Collector, Collectors};
pub use identity::{
    ApiTokens, ApiTokensCommand, Audit, AuditArguments, NewUserArguments, Teams, TeamsCommand,
    Tokens, TokensCommand, TokensCreate, UserEditArguments, Users, UsersCommand,
};

pub use keys::{Keys, KeysCommand, KeysRotate};
pub use me::{Sessions, SessionsCommand, Totp, TotpCommand};
pub use skew::Skew;

/// Ask your fleet questions, look at its hosts and collectors, hand out tokens.
#[derive(Parser)]
#[command(
    name = "muster",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  muster login https://muster.example.com --email ann@example.com
  muster query --all 'SELECT pid, name FROM processes'
  muster hosts --status online --search web
  muster collectors --unhealthy
  muster tokens create --name laptops --expires-in 30d

Environment:
  MUSTER_CLI_URL, MUSTER_CLI_TOKEN   a server and an API token, instead of a login (for CI)
  MUSTER_CLI_PASSWORD                the password of `muster login`
  MUSTER_CLI_NEW_PASSWORD            the password that takes its place
  MUSTER_CLI_CONFIG                  the file of contexts; ~/.config/muster/config.toml without it"
)]
pub struct CommandLine {
    /// What holds for all commands.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for all commands.
#[derive(Args, Clone, Default)]
pub struct Global {
    /// The context to use instead of the current one.
    #[arg(long, global = true, value_name = "NAME", env = "MUSTER_CLI_CONTEXT")]
    pub context: Option<String>,
    /// Trust the certificates in this PEM file, and no others.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "MUSTER_CLI_CA_FILE",
        conflicts_with = "insecure"
    )]
    pub ca_file: Option<PathBuf>,
    /// Trust any certificate: whoever is in between reads and changes everything.
    #[arg(long, global = true)]
    pub insecure: bool,
}

/// How lists are printed.
#[derive(Args, Clone, Copy, Default)]
pub struct Format {
    /// Print JSON, one object per line.
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Print CSV with a head line.
    #[arg(long)]
    pub csv: bool,
}

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Log in to a server and keep the session as a context.
    #[command(after_help = "\
The password is asked for without showing it; when standard input is not a terminal it is read from there,
or from MUSTER_CLI_PASSWORD.

Examples:
  muster login https://muster.example.com
  muster login https://localhost:8443 --email ann@example.com --ca-file muster-data/tls/ca.pem
  muster login https://muster.example.com --context production < password.txt")]
    Login(Login),
    /// End the session and forget it.
    #[command(after_help = "Examples:\n  muster logout\n  muster logout --context production")]
    Logout,
    /// Change your password; your other sessions end.
    #[command(after_help = "\
Both passwords are asked for without showing them; when standard input is not a terminal they are its first two lines,
or they come from MUSTER_CLI_PASSWORD and MUSTER_CLI_NEW_PASSWORD.

Examples:
  muster password")]
    Password,
    /// Set up a second factor for your logins: codes of an authenticator app.
    #[command(
        after_help = "Examples:\n  muster totp\n  muster totp enable\n  muster totp recovery-codes\n\
            \x20 muster totp disable"
    )]
    Totp(Totp),
    /// List and end sessions.
    #[command(
        after_help = "Examples:\n  muster sessions\n  muster sessions --user bo@example.com\n\
            \x20 muster sessions end 12\n  muster sessions end --all"
    )]
    Sessions(Sessions),
    /// List hosts.
    #[command(after_help = "\
Examples:
  muster hosts
  muster hosts --status offline --sort -seen_at
  muster hosts --team Workstations --search ann --csv > hosts.csv")]
    Hosts(Hosts),
    /// Look at a host, delete it, or have it asked for its details again.
    #[command(after_help = "\
A host is named by its id, host name, hardware UUID or serial number.

Examples:
  muster host web-1
  muster host web-1 --json
  muster host web-1 --software
  muster host 7 --refetch
  muster host web-1 --team Workstations
  muster host web-1 --ban 'stolen on Monday'
  muster host web-1 --unban
  muster host web-1 --rotate-keys
  muster host 8 --merge-into 7
  muster host 7 --delete")]
    Host(Host),
    /// List collectors: whatever speaks OpAMP.
    #[command(after_help = "\
Examples:
  muster collectors
  muster collectors --status offline --sort -seen_at
  muster collectors --unhealthy --attribute host.name=edge-1 --attribute deployment.environment
  muster collectors --capability accepts_remote_config --version 0.158.0 --team Edge --csv > collectors.csv
  muster collectors --key not_adopting
  muster collectors --state waiting
  muster collectors --summary
  muster collectors --status offline --attribute service.name=demo --delete --yes")]
    Collectors(Collectors),
    /// Look at a collector, its health and what it runs; revoke it, renew its key, have it restart.
    #[command(after_help = "\
A name that several have is refused with their ids.

Examples:
  muster collector edge-1
  muster collector otelcol-contrib@edge-1 --json
  muster collector 0193d3a4-7c2b-7e10-8a4b-1d2f3a4b5c6d --effective-config
  muster collector 7 --events
  muster collector edge-1 --restart
  muster collector edge-1 --rotate-key
  muster collector edge-1 --revoke 'stolen on Monday'
  muster collector edge-1 --unrevoke --with-its-key
  muster collector 7 --approve
  muster collector 7 --team Edge
  muster collector 7 --delete")]
    Collector(Collector),
    /// Ask hosts a question in SQL; rows are printed as they arrive.
    #[command(after_help = "\
Exit code: 0 when all awaited hosts answered, 3 when some did not or failed (they are listed with the reason),
130 after Ctrl-C, which also stops the campaign.

Examples:
  muster query --all 'SELECT pid, name FROM processes'
  muster query --host web-1 --host web-2 --json 'SELECT * FROM listening_ports'
  muster query --label 'All Linux' --csv 'SELECT name, version FROM deb_packages' > packages.csv
  muster query --team Servers --wait-for-offline --expires-in 2d 'SELECT version FROM os_version'
  muster query --platform debian --query-name 'Open ports'")]
    Query(Query),
    /// List, follow and stop campaigns: the questions that were asked.
    #[command(after_help = "\
Examples:
  muster campaigns
  muster campaigns show 12
  muster campaigns follow 12 --json
  muster campaigns cancel 12")]
    Campaigns(Campaigns),
    /// Renew the keys of hosts and collectors, make and take away keys of collectors, look at bans and at agents that are
    /// refused.
    #[command(after_help = "\
Examples:
  muster keys rotate --per-minute 100     renew the keys of all hosts, so many a minute
  muster keys rotate --family opamp       renew the access keys of all collectors
  muster keys rotations                   how far that is
  muster keys create --name gateway-1     an access key for a collector that cannot take one by itself
  muster keys list --state active
  muster keys revoke 41
  muster keys bans
  muster keys refused                     agents that go on calling with keys which are no longer good")]
    Keys(Keys),
    /// List the servers that share the database, with their releases and what each does for all.
    #[command(after_help = "Examples:\n  muster servers\n  muster servers --json")]
    Servers(Format),
    /// See which features are dark on which hosts, because of which process, and what to update.
    #[command(after_help = "\
A feature is dark on a host when a process that takes part cannot do its part: a server of this installation, or the
program on the host. The summary comes first; then a line for each host, feature and process.

Examples:
  muster skew
  muster skew --team Workstations --capability muster_notify
  muster skew --process orbit --csv > to-update.csv
  muster skew --host web-1
  muster skew --summary --json")]
    Skew(Skew),
    /// Make, see and revoke enrollment tokens: what agents enroll with.
    #[command(after_help = "\
Examples:
  muster tokens
  muster tokens create --name laptops --team Workstations --expires-in 30d --max-uses 100
  muster tokens reveal 3
  muster tokens revoke 3")]
    Tokens(Tokens),
    /// Make and revoke API tokens: what programs send instead of a login.
    #[command(after_help = "\
Examples:
  muster api-tokens
  muster api-tokens create --name ci --expires-in 90d
  muster api-tokens revoke 5")]
    ApiTokens(ApiTokens),
    /// List, make and delete teams.
    #[command(after_help = "Examples:\n  muster teams\n\
            \x20 muster teams create Workstations --description 'Laptops and desktops'\n\
            \x20 muster teams agent-options Workstations options.json\n\
            \x20 muster teams delete Workstations")]
    Teams(Teams),
    /// List, make, change and delete users.
    #[command(
        after_help = "Examples:\n  muster users\n  muster users create --email bo@example.com --role maintainer\n\
            \x20 muster users create --email eve@example.com --role observer --team Servers\n\
            \x20 muster users edit bo@example.com --role admin\n\
            \x20 muster users reset-password bo@example.com\n  muster users delete bo@example.com"
    )]
    Users(Users),
    /// List, make and delete labels.
    #[command(after_help = "Examples:\n  muster labels\n\
            \x20 muster labels create 'With Docker' --query \"SELECT 1 FROM deb_packages WHERE name = \
            'docker.io'\"\n  muster labels create 'Pilot group' --host web-1 --host web-2")]
    Labels(Labels),
    /// Make, assign and follow configurations of collectors.
    #[command(after_help = collector_config::EXAMPLES)]
    CollectorConfig(CollectorConfig),
    /// Print the settings that hold for all, or change some.
    #[command(after_help = "\
Examples:
  muster settings
  muster settings set host_expiry_enabled=true host_expiry_days=60
  muster settings set name='Example Ltd' live_queries_disabled=null")]
    Settings(SettingsArguments),
    /// Look at who changed what.
    #[command(
        after_help = "Examples:\n  muster audit\n  muster audit --action created_team --json\n  muster audit --limit 500"
    )]
    Audit(Audit),
    /// List, choose and forget servers.
    #[command(
        after_help = "Examples:\n  muster context list\n  muster context use production\n  muster context remove old"
    )]
    Context(Contexts),
    /// Print what makes a shell complete `muster`.
    #[command(after_help = "\
Examples:
  muster completion bash > /etc/bash_completion.d/muster
  muster completion zsh > \"${fpath[1]}/_muster\"
  muster completion fish > ~/.config/fish/completions/muster.fish")]
    Completion {
        /// Which shell.
        shell: Shell,
    },
}

/// Shells that can complete.
#[derive(Clone, Copy, ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// `login`.
#[derive(Args)]
pub struct Login {
    /// The server's address, such as https://muster.example.com.
    #[arg(value_name = "URL")]
    pub url: String,
    /// Your address; asked for when left out.
    #[arg(long)]
    pub email: Option<String>,
    /// A code of your authenticator app, or a recovery code; asked for when it is needed.
    #[arg(long)]
    pub code: Option<String>,
}

/// `settings`.
#[derive(Args)]
pub struct SettingsArguments {
    /// What to do; without it they are printed as JSON.
    #[command(subcommand)]
    pub command: Option<SettingsCommand>,
}

/// `settings …`.
#[derive(Subcommand)]
pub enum SettingsCommand {
    /// Change some; what you leave out stays.
    #[command(
        after_help = "A value is JSON, or else text; null brings the default back.\n\nExamples:\n\
            \x20 muster settings set host_expiry_enabled=true host_expiry_days=60"
    )]
    Set {
        /// A name as `muster settings` prints it, and its value.
        #[arg(required = true, value_name = "NAME=VALUE")]
        values: Vec<String>,
    },
}

/// `hosts`.
#[derive(Args)]
pub struct Hosts {
    /// Only hosts whose name, address or serial number contains this.
    #[arg(long, value_name = "TEXT")]
    pub search: Option<String>,
    /// Only hosts with this status, such as online or offline.
    #[arg(long)]
    pub status: Option<String>,
    /// Only hosts of this team, by name or id.
    #[arg(long, value_name = "NAME")]
    pub team: Option<String>,
    /// The field to sort by; `-` before it turns the order around.
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    pub sort: Option<String>,
    /// How it is printed.
    #[command(flatten)]
    pub format: Format,
}

/// `host`.
#[derive(Args)]
pub struct Host {
    /// Its id, host name, hardware UUID or serial number.
    pub name: String,
    /// Have it asked for its details again at its next check-in.
    #[arg(long, conflicts_with = "delete")]
    pub refetch: bool,
    /// Move it to this team, by name or id; `none` takes it out of its team.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["delete", "refetch"])]
    pub team: Option<String>,
    /// Ban it: its keys are taken away, and no token brings it back until it is un-banned.
    #[arg(long, value_name = "REASON", conflicts_with_all = ["delete", "refetch", "team", "software"])]
    pub ban: Option<String>,
    /// Let it come back after a ban.
    #[arg(long, conflicts_with_all = ["delete", "refetch", "team", "software", "ban"])]
    pub unban: bool,
    /// Have its keys renewed; each old one stays good until the new one is used.
    #[arg(long, conflicts_with_all = ["delete", "refetch", "team", "software", "ban", "unban"])]
    pub rotate_keys: bool,
    /// Take one of its keys away, by the id that `muster host NAME --json` shows.
    #[arg(long, value_name = "ID", conflicts_with_all = ["delete", "refetch", "team", "software", "ban", "unban", "rotate_keys"])]
    pub revoke_key: Option<i64>,
    /// Put it together with this host, which is the same machine; this one goes.
    #[arg(long, value_name = "HOST", conflicts_with_all = ["delete", "refetch", "team", "software", "ban", "unban", "rotate_keys",
        "revoke_key"])]
    pub merge_into: Option<String>,
    /// List the software on it.
    #[arg(long, conflicts_with_all = ["delete", "refetch", "team"])]
    pub software: bool,
    /// Delete it. An agent that still runs there has to enroll again.
    #[arg(long)]
    pub delete: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `query`.
#[derive(Args)]
#[command(
    group = clap::ArgGroup::new("whom").required(true).multiple(true).args(["all", "host", "label", "team", "platform"]),
    group = clap::ArgGroup::new("what").required(true).args(["sql", "query_name"]),
)]
pub struct Query {
    /// The SQL.
    #[arg(value_name = "SQL")]
    pub sql: Option<String>,
    /// A saved query to run instead.
    #[arg(long, value_name = "NAME")]
    pub query_name: Option<String>,
    /// Ask all hosts that you may see.
    #[arg(long)]
    pub all: bool,
    /// Ask this host: id, host name, hardware UUID or serial number (may be repeated).
    #[arg(long, value_name = "HOST")]
    pub host: Vec<String>,
    /// Ask the hosts with this label (may be repeated).
    #[arg(long, value_name = "NAME")]
    pub label: Vec<String>,
    /// Ask the hosts of this team, by name or id (may be repeated).
    #[arg(long, value_name = "NAME")]
    pub team: Vec<String>,
    /// Ask hosts of this platform, such as linux, darwin, windows or debian (may be repeated).
    #[arg(long, value_name = "NAME")]
    pub platform: Vec<String>,
    /// Wait for hosts that are away until the campaign expires.
    #[arg(long)]
    pub wait_for_offline: bool,
    /// Wait no longer than this for answers [default: 60s; with --wait-for-offline until it expires].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// When the campaign ends at the latest.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10m")]
    pub expires_in: Duration,
    /// How it is printed.
    #[command(flatten)]
    pub format: Format,
}

/// `campaigns`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Campaigns {
    /// What to do; without it they are listed.
    #[command(subcommand)]
    pub command: Option<CampaignsCommand>,
    /// The most campaigns to list, newest first.
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    pub limit: usize,
    /// How they are listed.
    #[command(flatten)]
    pub format: Format,
}

/// `campaigns …`.
#[derive(Subcommand)]
pub enum CampaignsCommand {
    /// List campaigns, newest first.
    #[command(after_help = "Examples:\n  muster campaigns list --limit 10 --json")]
    List {
        /// The most that are listed.
        #[arg(long, default_value_t = 50, value_name = "COUNT")]
        limit: usize,
        /// How they are listed.
        #[command(flatten)]
        format: Format,
    },
    /// Where a campaign stands, host by host.
    #[command(
        after_help = "Examples:\n  muster campaigns show 12\n  muster campaigns show 12 --csv"
    )]
    Show {
        /// Its id.
        id: i64,
        /// How its hosts are printed.
        #[command(flatten)]
        format: Format,
    },
    /// Print the answers there are, and those that still come.
    #[command(
        after_help = "Ctrl-C stops following; the campaign goes on.\n\nExamples:\n  muster campaigns follow 12 --json"
    )]
    Follow {
        /// Its id.
        id: i64,
        /// How rows are printed.
        #[command(flatten)]
        format: Format,
    },
    /// Ask no more hosts.
    #[command(after_help = "Examples:\n  muster campaigns cancel 12")]
    Cancel {
        /// Its id.
        id: i64,
    },
}

/// `labels`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Labels {
    /// What to do; without it they are listed.
    #[command(subcommand)]
    pub command: Option<LabelsCommand>,
    /// How they are listed.
    #[command(flatten)]
    pub format: Format,
}

/// `labels …`.
#[derive(Subcommand)]
pub enum LabelsCommand {
    /// List labels.
    #[command(after_help = "Examples:\n  muster labels list --json")]
    List(Format),
    /// Make a label: of the hosts for which a query has rows, or of hosts that you name.
    #[command(
        after_help = "Examples:\n  muster labels create 'Pilot group' --host web-1 --host web-2"
    )]
    Create {
        /// Its name.
        name: String,
        /// What it is for.
        #[arg(long, default_value = "")]
        description: String,
        /// Hosts for which this SQL has a row are in it.
        #[arg(long, value_name = "SQL", conflicts_with = "host")]
        query: Option<String>,
        /// This host is in it: host name, hardware UUID or serial number (may be repeated).
        #[arg(long, value_name = "HOST")]
        host: Vec<String>,
        /// Only hosts of this platform.
        #[arg(long, default_value = "")]
        platform: String,
    },
    /// Change a label. What you leave out stays.
    #[command(
        after_help = "Examples:\n  muster labels edit 'Pilot group' --host web-1 --host web-3\n  \
                      muster labels edit 7 --name Pilots"
    )]
    Edit {
        /// Its name or id.
        label: String,
        /// Its new name.
        #[arg(long)]
        name: Option<String>,
        /// What it is for.
        #[arg(long)]
        description: Option<String>,
        /// Hosts for which this SQL has a row are in it.
        #[arg(long, value_name = "SQL", conflicts_with = "host")]
        query: Option<String>,
        /// Only hosts of this platform.
        #[arg(long)]
        platform: Option<String>,
        /// This host is in it, and of others only those given beside (may be repeated).
        #[arg(long, value_name = "HOST")]
        host: Vec<String>,
    },
    /// Delete a label.
    #[command(after_help = "Examples:\n  muster labels delete 'Pilot group'")]
    Delete {
        /// Its name or id.
        name: String,
    },
}

/// `context`.
#[derive(Args)]
pub struct Contexts {
    /// What to do.
    #[command(subcommand)]
    pub command: ContextsCommand,
}

/// `context …`.
#[derive(Subcommand)]
pub enum ContextsCommand {
    /// List the servers that are known.
    #[command(after_help = "Examples:\n  muster context list")]
    List(Format),
    /// Use another server from now on.
    #[command(after_help = "Examples:\n  muster context use production")]
    Use {
        /// Its name.
        name: String,
    },
    /// Forget a server. The session there is not ended; `muster logout` does both.
    #[command(after_help = "Examples:\n  muster context remove old")]
    Remove {
        /// Its name.
        name: String,
    },
}
