//! What can be typed about people, teams and tokens.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::Format;
use crate::duration::parse as duration;

/// What users may be. A server that does not know one says so.
const ROLES: [&str; 5] = ["admin", "maintainer", "observer_plus", "observer", "gitops"];

/// What is done with known agents that come by an enrollment token again.
const KNOWN_AGENTS: [&str; 4] = ["adopt", "new-identity", "approve", "deny"];

/// `tokens`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Tokens {
    /// What to do; without it they are listed.
    #[command(subcommand)]
    pub command: Option<TokensCommand>,
    /// Those that were revoked, too.
    #[arg(long)]
    pub revoked: bool,
    /// How they are listed.
    #[command(flatten)]
    pub format: Format,
}

/// `tokens …`.
#[derive(Subcommand)]
pub enum TokensCommand {
    /// List enrollment tokens, without their secrets.
    #[command(after_help = "Examples:\n  muster tokens list --revoked")]
    List {
        /// Those that were revoked, too.
        #[arg(long)]
        revoked: bool,
        /// How they are listed.
        #[command(flatten)]
        format: Format,
    },
    /// Make an enrollment token and print its secret.
    #[command(after_help = "Only the secret goes to standard output.\n\nExamples:\n\
            \x20 muster tokens create --name laptops --team Workstations --expires-in 30d > enrollment-token\n\
            \x20 muster tokens create --name branch --label Branch --network 198.51.100.0/24\n\
            \x20 muster tokens create --name collectors --family opamp --known-agents approve")]
    Create(TokensCreate),
    /// Print the secret of an enrollment token again; that you looked is kept in the audit log.
    #[command(after_help = "Examples:\n  muster tokens reveal 3")]
    Reveal {
        /// Its id.
        id: i64,
    },
    /// Make a successor of an enrollment token and print its secret; the old one ends after the overlap.
    #[command(
        after_help = "Only the secret goes to standard output. Until the overlap is over both are good;\n\
            `muster tokens` warns while hosts still need the old one.\n\nExamples:\n\
            \x20 muster tokens rotate 3 --overlap 7d > enrollment-token"
    )]
    Rotate {
        /// Its id.
        id: i64,
        /// How long the old one stays good.
        #[arg(long, value_name = "TIME", value_parser = duration, default_value = "7d", conflicts_with = "now")]
        overlap: Duration,
        /// End the old one now.
        #[arg(long)]
        now: bool,
        /// After this time the new one is refused [default: never].
        #[arg(long, value_name = "TIME", value_parser = duration)]
        expires_in: Option<Duration>,
        /// How many hosts may enroll with the new one.
        #[arg(long, value_name = "COUNT")]
        max_uses: Option<u32>,
        /// Print both tokens and the secret as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the hosts that came by an enrollment token.
    #[command(after_help = "Examples:\n  muster tokens hosts 3 --json")]
    Hosts {
        /// Its id.
        id: i64,
        /// How they are listed.
        #[command(flatten)]
        format: Format,
    },
    /// Let nobody enroll with it any more. Hosts that did stay; collectors without a key of their own are cut off.
    #[command(
        after_help = "Examples:\n  muster tokens revoke 3\n  muster tokens revoke 3 --cut-off"
    )]
    Revoke {
        /// Its id.
        id: i64,
        /// Also when there are collectors that have no key of their own.
        #[arg(long)]
        cut_off: bool,
    },
}

/// `tokens create`.
#[derive(Args)]
pub struct TokensCreate {
    /// Its name.
    #[arg(long)]
    pub name: String,
    /// The team that hosts come into, by name or id.
    #[arg(long, value_name = "NAME")]
    pub team: Option<String>,
    /// A family of agents that may use it: osquery, orbit, opamp (collectors), keylime (may be repeated) [default: all].
    #[arg(long, value_name = "NAME")]
    pub family: Vec<String>,
    /// A label that hosts come into when they first enroll with it, by name or id (may be repeated).
    #[arg(long, value_name = "NAME")]
    pub label: Vec<String>,
    /// A network from which agents may enroll with it, such as 10.0.0.0/8 (may be repeated) [default: everywhere].
    #[arg(long, value_name = "CIDR")]
    pub network: Vec<String>,
    /// After this time it is refused.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub expires_in: Option<Duration>,
    /// How many hosts may enroll with it.
    #[arg(long, value_name = "COUNT")]
    pub max_uses: Option<u32>,
    /// What is done with an OpAMP agent that has used a key of its own and comes by it again: adopt (offer it another key),
    /// new-identity (it becomes another agent), approve (wait for a person), deny [default: adopt].
    #[arg(long, value_name = "RULE", value_parser = KNOWN_AGENTS, hide_possible_values = true)]
    pub known_agents: Option<String>,
    /// OpAMP agents that come by it are short-lived: they are forgotten some time after they are gone.
    #[arg(long)]
    pub ephemeral: bool,
    /// Print the token with its secret as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `api-tokens`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ApiTokens {
    /// What to do; without it they are listed.
    #[command(subcommand)]
    pub command: Option<ApiTokensCommand>,
    /// Whose: address or id [default: yours].
    #[arg(long, value_name = "EMAIL")]
    pub user: Option<String>,
    /// How they are listed.
    #[command(flatten)]
    pub format: Format,
}

/// `api-tokens …`.
#[derive(Subcommand)]
pub enum ApiTokensCommand {
    /// List API tokens, without their secrets.
    #[command(after_help = "Examples:\n  muster api-tokens list --user bo@example.com")]
    List {
        /// Whose: address or id [default: yours].
        #[arg(long, value_name = "EMAIL")]
        user: Option<String>,
        /// How they are listed.
        #[command(flatten)]
        format: Format,
    },
    /// Make an API token and print its secret, which is not shown again.
    #[command(after_help = "Only the secret goes to standard output.\n\nExamples:\n\
            \x20 muster api-tokens create --name ci --expires-in 90d")]
    Create {
        /// Its name.
        #[arg(long)]
        name: String,
        /// After this time it is refused [default: never].
        #[arg(long, value_name = "TIME", value_parser = duration)]
        expires_in: Option<Duration>,
        /// Whose: address or id [default: yours].
        #[arg(long, value_name = "EMAIL")]
        user: Option<String>,
        /// Print the token with its secret as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Refuse an API token from now on.
    #[command(after_help = "Examples:\n  muster api-tokens revoke 5")]
    Revoke {
        /// Its id.
        id: i64,
        /// Whose: address or id [default: yours].
        #[arg(long, value_name = "EMAIL")]
        user: Option<String>,
    },
}

/// `teams`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Teams {
    /// What to do; without it they are listed.
    #[command(subcommand)]
    pub command: Option<TeamsCommand>,
    /// How they are listed.
    #[command(flatten)]
    pub format: Format,
}

/// `teams …`.
#[derive(Subcommand)]
pub enum TeamsCommand {
    /// List teams.
    #[command(after_help = "Examples:\n  muster teams list --json")]
    List(Format),
    /// Make a team.
    #[command(after_help = "Examples:\n  muster teams create Workstations")]
    Create {
        /// Its name.
        name: String,
        /// What it is for.
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Rename a team, or say what it is for. What you leave out stays.
    #[command(
        after_help = "Examples:\n  muster teams edit Workstations --name Laptops\n\
            \x20 muster teams edit Laptops --description 'Carried around'"
    )]
    Edit {
        /// Its name or id.
        team: String,
        /// Its new name.
        #[arg(long, required_unless_present = "description")]
        name: Option<String>,
        /// What it is for.
        #[arg(long)]
        description: Option<String>,
    },
    /// Print a team's agent options as JSON, or set them from a file. They replace those of the organisation wholly.
    #[command(
        after_help = "Examples:\n  muster teams agent-options Laptops > options.json\n\
            \x20 muster teams agent-options Laptops options.json\n  muster teams agent-options Laptops --inherit"
    )]
    AgentOptions {
        /// Its name or id.
        team: String,
        /// A JSON file with all of them, or - for standard input [default: print those in force].
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Take the team's own back: those of the organisation are in force then.
        #[arg(long, conflicts_with = "file")]
        inherit: bool,
    },
    /// Print after how many days hosts of a team are deleted that stay away, or set it.
    #[command(
        after_help = "Examples:\n  muster teams expiry Laptops\n  muster teams expiry Laptops --days 90\n\
            \x20 muster teams expiry Laptops --inherit\n\n\
            The rule for all: muster settings set host_expiry_enabled=true host_expiry_days=60"
    )]
    Expiry {
        /// Its name or id.
        team: String,
        /// After how many days without a word.
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        days: Option<u32>,
        /// Take the team's own rule back: the one for all holds then.
        #[arg(long, conflicts_with = "days")]
        inherit: bool,
    },
    /// Delete a team. Its hosts stay, without a team; its enrollment tokens, agent options, saved queries and the roles in
    /// it go.
    #[command(after_help = "Examples:\n  muster teams delete Workstations")]
    Delete {
        /// Its name or id.
        name: String,
    },
}

/// `users`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Users {
    /// What to do; without it they are listed.
    #[command(subcommand)]
    pub command: Option<UsersCommand>,
    /// How they are listed.
    #[command(flatten)]
    pub format: Format,
}

/// `users …`.
#[derive(Subcommand)]
pub enum UsersCommand {
    /// List users.
    #[command(after_help = "Examples:\n  muster users list --csv")]
    List(Format),
    /// Make a user. The password is asked for, read from standard input or from MUSTER_CLI_PASSWORD.
    #[command(
        after_help = "Examples:\n  muster users create --email bo@example.com --role maintainer\n\
            \x20 muster users create --email eve@example.com --role observer --team Servers"
    )]
    Create(NewUserArguments),
    /// Change a user, or shut it out. What you leave out stays.
    #[command(
        after_help = "Examples:\n  muster users edit bo@example.com --role admin\n\
            \x20 muster users edit eve@example.com --role observer --team Servers --team Laptops\n\
            \x20 muster users edit eve@example.com --disable"
    )]
    Edit(UserEditArguments),
    /// Give a user a password for its next login, at which it has to choose another; prints it. Its sessions end.
    #[command(
        after_help = "Only the password goes to standard output.\n\nExamples:\n  muster users reset-password bo@example.com"
    )]
    ResetPassword {
        /// Address or id.
        name: String,
    },
    /// Take away the second factor of a user who lost it.
    #[command(after_help = "Examples:\n  muster users reset-totp bo@example.com")]
    ResetTotp {
        /// Address or id.
        name: String,
    },
    /// Delete a user.
    #[command(after_help = "Examples:\n  muster users delete bo@example.com")]
    Delete {
        /// Address or id.
        name: String,
    },
}

/// `users create`.
#[derive(Args)]
pub struct NewUserArguments {
    /// The address, which is the name at login.
    #[arg(long)]
    pub email: String,
    /// The name [default: the address's first part].
    #[arg(long)]
    pub name: Option<String>,
    /// What the user may do: admin, maintainer, observer_plus (reads, and runs any query), observer or gitops (writes
    /// configuration, and sees no hosts).
    #[arg(long, value_parser = ROLES, hide_possible_values = true)]
    pub role: String,
    /// The role is for this team only, by name or id (may be repeated) [default: everywhere].
    #[arg(long, value_name = "NAME")]
    pub team: Vec<String>,
    /// An account for programs: it uses API tokens, and logs in by Fleet's API only.
    #[arg(long)]
    pub api_only: bool,
}

/// `users edit`.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true)
    .args(["email", "full_name", "role", "disable", "enable"]))]
pub struct UserEditArguments {
    /// Address or id.
    pub name: String,
    /// Its new address.
    #[arg(long)]
    pub email: Option<String>,
    /// Its new name.
    #[arg(long = "name", value_name = "NAME")]
    pub full_name: Option<String>,
    /// What the user may do from now on, instead of all its roles until now.
    #[arg(long, value_parser = ROLES)]
    pub role: Option<String>,
    /// The role is for this team only, by name or id (may be repeated) [default: everywhere].
    #[arg(long, value_name = "NAME", requires = "role")]
    pub team: Vec<String>,
    /// Shut it out: its sessions end, its API tokens are refused.
    #[arg(long, conflicts_with = "enable")]
    pub disable: bool,
    /// Let it in again.
    #[arg(long)]
    pub enable: bool,
}

/// `audit`.
#[derive(Args)]
pub struct Audit {
    /// Which changes.
    #[command(flatten)]
    pub filter: AuditArguments,
    /// The most changes to print, newest first.
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    pub limit: usize,
    /// How they are printed.
    #[command(flatten)]
    pub format: Format,
}

/// Which changes.
#[derive(Args)]
pub struct AuditArguments {
    /// Only this action, such as created_team.
    #[arg(long)]
    pub action: Option<String>,
    /// Only this kind of subject, such as team.
    #[arg(long, value_name = "KIND")]
    pub subject: Option<String>,
    /// Only what this user did: address or id.
    #[arg(long, value_name = "EMAIL")]
    pub user: Option<String>,
}
