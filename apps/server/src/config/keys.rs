//! The table of keys.

use std::fmt::Write as _;

/// What kind of value a key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A file or folder.
    Path,
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Number,
    /// A span of time: `30s`, `15m`, `12h`, `5d`.
    Span,
    /// A number of bytes: `500`, `64KiB`, `10MiB`.
    Bytes,
    /// Several texts: a list in the file, with commas elsewhere.
    List,
}

impl Kind {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Path => "path",
            Self::Flag => "true or false",
            Self::Number => "number",
            Self::Span => "time (30s, 15m, 12h, 5d)",
            Self::Bytes => "bytes (64KiB, 10MiB)",
            Self::List => "list",
        }
    }
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name in the file: `database.max_connections`.
    pub name: &'static str,
    /// What kind of value it has.
    pub kind: Kind,
    /// Its value when nobody sets it; empty for none.
    pub default: &'static str,
    /// Whether its value is a secret, or may hold one.
    pub secret: bool,
    /// What it means.
    pub help: &'static str,
}

impl Key {
    /// `--database-max-connections`, without the dashes before.
    pub fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }

    /// Another spelling of the flag, where the group has one key that everybody needs: `--database`.
    pub fn short_flag(&self) -> Option<&'static str> {
        (self.name == "database.url").then_some("database")
    }

    /// `MUSTER_DATABASE_MAX_CONNECTIONS`.
    pub fn variable(&self) -> String {
        format!("MUSTER_{}", self.name.replace('.', "_").to_uppercase())
    }
}

const fn key(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        secret: false,
        help,
    }
}

const fn secret(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        secret: true,
        help,
    }
}

/// What keys look like that hold credentials.
const MASKED_KEYS: &str = muster_collectors::DEFAULT_KEYS_LIST;

/// Every key.
pub const KEYS: &[Key] = &[
    key(
        "data_dir",
        Kind::Path,
        "muster-data",
        "Folder for everything that the server keeps: the embedded database, the master key, certificates, logs of \
         hosts. Made with mode 0700 when it is not there.",
    ),
    key(
        "listen",
        Kind::Text,
        "0.0.0.0:8443",
        "Address and port of the one listener that serves agents, operators and browsers, by HTTP/1.1 and HTTP/2.",
    ),
    key(
        "public_url",
        Kind::Text,
        "",
        "Where agents and people reach the server, such as https://muster.example.com. Its host name goes into the \
         certificate that the server makes for itself. Without it: https://<this machine's name>:<port>.",
    ),
    key(
        "url_prefix",
        Kind::Text,
        "",
        "Path under which everything is served, such as /muster. The paths that orbit asks without a prefix are served \
         without it too.",
    ),
    secret(
        "database.url",
        Kind::Text,
        "",
        "sqlite:///path/to/muster.db or postgres://user:password@host/name. Without it: muster.db in the data folder.",
    ),
    key(
        "database.max_connections",
        Kind::Number,
        "10",
        "The most connections to the database.",
    ),
    key(
        "database.timeout",
        Kind::Span,
        "5s",
        "How long a statement waits for a connection or a lock before the request is answered with 503.",
    ),
    key(
        "database.statement_timeout",
        Kind::Span,
        "30s",
        "How long a statement may run on PostgreSQL before the request is answered with 503. Migrations have no limit.",
    ),
    secret(
        "bus.url",
        Kind::Text,
        "",
        "How the servers of one database tell each other what changed: redis://:password@host:6379 or rediss://host. \
         Without it: by the database itself, when it is PostgreSQL. Nothing is kept there; while it is away, changes are \
         found by looking, within a minute.",
    ),
    key(
        "bus.channel",
        Kind::Text,
        "muster",
        "The channel on Redis. Installations that share a Redis server each need their own.",
    ),
    key(
        "tls.enabled",
        Kind::Flag,
        "true",
        "Whether the listener speaks TLS. Turn it off only behind a proxy that does, and name that in trusted_proxies.",
    ),
    key(
        "tls.certificate",
        Kind::Path,
        "",
        "PEM file with your own certificate and its chain. Without it the server makes a certificate authority and a \
         certificate of its own. The file is read again when it changes.",
    ),
    key(
        "tls.key",
        Kind::Path,
        "",
        "PEM file with the key of tls.certificate.",
    ),
    key(
        "trusted_proxies",
        Kind::List,
        "",
        "Addresses or networks (10.0.0.0/8) of proxies whose client_address_header is believed.",
    ),
    key(
        "client_address_header",
        Kind::Text,
        "X-Forwarded-For",
        "The header by which trusted proxies say whom they speak for, such as X-Forwarded-For, X-Real-IP or \
         CF-Connecting-IP. It has to be one that they set themselves: others they pass on as the client wrote them.",
    ),
    key(
        "max_connections",
        Kind::Number,
        "65536",
        "The most connections from clients at a time.",
    ),
    key(
        "worker_threads",
        Kind::Number,
        "0",
        "How many threads serve requests; 0 for one per core.",
    ),
    key(
        "shutdown_timeout",
        Kind::Span,
        "20s",
        "How long requests that are under way may take to finish at the end.",
    ),
    key(
        "log.format",
        Kind::Text,
        "text",
        "How the server logs what it does: text or json.",
    ),
    key(
        "log.level",
        Kind::Text,
        "info",
        "What it logs: error, warn, info, debug or trace; also target=level,…",
    ),
    key(
        "opamp.heartbeat",
        Kind::Span,
        "30s",
        "How often collectors are told to be heard, from 5s to 1h. One that is silent for three times as long is offline.",
    ),
    key(
        "opamp.ca_file",
        Kind::Path,
        "",
        "PEM file of the certificate authorities that collectors are told to trust when they are offered a key of their \
         own. Without it: the server's own authority, or the last certificate of tls.certificate. Needed when a proxy \
         speaks TLS for the server: without it nothing is offered then, since some collectors would stop to verify.",
    ),
    secret(
        "opamp.headers",
        Kind::List,
        "",
        "Headers that collectors have to send besides Authorization, for gateways on the way, such as X-Tenant: blue. \
         Collectors that are offered a key replace all of their headers by these.",
    ),
    key(
        "opamp.masked_keys",
        Kind::List,
        MASKED_KEYS,
        "Words in keys of collectors' effective configurations whose values are masked before they are kept, whatever \
         their case and separators.",
    ),
    key(
        "opamp.new_per_day",
        Kind::Number,
        "50000",
        "How many new collectors may come by one enrollment token from one address (of IPv6, one network of 64 bits) to one \
         server in a day: all of them at once, and then evenly over the day. Those that are known are not counted.",
    ),
    key(
        "access_key.lifetime",
        Kind::Span,
        "90d",
        "Collectors whose access key has been in use for so long are offered a new one; never for none.",
    ),
    key(
        "session.lifetime",
        Kind::Span,
        "5d",
        "A login that is not used for so long ends.",
    ),
    key(
        "sink.folder",
        Kind::Path,
        "",
        "Folder of the files that keep what hosts log: results of schedules and status lines. Without it: logs in the \
         data folder.",
    ),
    key(
        "sink.max_file_size",
        Kind::Bytes,
        "500MiB",
        "A file of logs of hosts is rotated when it is larger.",
    ),
    key(
        "sink.max_backups",
        Kind::Number,
        "3",
        "How many rotated files of each kind are kept.",
    ),
    key(
        "fleet.version",
        Kind::Text,
        "4.62.2",
        "The version that Fleet's clients are told, which compare it with their own.",
    ),
    key(
        "fleet.setup",
        Kind::Text,
        "loopback",
        "From where Fleet's setup call (fleetctl setup), which asks for no secret, may make the first administrator: \
         loopback (this machine only), anyone, or nobody. The setup link works from everywhere.",
    ),
    key(
        "live_query.rest_period",
        Kind::Span,
        "25s",
        "How long a live query without a stream waits for answers. Many proxies cut at 30 seconds.",
    ),
    key(
        "metrics.access",
        Kind::Text,
        "loopback",
        "Who may read /metrics: loopback (this machine only), anyone, or nobody.",
    ),
    key(
        "emulate",
        Kind::Text,
        "",
        "Play the server of an older release, such as 0.1.0: it has only the capabilities which that release had. For \
         tests of upgrades.",
    ),
    key(
        "without_capability",
        Kind::List,
        "",
        "Play a server without these capabilities, such as token_rotation: it does not say them, and does what servers did \
         before there were any. For tests of old behaviour; other servers on the database do not say them either.",
    ),
];

/// The reference page `docs/reference/configuration.md`.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Configuration of muster-server\n\n\
         <!-- Written by `cargo xtask docs` from apps/server. Change it there. -->\n\n\
         A key can be set by a flag, a variable of the environment, or in a TOML file (`--config FILE`; without it\n\
         `muster.toml` in the data folder, when it is there). Flags win over the environment, the environment over the\n\
         file. `muster-server config show` prints what is in force and where each value came from. An unknown key is an\n\
         error.\n\n\
         | key | flag | variable | kind | default | meaning |\n|---|---|---|---|---|---|\n",
    );
    for key in KEYS {
        let default = if key.default.is_empty() {
            "-".to_owned()
        } else {
            format!("`{}`", key.default)
        };
        let other = key.short_flag();
        let other = other.map_or_else(String::new, |flag| format!(", `--{flag}`"));
        let _ = writeln!(
            page,
            "| `{}` | `--{}`{other} | `{}` | {} | {default} | {} |",
            key.name,
            key.flag(),
            key.variable(),
            key.kind.name(),
            key.help,
        );
    }
    page.push_str(
        "\n```toml\nlisten = \"0.0.0.0:8443\"\npublic_url = \"https://muster.example.com\"\n\n[database]\n\
         url = \"postgres://muster:password@db.example.com/muster\"\n\n[sink]\nfolder = \"/var/log/muster\"\n```\n",
    );
    page
}
