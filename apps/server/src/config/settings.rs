//! The configuration as typed values.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderName;
use muster_collectors::MAX_HEADERS_BYTES;
use muster_http::{ClientAddress, Network, NotANetwork};
use muster_negotiation::{Capability, Offer, Release};
use muster_store::Address;

use super::layers::{ConfigError, Layered, nearest};
use crate::proxies::Proxies;

/// From where something may be asked that needs no login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only this machine.
    Loopback,
    /// Whoever reaches the listener.
    Anyone,
    /// Nobody: the route is not there.
    Nobody,
}

impl Access {
    /// Whether a client may; one behind a proxy is not on this machine, whatever its address says.
    pub fn admits(self, address: ClientAddress, is_forwarded: bool) -> bool {
        match self {
            Self::Loopback => !is_forwarded && super::is_loopback(address.0),
            Self::Anyone => true,
            Self::Nobody => false,
        }
    }
}

/// How replicas tell each other what changed.
#[derive(Clone)]
pub enum BusSettings {
    /// By the database, or not at all when that is the embedded one.
    Database,
    /// By a Redis server.
    Redis {
        /// Its address, perhaps with a password.
        url: String,
        /// The channel of this installation.
        channel: String,
    },
}

impl std::fmt::Debug for BusSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Database => "Database",
            Self::Redis { .. } => "Redis",
        })
    }
}

/// How the listener speaks TLS.
#[derive(Debug, Clone)]
pub enum TlsSettings {
    /// Not at all: a proxy does.
    Off,
    /// With a certificate authority and certificate that the server makes for itself.
    Own,
    /// With a certificate that the operator gave.
    Files {
        /// The certificate and its chain.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// Everything that can be configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder for everything that the server keeps.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where clients reach it; none for this machine's name.
    pub public_url: Option<String>,
    /// Path under which everything is served; empty, or beginning with a slash and not ending in one.
    pub url_prefix: String,
    /// The database.
    pub database: Address,
    /// The most connections to it.
    pub database_max_connections: u32,
    /// How long a statement waits for a connection or a lock.
    pub database_timeout: Duration,
    /// How long a statement may run.
    pub database_statement_timeout: Duration,
    /// How replicas tell each other what changed.
    pub bus: BusSettings,
    /// TLS.
    pub tls: TlsSettings,
    /// Proxies whose header is believed.
    pub proxies: Proxies,
    /// The most connections from clients.
    pub max_connections: usize,
    /// How long requests may take to finish at the end.
    pub shutdown_timeout: Duration,
    /// Whether the log is JSON.
    pub log_json: bool,
    /// What is logged, as tracing's filter.
    pub log_level: String,
    /// How many threads serve requests; none for one per core.
    pub worker_threads: Option<usize>,
    /// A session that is not used for so long ends.
    pub session_lifetime: Duration,
    /// How often collectors are told to be heard, in seconds.
    pub opamp_heartbeat_seconds: u32,
    /// File of the authorities that collectors are told to trust.
    pub opamp_ca_file: Option<PathBuf>,
    /// Headers that collectors have to send besides their key.
    pub opamp_headers: Vec<(String, String)>,
    /// Words in keys whose values are masked in configurations of collectors.
    pub opamp_masked_keys: Vec<String>,
    /// How many new collectors may come by one token from one address in a day.
    pub opamp_new_per_day: u32,
    /// Collectors are offered a new access key after so long; none for never.
    pub access_key_lifetime: Option<Duration>,
    /// Folder of what hosts log.
    pub sink_folder: PathBuf,
    /// A file of it is rotated when it is larger, in bytes.
    pub sink_max_file_bytes: u64,
    /// How many rotated files are kept.
    pub sink_max_backups: u32,
    /// The version that Fleet's clients are told.
    pub fleet_version: String,
    /// How long a live query without a stream waits.
    pub live_query_rest_period: Duration,
    /// Who may read the metrics.
    pub metrics_access: Access,
    /// From where Fleet's setup call makes the first administrator.
    pub setup_call_access: Access,
    /// The release that is played.
    pub emulate: Release,
    /// What it can do: what that release could, but for what it plays not to have.
    pub offer: Offer,
}

impl Settings {
    /// Checks the texts.
    pub fn from_layers(layers: &Layered) -> Result<Self, ConfigError> {
        let text = |name: &str| layers.text(name).trim();
        let optional = |name: &str| Some(text(name)).filter(|value| !value.is_empty());
        let data_dir =
            optional("data_dir").ok_or_else(|| layers.wrong("data_dir", "must not be empty"))?;
        let data_dir = PathBuf::from(data_dir);
        let database = match optional("database.url") {
            None => Address::Sqlite(data_dir.join("muster.db")),
            Some(url) => url
                .parse()
                .map_err(|error| layers.wrong("database.url", format!("{error}")))?,
        };
        let tls = match (
            flag(layers, "tls.enabled")?,
            optional("tls.certificate"),
            optional("tls.key"),
        ) {
            (false, None, None) => TlsSettings::Off,
            (false, ..) => {
                return Err(layers.wrong(
                    "tls.enabled",
                    "is false, but tls.certificate or tls.key is set: leave those out",
                ));
            }
            (true, None, None) => TlsSettings::Own,
            (true, Some(certificate), Some(key)) => TlsSettings::Files {
                certificate: certificate.into(),
                key: key.into(),
            },
            (true, ..) => {
                return Err(
                    layers.wrong("tls.certificate", "needs tls.key, and the other way round")
                );
            }
        };
        let emulate = emulate(layers)?;
        let sink_folder =
            optional("sink.folder").map_or_else(|| data_dir.join("logs"), PathBuf::from);
        Ok(Self {
            listen: listen(layers)?,
            public_url: public_url(layers)?,
            url_prefix: url_prefix(layers)?,
            bus: bus(layers, &database)?,
            database,
            database_max_connections: number(layers, "database.max_connections", 1, 1_000)? as u32,
            database_timeout: span(layers, "database.timeout")?,
            database_statement_timeout: span(layers, "database.statement_timeout")?,
            tls,
            proxies: proxies(layers)?,
            max_connections: number(layers, "max_connections", 1, 10_000_000)? as usize,
            shutdown_timeout: span(layers, "shutdown_timeout")?,
            log_json: choice(layers, "log.format", &["text", "json"])? == "json",
            log_level: text("log.level").to_owned(),
            worker_threads: Some(number(layers, "worker_threads", 0, 1_024)? as usize)
                .filter(|threads| *threads > 0),
            session_lifetime: span(layers, "session.lifetime")?,
            opamp_heartbeat_seconds: opamp_heartbeat(layers)?,
            opamp_ca_file: optional("opamp.ca_file").map(PathBuf::from),
            opamp_headers: opamp_headers(layers)?,
            opamp_masked_keys: items(layers, "opamp.masked_keys")
                .map(str::to_owned)
                .collect(),
            opamp_new_per_day: number(layers, "opamp.new_per_day", 1, 1_000_000_000)? as u32,
            access_key_lifetime: match layers.text("access_key.lifetime").trim() {
                "never" => None,
                _ => Some(span(layers, "access_key.lifetime")?),
            },
            sink_folder,
            sink_max_file_bytes: bytes(layers, "sink.max_file_size")?,
            sink_max_backups: number(layers, "sink.max_backups", 0, 1_000)? as u32,
            fleet_version: text("fleet.version").to_owned(),
            live_query_rest_period: span(layers, "live_query.rest_period")?,
            metrics_access: access(layers, "metrics.access")?,
            setup_call_access: access(layers, "fleet.setup")?,
            emulate,
            offer: offer(layers, emulate)?,
            data_dir,
        })
    }
}

fn items<'a>(layers: &'a Layered, name: &str) -> impl Iterator<Item = &'a str> {
    let items = layers.text(name).split(',').map(str::trim);
    items.filter(|item| !item.is_empty())
}

fn opamp_heartbeat(layers: &Layered) -> Result<u32, ConfigError> {
    let name = "opamp.heartbeat";
    let seconds = span(layers, name)?.as_secs();
    let seconds = u32::try_from(seconds)
        .ok()
        .filter(|seconds| (5..=3_600).contains(seconds));
    seconds.ok_or_else(|| layers.wrong(name, "must be from 5s to 1h"))
}

fn opamp_headers(layers: &Layered) -> Result<Vec<(String, String)>, ConfigError> {
    let name = "opamp.headers";
    if layers.text(name).len() > MAX_HEADERS_BYTES {
        let reason =
            format!("must be at most {MAX_HEADERS_BYTES} bytes, since every offer has them");
        return Err(layers.wrong(name, reason));
    }
    items(layers, name)
        .map(|item| {
            let (key, value) = item.split_once(':').unwrap_or((item, ""));
            let (key, value) = (key.trim(), value.trim());
            let is_header = HeaderName::from_bytes(key.as_bytes()).is_ok();
            // The value may be a secret: it is not repeated.
            if !is_header || value.is_empty() {
                return Err(layers.wrong(name, "must be headers such as X-Tenant: blue"));
            }
            if key.eq_ignore_ascii_case("authorization") {
                return Err(layers.wrong(name, "must not name Authorization: that carries the key"));
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn emulate(layers: &Layered) -> Result<Release, ConfigError> {
    let text = layers.text("emulate").trim();
    if text.is_empty() {
        return Ok(Release::current());
    }
    let release: Release = text
        .parse()
        .map_err(|error| layers.wrong("emulate", format!("{error}")))?;
    if release > Release::current() {
        let reason = format!("must not be newer than {}", Release::current());
        return Err(layers.wrong("emulate", reason));
    }
    Ok(release)
}

fn offer(layers: &Layered, release: Release) -> Result<Offer, ConfigError> {
    let key = "without_capability";
    let names = layers.text(key).split(',').map(str::trim);
    let mut left_out = Vec::new();
    for name in names.filter(|name| !name.is_empty()) {
        let known = Offer::of(Release::current()).set();
        let found = Capability::by_name(name).filter(|found| known.has(*found));
        left_out.push(found.ok_or_else(|| {
            let hint = nearest(&name.to_lowercase(), known.names()).map_or_else(
                || {
                    let names: Vec<&str> = known.names().collect();
                    format!("; this server has {}", names.join(", "))
                },
                |meant| format!("; did you mean {meant}?"),
            );
            layers.wrong(
                key,
                format!("there is no capability {name:?} of this server{hint}"),
            )
        })?);
    }
    Ok(Offer::of(release).without(&left_out))
}

fn bus(layers: &Layered, database: &Address) -> Result<BusSettings, ConfigError> {
    let url = layers.text("bus.url").trim();
    let channel = layers.text("bus.channel").trim();
    if channel.is_empty() {
        return Err(layers.wrong("bus.channel", "must not be empty"));
    }
    if url.is_empty() {
        return Ok(BusSettings::Database);
    }
    if matches!(database, Address::Sqlite(_)) {
        return Err(layers.wrong(
            "bus.url",
            "is for several servers on one database: give a PostgreSQL database.url, or leave it out",
        ));
    }
    // The address may hold a password: it is not repeated.
    muster_bus::Relay::check_redis(url)
        .map_err(|error| layers.wrong("bus.url", format!("{error}")))?;
    Ok(BusSettings::Redis {
        url: url.to_owned(),
        channel: channel.to_owned(),
    })
}

fn listen(layers: &Layered) -> Result<SocketAddr, ConfigError> {
    let text = layers.text("listen").trim();
    let wrong = || {
        layers.wrong(
            "listen",
            "must be an address and a port, such as 0.0.0.0:8443, [::]:8443 or :8443",
        )
    };
    let text = text
        .strip_prefix(':')
        .map_or_else(|| text.to_owned(), |port| format!("0.0.0.0:{port}"));
    let text = text
        .strip_prefix("localhost:")
        .map_or_else(|| text.clone(), |port| format!("127.0.0.1:{port}"));
    text.parse().map_err(|_| wrong())
}

fn access(layers: &Layered, key: &str) -> Result<Access, ConfigError> {
    Ok(
        match choice(layers, key, &["loopback", "anyone", "nobody"])? {
            "anyone" => Access::Anyone,
            "nobody" => Access::Nobody,
            _ => Access::Loopback,
        },
    )
}

fn public_url(layers: &Layered) -> Result<Option<String>, ConfigError> {
    let text = layers.text("public_url").trim().trim_end_matches('/');
    if text.is_empty() {
        return Ok(None);
    }
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(host) if !host.is_empty() && !host.contains(['/', ' ', '@', '?', '#']) => Ok(Some(text.to_owned())),
        _ => Err(layers.wrong(
            "public_url",
            "must be a scheme, a host and perhaps a port, such as https://muster.example.com; a path goes into url_prefix",
        )),
    }
}

fn url_prefix(layers: &Layered) -> Result<String, ConfigError> {
    let text = layers.text("url_prefix").trim().trim_end_matches('/');
    let allowed =
        |character: char| character.is_ascii_alphanumeric() || "/-_.~".contains(character);
    if text.is_empty()
        || (text.starts_with('/') && !text.contains("//") && text.chars().all(allowed))
    {
        return Ok(text.to_owned());
    }
    Err(layers.wrong("url_prefix", "must be a path such as /muster"))
}

fn proxies(layers: &Layered) -> Result<Proxies, ConfigError> {
    let name = layers.text("client_address_header").trim();
    let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        layers.wrong(
            "client_address_header",
            format!("{name:?} is not the name of a header, such as X-Forwarded-For"),
        )
    })?;
    Ok(Proxies {
        trusted: networks(layers)?,
        header,
    })
}

fn networks(layers: &Layered) -> Result<Vec<Network>, ConfigError> {
    let items = layers
        .text("trusted_proxies")
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    items
        .map(|item| {
            item.parse()
                .map_err(|error: NotANetwork| layers.wrong("trusted_proxies", error.to_string()))
        })
        .collect()
}

fn flag(layers: &Layered, name: &str) -> Result<bool, ConfigError> {
    match layers.text(name).trim() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(layers.wrong(name, "must be true or false")),
    }
}

fn number(layers: &Layered, name: &str, least: u64, most: u64) -> Result<u64, ConfigError> {
    let number = layers
        .text(name)
        .trim()
        .parse()
        .ok()
        .filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| layers.wrong(name, format!("must be a number from {least} to {most}")))
}

fn choice<'a>(layers: &Layered, name: &str, choices: &[&'a str]) -> Result<&'a str, ConfigError> {
    let text = layers.text(name).trim();
    let chosen = choices
        .iter()
        .find(|choice| choice.eq_ignore_ascii_case(text));
    chosen
        .copied()
        .ok_or_else(|| layers.wrong(name, format!("must be one of {}", choices.join(", "))))
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?
        .1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn span(layers: &Layered, name: &str) -> Result<Duration, ConfigError> {
    let units = [
        ("ms", 1),
        ("s", 1_000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    let millis = with_unit(layers.text(name).trim(), &units).filter(|millis| *millis > 0);
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| layers.wrong(name, "must be a time such as 30s, 15m, 12h or 5d"))
}

fn bytes(layers: &Layered, name: &str) -> Result<u64, ConfigError> {
    let units = [
        ("", 1),
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
    ];
    let bytes = with_unit(layers.text(name).trim(), &units).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| layers.wrong(name, "must be a size such as 500000, 64KiB or 10MiB"))
}

/// Whether an address is one of this machine.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
