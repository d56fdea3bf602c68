//! What can go wrong, each with what to do about it.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use crate::contexts::Context;

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// No server is known.
    #[error(
        "not logged in\n  log in first: muster login https://your-server, or set MUSTER_CLI_URL and MUSTER_CLI_TOKEN"
    )]
    NoContext,
    /// Only one half of the environment's login is there.
    #[error("{present} is set, but {missing} is not; set both, or neither")]
    HalfEnvironment {
        present: &'static str,
        missing: &'static str,
    },
    /// A context of that name is not there.
    #[error("there is no context `{name}`{}", hint(.similar.as_deref()))]
    UnknownContext {
        name: String,
        similar: Option<String>,
    },
    /// A context was logged out.
    #[error("the context `{name}` has no session\n  log in: muster login {url}")]
    LoggedOut { name: String, url: String },
    /// The address is none.
    #[error("`{url}` is not the address of a server; write it like https://muster.example.com")]
    Url { url: String },
    /// A token would travel in the clear.
    #[error(
        "{url} is not encrypted, and your password or token would be readable on the way\n\
            \x20 use https://, or give --insecure if you accept that"
    )]
    Unencrypted { url: String },
    /// The name of something is empty, as an unset variable leaves it.
    #[error("the name is empty\n  name what is meant, or give its id")]
    NoName,
    /// No host that one may see is called so.
    #[error(
        "there is no host `{name}` among those you may see\n  list them: muster hosts, or muster hosts --search TEXT"
    )]
    NoHost { name: String },
    /// No collector that one may see is called so.
    #[error(
        "there is no collector `{name}` among those you may see{}\n\
            \x20 list them: muster collectors, or muster collectors --search TEXT", hint(.similar.as_deref())
    )]
    NoCollector {
        name: String,
        similar: Option<String>,
    },
    /// Several collectors are called so.
    #[error(
        "`{name}` may be any of {total} collectors\n{}  name the one by its id: muster collector {}",
        lines(.some), .example
    )]
    AmbiguousCollector {
        name: String,
        total: usize,
        some: Vec<String>,
        example: i64,
    },
    /// Several things are called so.
    #[error(
        "`{name}` may be any of {total} {kind}s\n{}  name the one by its id, such as {example}{}",
        lines(.some), if *.kind == "configuration" { ", or its team: --team NAME" } else { "" }
    )]
    Ambiguous {
        kind: &'static str,
        name: String,
        total: usize,
        some: Vec<String>,
        example: i64,
    },
    /// A version of a configuration failed where it should run.
    #[error("{message}\n  look at them: muster collector-config status {which} --state failed")]
    RolloutFailed { message: String, which: String },
    /// Collectors take longer than somebody wants to wait.
    #[error(
        "{applying} collector(s) are still on the way after {seconds} seconds\n\
            \x20 look at them: muster collector-config status {which} --state applying"
    )]
    StillApplying {
        applying: u64,
        seconds: u64,
        which: String,
    },
    /// No assignment is on the version from which one is to go back.
    #[error(
        "no assignment of `{name}` is on version {from}\n  they are: {}",
        if .versions.is_empty() { "none" } else { .versions }
    )]
    NotOnVersion {
        name: String,
        from: i64,
        versions: String,
    },
    /// An agent did not say what was asked for.
    #[error("collector {id} has not said {what}\n  {hint}")]
    NotSaid {
        id: i64,
        what: &'static str,
        hint: &'static str,
    },
    /// A file cannot be read or written.
    #[error("{action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file holds no JSON.
    #[error("{} is not JSON", path.display())]
    NotJson {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// The file of contexts is not understood.
    #[error("{} is not understood\n  correct it, or remove it and log in again", path.display())]
    Contexts {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    /// There is no home folder.
    #[error(
        "neither XDG_CONFIG_HOME nor HOME is set\n  set MUSTER_CLI_CONFIG to the file that contexts are kept in"
    )]
    NoHome,
    /// The certificates given are none.
    #[error(
        "the certificates to trust cannot be used\n\
            \x20 --ca-file takes a PEM file; a server that made its own has it as tls/ca.pem in its data folder"
    )]
    Authority(#[source] reqwest::Error),
    /// The server's certificate is not trusted.
    #[error(
        "the certificate of {url} is not trusted\n\
            \x20 if the server made its own, give its authority: --ca-file FILE (tls/ca.pem in the server's data \
            folder)"
    )]
    Certificate {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    /// Nobody answers.
    #[error(
        "{url} cannot be reached\n  check the address, that the server runs, and what is in between"
    )]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    /// The answer is not one of ours.
    #[error("{url} answered something that is not Muster's API\n  check the address")]
    NotMuster {
        url: String,
        #[source]
        source: Option<serde_json::Error>,
    },
    /// Wrong address or password.
    #[error("the server refused the login: {message}")]
    LoginRefused { code: String, message: String },
    /// The session or token is void.
    #[error("the server does not know you any more: {message}\n  {again}")]
    Unauthenticated {
        /// How to be known again.
        again: String,
        message: String,
    },
    /// The server does not serve our version.
    #[error("{url}: {message}\n  this is muster {}; use the one of the server's release", env!("CARGO_PKG_VERSION"))]
    Version { url: String, message: String },
    /// The server said no.
    #[error("{message}{}", when(*.retry_after_seconds))]
    Refused {
        status: u16,
        message: String,
        retry_after_seconds: Option<u64>,
    },
    /// The server does not serve what the command needs.
    #[error("{url} does not have this\n  it may be of an older release than this program, muster {}", env!("CARGO_PKG_VERSION"))]
    NotServed { url: String },
    /// The server made an enrollment token without what it does not know.
    #[error(
        "{url} is of an older release, whose enrollment tokens do not have all that was asked for\n\
            \x20 the token that it made without that is revoked; update the server first"
    )]
    TokenUnbound { url: String },
    /// The end of a token cuts collectors off.
    #[error(
        "{collectors} collector(s) have no key of their own and are cut off when token {id} is revoked\n\
            \x20 to do it all the same: muster tokens revoke {id} --cut-off"
    )]
    CutsOff { id: i64, collectors: u64 },
    /// Something named by its name is not there.
    #[error("there is no {kind} `{name}`{}", hint(.similar.as_deref()))]
    Unknown {
        kind: &'static str,
        name: String,
        similar: Option<String>,
    },
    /// The stream breaks off again and again.
    #[error(
        "the connection to {url} is lost and does not come back; the campaign goes on\n\
            \x20 read on later: muster campaigns follow {campaign}"
    )]
    StreamLost {
        url: String,
        campaign: i64,
        #[source]
        source: Option<Box<CliError>>,
    },
    /// A password is needed and nobody can be asked.
    #[error(
        "no password was given\n  type it at the prompt, pipe it in, or set MUSTER_CLI_PASSWORD"
    )]
    NoPassword,
    /// Files of a configuration have mistakes, which were told.
    #[error("a collector would not start with this: {errors} mistake(s)")]
    BadConfiguration { errors: usize },
    /// Two files of a configuration have one name.
    #[error(
        "two files are called `{name}`\n  call one of them otherwise, such as 50-other.yaml={name}"
    )]
    SameFileName { name: String },
    /// Something is not a name with a value.
    #[error("`{text}` is not of the form NAME=VALUE")]
    NoPair { text: String },
    /// A header is none. What was typed may be a secret, and is not repeated.
    #[error(
        "a header is not of the form NAME: VALUE, such as --header 'Authorization: @token-file'"
    )]
    HeaderForm,
    /// A new password was typed in two ways.
    #[error("the passwords differ\n  try again")]
    PasswordsDiffer,
    /// Output cannot be written, or the terminal not used.
    #[error("output cannot be written")]
    Output(#[from] io::Error),
}

impl CliError {
    /// The message with its causes, as it is shown.
    pub(crate) fn explain(&self) -> String {
        let text = self.to_string();
        let (first, hints) = match text.split_once('\n') {
            Some((first, hints)) => (first, Some(hints)),
            None => (text.as_str(), None),
        };
        let mut shown = first.to_owned();
        let mut source = self.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !shown.contains(&cause_text) {
                let _ = write!(shown, ": {cause_text}");
            }
            source = cause.source();
        }
        if let Some(hints) = hints {
            let _ = write!(shown, "\n{hints}");
        }
        crate::output::printable_lines(&shown)
    }

    /// Whether the same request may go well later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

fn hint(similar: Option<&str>) -> String {
    similar.map_or_else(String::new, |similar| {
        format!("; did you mean `{similar}`?")
    })
}

fn lines(some: &[String]) -> String {
    let mut text = String::new();
    for line in some {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// How whoever uses a context is known to its server again. It names the context and the user: without them the login would
/// take the place of another context.
pub(crate) fn again(context: &Context) -> String {
    let Context {
        url, name, email, ..
    } = context;
    if context.by_environment {
        return "make a new token with `muster api-tokens create`, and put it into MUSTER_CLI_TOKEN"
            .to_owned();
    }
    let email = match email.as_str() {
        "" => String::new(),
        email => format!(" --email {email}"),
    };
    format!("log in again: muster login {url} --context {name}{email}")
}

fn when(seconds: Option<u64>) -> String {
    seconds.map_or_else(String::new, |seconds| {
        format!("\n  try again in {seconds} seconds")
    })
}
