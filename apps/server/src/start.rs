//! From an empty folder to a running server, and to an orderly end.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_bus::{Bus, LocalBus, Relay};
use muster_clock::{Clock, Randomness, SystemClock, SystemRandomness};
use muster_identity::{Identity, IdentityError};
use muster_store::{Address, Database, Options};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certificates::Certificates;
use crate::compose::{self, App};
use crate::config::{BusSettings, Settings};
pub use crate::folder::{DataFolder, make_folder, refuse_unfinished};
use crate::gauges::Gauges;
use crate::listener;
use crate::observe::{Metrics, Observer};
use crate::pages::Pages;
use crate::schema::schema;
use crate::services::Services;
use crate::tls::{Tls, TlsError};

/// The server could not start. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error("{attempt} {}", path.display())]
    Folder {
        /// What was being done.
        attempt: &'static str,
        /// Which folder or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another server uses the data folder.
    #[error("another muster-server uses the data folder {}; stop it, or give this one another with --data-dir", path.display())]
    InUse {
        /// Which folder.
        path: PathBuf,
    },
    /// A restore did not come to its end.
    #[error(
        "a restore into the data folder {} did not come to its end; run it again with --replace", path.display()
    )]
    Unfinished {
        /// Which folder.
        path: PathBuf,
    },
    /// The port cannot be had.
    #[error("listen on {address}; choose another address with --listen")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The master key.
    #[error("use the master key")]
    MasterKey(#[from] muster_identity::MasterKeyError),
    /// The database.
    #[error("open the database {address}")]
    Database {
        /// Where, without its password.
        address: String,
        /// Why.
        #[source]
        source: muster_store::StoreError,
    },
    /// The schema.
    #[error("bring the database up to date")]
    Migrate(#[from] muster_store::MigrationError),
    /// Certificates.
    #[error("prepare TLS")]
    Tls(#[from] TlsError),
    /// The files of logs.
    #[error("open the files for what hosts log")]
    Sink(#[from] muster_sinks::OpenError),
    /// What has to be in memory.
    #[error("read what has to be in memory")]
    Load(#[source] muster_store::StoreError),
    /// The bus.
    #[error("open the bus")]
    Bus(#[from] muster_bus::BusError),
    /// People.
    #[error("read who may log in")]
    Identity(#[from] muster_identity::IdentityError),
}

/// What time, randomness and hints come from, so that tests can decide them.
#[derive(Clone)]
pub struct Ambient {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub randomness: Arc<dyn Randomness>,
    /// Hints between servers; none for what the configuration says.
    pub bus: Option<Arc<dyn Bus>>,
}

impl Default for Ambient {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            randomness: Arc::new(SystemRandomness),
            bus: None,
        }
    }
}

/// Lets this process have as many files open as it may: a connection is a file, and the usual limit of 1,024 is for
/// programs that do not know better.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(error = %error, "the limit of open files could not be raised");
    }
}

/// What to do when the data folder was used with another database than the one that is configured, which is not there.
pub(crate) const NAME_THE_DATABASE: &str = "this folder was used, or restored, with another \
                                 database: name that with database.url, --database or \
                                 MUSTER_DATABASE_URL; without it the server begins anew";

/// Says so when the embedded database of the configuration is not there, though the data folder was used.
pub(crate) fn used_elsewhere(settings: &Settings) -> Option<String> {
    let Address::Sqlite(path) = &settings.database else {
        return None;
    };
    let was_used = settings.data_dir.join("master.key").exists();
    (was_used && !path.exists())
        .then(|| format!("{} is not there; {NAME_THE_DATABASE}", path.display()))
}

/// Opens the database of the configuration.
pub async fn open_database(settings: &Settings) -> Result<Database, StartError> {
    let options = Options {
        max_connections: settings.database_max_connections,
        acquire_timeout: settings.database_timeout,
        busy_timeout: settings.database_timeout,
        statement_timeout: settings.database_statement_timeout,
    };
    Database::open(&settings.database, &options)
        .await
        .map_err(|source| StartError::Database {
            address: settings.database.to_string(),
            source,
        })
}

/// A server that runs.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where clients reach it, prefix included.
    pub public_url: String,
    /// What agents must trust, as PEM, when it made its own authority.
    pub authority_pem: Option<String>,
    /// The one-time link that makes the first administrator; none when there is one.
    pub setup_link: Option<String>,
    certificates: Arc<Certificates>,
    ambient: Ambient,
    services: Services,
    stop_serving: CancellationToken,
    stop_tasks: CancellationToken,
    stop_bus: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    tasks: TaskTracker,
    shutdown_timeout: Duration,
    folder: DataFolder,
}

/// Starts a server.
pub async fn start(settings: Settings, ambient: Ambient) -> Result<Running, StartError> {
    let folder = DataFolder::open(&settings.data_dir)?;
    refuse_unfinished(&folder.path)?;
    // The port first: that it is taken is the most frequent mistake, and nothing has been done yet.
    let listen_error = |source| StartError::Listen {
        address: settings.listen,
        source,
    };
    let listener = listener::bind(settings.listen).map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    let public_url = public_url(&settings, address);
    let now = ambient.clock.now();
    let tls = Tls::open(
        &settings.tls,
        &folder.path,
        certificate_names(&public_url, address),
        now,
    )?
    .map(Arc::new);
    let certificates = Certificates::new(&settings, tls.clone(), &public_url);
    // Before anything measures.
    let metrics = Metrics::begin();
    let database = open_database(&settings).await?;
    schema().apply(&database, now).await?;
    let (stop_serving, stop_tasks) = (CancellationToken::new(), CancellationToken::new());
    let stop_bus = CancellationToken::new();
    let tasks = TaskTracker::new();
    let bus = open_bus(&settings, &database, &ambient, &tasks, &stop_bus).await?;
    // Whatever fails from here on ends what was begun.
    let unbegun = stop_bus.clone().drop_guard();
    let name = format!("{}:{}", host_name(), address.port());
    let services = Services::new(
        &settings,
        &public_url,
        certificates.authority(now)?,
        &name,
        database.clone(),
        bus,
        &ambient,
    )?;
    check_master_key(&services.identity).await?;
    services.load().await.map_err(StartError::Load)?;
    let setup_link = services
        .identity
        .setup
        .reveal()
        .await?
        .map(|token| format!("{public_url}/setup?token={token}"));
    let address_file = address_file(&folder.path);
    keep_address(&address_file, &public_url).map_err(|source| StartError::Folder {
        attempt: "keep the address in the data folder",
        path: address_file,
        source,
    })?;

    services.replicas.join().await.map_err(StartError::Load)?;
    unbegun.disarm();
    services.run(&tasks, &stop_tasks);
    let gauges = Gauges::new(&settings, services.clone(), tls.clone());
    tasks.spawn(gauges.clone().count_hosts(stop_tasks.clone()));
    tasks.spawn({
        let (metrics, stop) = (metrics.clone(), stop_tasks.clone());
        async move { metrics.run(stop).await }
    });
    let certificates = Arc::new(certificates);
    tasks.spawn({
        let (certificates, collectors) = (Arc::clone(&certificates), services.collectors.clone());
        let (clock, stop) = (Arc::clone(&ambient.clock), stop_tasks.clone());
        async move { certificates.watch(&collectors, &*clock, stop).await }
    });
    tasks.close();
    let app = App {
        services: services.clone(),
        pages: Arc::new(Pages {
            database,
            bus: Arc::clone(&services.bus),
            metrics,
            gauges,
            metrics_access: settings.metrics_access,
            fleet_version: settings.fleet_version.clone(),
            public_url: public_url.clone(),
            settings: services.settings.clone(),
            tls: tls.clone(),
            started_at: now,
        }),
        setup_call_access: settings.setup_call_access,
        live_query_rest_period: settings.live_query_rest_period,
        observer: Observer::new(&*ambient.randomness),
        stopping: stop_serving.clone(),
    };
    let service = listener::Service {
        router: compose::router(&app),
        url_prefix: settings.url_prefix.clone(),
        proxies: settings.proxies.clone(),
    };
    let config = tls.as_ref().map(|tls| tls.config());
    let serving = tokio::spawn(listener::serve(
        listener,
        config,
        service,
        settings.max_connections,
        stop_serving.clone(),
        settings.shutdown_timeout,
    ));
    Ok(Running {
        address,
        public_url,
        authority_pem: tls
            .as_ref()
            .and_then(|tls| tls.authority_pem().map(str::to_owned)),
        setup_link,
        certificates,
        ambient,
        services,
        stop_serving,
        stop_tasks,
        stop_bus,
        serving,
        tasks,
        shutdown_timeout: settings.shutdown_timeout,
        folder,
    })
}

/// How long a start waits for the bus. Without it the server works, only later than it could.
const BUS_PATIENCE: Duration = Duration::from_secs(3);

/// Opens what joins this server with others on the same database.
pub(crate) async fn open_bus(
    settings: &Settings,
    database: &Database,
    ambient: &Ambient,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Arc<dyn Bus>, StartError> {
    if let Some(bus) = &ambient.bus {
        return Ok(Arc::clone(bus));
    }
    let randomness = &*ambient.randomness;
    let relay = match &settings.bus {
        BusSettings::Redis { url, channel } => Some(Relay::redis(url, channel, randomness)?),
        BusSettings::Database => Relay::postgres(database, randomness),
    };
    let Some((relay, task)) = relay else {
        return Ok(Arc::new(LocalBus::new()));
    };
    tasks.spawn(task.run(stop.clone()));
    // What is read after this is kept fresh.
    if tokio::time::timeout(BUS_PATIENCE, relay.connected())
        .await
        .is_err()
    {
        tracing::warn!(
            "the bus is away; what other servers change is found late until it is there"
        );
    }
    Ok(Arc::new(relay))
}

/// Refuses a database that belongs to another master key.
pub async fn check_master_key(identity: &Identity) -> Result<(), StartError> {
    identity
        .check_master_key()
        .await
        .map_err(|error| match error {
            IdentityError::Sealed(error) => StartError::MasterKey(error),
            other => StartError::Identity(other),
        })
}

impl Running {
    /// The folder for everything that it keeps.
    pub fn data_dir(&self) -> &Path {
        &self.folder.path
    }

    /// Takes new certificates and reopens files, as on SIGHUP.
    pub async fn reload(&self) {
        self.services.reopen().await;
        let now = self.ambient.clock.now();
        let certificate = self.certificates.reload(&self.services.collectors, now);
        tracing::info!(certificate, "opened the log files of hosts again");
    }

    /// Stops in order: takes no new connections, finishes requests, writes what is in memory, closes the database.
    pub async fn shut_down(self) {
        self.stop_serving.cancel();
        if let Err(error) = self.serving.await {
            tracing::error!(error = %error, "the listener broke");
        }
        self.stop_tasks.cancel();
        self.stop_bus.cancel();
        let rest = async {
            self.tasks.wait().await;
            self.services.close().await;
        };
        // A database that does not answer must not keep the program from ending. What was acknowledged is kept already.
        if tokio::time::timeout(self.shutdown_timeout, rest)
            .await
            .is_err()
        {
            tracing::error!("the database did not answer in time; ending without it");
        }
    }
}

fn host_name() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name
    }
}

/// Where clients reach the server, prefix included.
pub fn public_url(settings: &Settings, address: SocketAddr) -> String {
    let base = settings.public_url.clone().unwrap_or_else(|| {
        let scheme = if matches!(settings.tls, crate::config::TlsSettings::Off) {
            "http"
        } else {
            "https"
        };
        let host = if address.ip().is_loopback() {
            "localhost".to_owned()
        } else {
            host_name()
        };
        format!("{scheme}://{host}:{}", address.port())
    });
    base + &settings.url_prefix
}

/// Where the address is kept that the server last gave people, for commands that run beside it.
fn address_file(data_dir: &Path) -> PathBuf {
    data_dir.join("address")
}

fn keep_address(path: &Path, public_url: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    // Releases before 0.4.0 made it for everybody.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    writeln!(file, "{public_url}")
}

/// The address, with the prefix, at which people reached the server that last used the data folder.
pub fn last_address(data_dir: &Path) -> Option<String> {
    let text = fs::read_to_string(address_file(data_dir)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The host in an address, without brackets and port.
pub(crate) fn host_of(url: &str) -> &str {
    let host = url.split("://").nth(1).unwrap_or_default();
    let host = host.split('/').next().unwrap_or_default();
    match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// The names that the server's own certificate has: loopback, this machine, the public URL, the address it listens on.
fn certificate_names(public_url: &str, address: SocketAddr) -> Vec<String> {
    let mut names = vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    let host = host_of(public_url);
    let listened =
        (!address.ip().is_unspecified()).then(|| address.ip().to_canonical().to_string());
    for name in [
        Some(host.to_lowercase()),
        Some(host_name().to_lowercase()),
        listened,
    ]
    .into_iter()
    .flatten()
    {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_names_the_public_host() {
        let address = "192.0.2.1:8443".parse().unwrap();
        let names = certificate_names("https://Muster.Example.com:443/prefix", address);
        assert!(
            names.contains(&"muster.example.com".to_owned())
                && names.contains(&"192.0.2.1".to_owned())
        );
        let names = certificate_names("https://[2001:db8::1]:8443", "0.0.0.0:1".parse().unwrap());
        assert!(
            names.contains(&"2001:db8::1".to_owned()) && !names.contains(&"0.0.0.0".to_owned())
        );
    }
}
