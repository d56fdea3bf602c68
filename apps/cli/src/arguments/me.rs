//! What can be typed about oneself: password, second factor, sessions.

use clap::{Args, Subcommand};

use super::Format;

/// `totp`.
#[derive(Args)]
pub struct Totp {
    /// What to do; without it you are told whether there is a second factor.
    #[command(subcommand)]
    pub command: Option<TotpCommand>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `totp …`.
#[derive(Subcommand)]
pub enum TotpCommand {
    /// Set up a second factor: shows a secret for an authenticator app, asks for a code, prints recovery codes.
    #[command(
        after_help = "Your other sessions end. Keep the recovery codes where you find them without your phone.\n\n\
            Examples:\n  muster totp enable"
    )]
    Enable,
    /// Let logins need only the password again.
    #[command(
        after_help = "Asks for your password, then for a code or a recovery code.\n\nExamples:\n  muster totp disable"
    )]
    Disable,
    /// Print new recovery codes; the old ones are void.
    #[command(after_help = "Examples:\n  muster totp recovery-codes > recovery-codes.txt")]
    RecoveryCodes,
}

/// `sessions`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Sessions {
    /// What to do; without it they are listed.
    #[command(subcommand)]
    pub command: Option<SessionsCommand>,
    /// Whose: address or id [default: yours].
    #[arg(long, value_name = "EMAIL")]
    pub user: Option<String>,
    /// How they are listed.
    #[command(flatten)]
    pub format: Format,
}

/// `sessions …`.
#[derive(Subcommand)]
pub enum SessionsCommand {
    /// List sessions; the one you use is marked.
    #[command(after_help = "Examples:\n  muster sessions list --user bo@example.com")]
    List {
        /// Whose: address or id [default: yours].
        #[arg(long, value_name = "EMAIL")]
        user: Option<String>,
        /// How they are listed.
        #[command(flatten)]
        format: Format,
    },
    /// End a session, or all of a user.
    #[command(
        after_help = "Examples:\n  muster sessions end 12\n  muster sessions end --all --user bo@example.com"
    )]
    End {
        /// Its id.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        id: Option<i64>,
        /// All of them; yours include the one you use.
        #[arg(long)]
        all: bool,
        /// Whose: address or id [default: yours].
        #[arg(long, value_name = "EMAIL")]
        user: Option<String>,
    },
}
