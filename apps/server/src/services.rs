//! The domain crates' services, put together over one database.
//!
//! Here is decided which crate is handed which other; none of them knows the server.

use std::sync::Arc;

use muster_bus::Bus;
use muster_collectors::configurations::{ConfigurationParts, Configurations};
use muster_collectors::service::OfferSettings;
use muster_collectors::{CollectorParts, Collectors, Masking};
use muster_hosts::{AgentParts, Agents, DistributedSource, Hosts};
use muster_identity::{Identity, IdentityOptions, MasterKey};
use muster_queries::Queries;
use muster_replicas::{About, Replicas};
use muster_settings::SettingsService;
use muster_sinks::{FileSink, FileSinkOptions, Sink};
use muster_software::Software;
use muster_store::{Database, StoreError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Settings;
use crate::start::{Ambient, StartError};
use crate::targets::{HostTargets, SettingSwitches};

/// All services of a server.
#[derive(Clone)]
pub struct Services {
    /// The database beneath all of them.
    pub database: Database,
    /// Who is who.
    pub identity: Identity,
    /// Inventories of software.
    pub software: Software,
    /// What operators edit.
    pub settings: SettingsService,
    /// Hosts as operators see them.
    pub hosts: Hosts,
    /// What hosts are asked.
    pub queries: Queries,
    /// What agents ask.
    pub agents: Agents,
    /// Where agents' logs go.
    pub sink: Arc<FileSink>,
    /// Agents that speak OpAMP.
    pub collectors: Collectors,
    /// What they should run.
    pub configurations: Configurations,
    /// The servers that share the database.
    pub replicas: Replicas,
    /// Hints between them.
    pub bus: Arc<dyn Bus>,
}

/// What authenticator apps show beside the account: with the server's name, for those who have several.
fn issuer(public_url: Option<&str>) -> String {
    let host = public_url
        .and_then(|url| url.split_once("://"))
        .map(|(_, rest)| rest.split(['/', ':']).next().unwrap_or_default())
        .filter(|host| !host.is_empty() && !host.starts_with('['));
    host.map_or_else(|| "Muster".to_owned(), |host| format!("Muster {host}"))
}

/// Who is who, on a migrated database: all that the administrator's commands need.
pub fn identity(
    settings: &Settings,
    database: Database,
    bus: Arc<dyn Bus>,
    ambient: &Ambient,
) -> Result<Identity, StartError> {
    let path = settings.data_dir.join("master.key");
    let key = MasterKey::load_or_create(&path, &*ambient.randomness)?;
    let options = IdentityOptions {
        session_lifetime: settings.session_lifetime,
        collector_key_lifetime: settings.access_key_lifetime,
        issuer: issuer(settings.public_url.as_deref()),
    };
    let (clock, randomness) = (Arc::clone(&ambient.clock), Arc::clone(&ambient.randomness));
    let key = Arc::new(key);
    Ok(Identity::with_options(
        database, bus, clock, randomness, key, &options,
    ))
}

impl Services {
    /// Puts the services together on a migrated database. Opens the files of logs; reads nothing else yet.
    pub fn new(
        configuration: &Settings,
        public_url: &str,
        authority_pem: Option<String>,
        name: &str,
        database: Database,
        bus: Arc<dyn Bus>,
        ambient: &Ambient,
    ) -> Result<Self, StartError> {
        let identity = identity(configuration, database.clone(), Arc::clone(&bus), ambient)?;
        let sink = Arc::new(FileSink::open(FileSinkOptions {
            folder: configuration.sink_folder.clone(),
            max_file_bytes: configuration.sink_max_file_bytes,
            kept_files: configuration.sink_max_backups,
        })?);
        let software = Software::new(database.clone());
        let clock = Arc::clone(&ambient.clock);
        let settings = SettingsService::new(
            database.clone(),
            Arc::clone(&bus),
            Arc::clone(&clock),
            &identity,
            public_url,
        );
        let hosts = Hosts::new(
            database.clone(),
            Arc::clone(&bus),
            Arc::clone(&clock),
            identity.clone(),
            software.clone(),
        );
        let queries = Queries::new(
            database.clone(),
            Arc::clone(&bus),
            Arc::clone(&clock),
            &identity,
            Arc::new(HostTargets(hosts.clone())),
            Arc::new(SettingSwitches(settings.clone())),
        );
        for belongings in [
            hosts.belongings(),
            settings.belongings(),
            Arc::new(queries.saved.clone()),
        ] {
            identity.teams.attach(belongings);
        }
        identity
            .enrollment_tokens
            .attach_labels(hosts.token_labels());
        let about = About {
            name: name.to_owned(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            offer: configuration.offer,
        };
        let replicas = Replicas::new(
            database.clone(),
            Arc::clone(&bus),
            Arc::clone(&clock),
            &*ambient.randomness,
            about,
        );
        hosts.attach_standing(replicas.standing());
        let collectors = Collectors::new(CollectorParts {
            database: database.clone(),
            bus: Arc::clone(&bus),
            clock: Arc::clone(&clock),
            randomness: Arc::clone(&ambient.randomness),
            identity: identity.clone(),
            settings: muster_collectors::service::Settings {
                offers: Some(OfferSettings {
                    public_url: public_url.to_owned(),
                    authority_pem,
                    headers: configuration.opamp_headers.clone(),
                    heartbeat_seconds: configuration.opamp_heartbeat_seconds,
                }),
                masking: Masking::new(&configuration.opamp_masked_keys),
                new_per_day: configuration.opamp_new_per_day,
            },
        });
        identity.teams.attach(Arc::new(collectors.clone()));
        identity.teams.attach(collectors.telemetry_belongings());
        collectors.attach_hosts(&hosts);
        hosts.attach_collectors(Arc::new(collectors.clone()));
        identity
            .enrollment_tokens
            .attach_collectors(Arc::new(collectors.clone()));
        identity
            .collector_keys
            .attach_collectors(Arc::new(collectors.clone()));
        let configurations = Configurations::new(ConfigurationParts {
            database: database.clone(),
            bus: Arc::clone(&bus),
            clock: Arc::clone(&clock),
            identity: identity.clone(),
            masking: Masking::new(&configuration.opamp_masked_keys),
            collectors: collectors.clone(),
        });
        identity.teams.attach(Arc::new(configurations.clone()));
        let agents = Agents::new(AgentParts {
            database: database.clone(),
            bus: Arc::clone(&bus),
            clock,
            enrollment_tokens: identity.enrollment_tokens.clone(),
            denials: identity.denials.clone(),
            agent_keys: identity.agent_keys.clone(),
            options: Arc::new(settings.clone()),
            software: software.clone(),
            sink: Arc::clone(&sink) as Arc<dyn Sink>,
            sources: vec![Arc::new(queries.live.clone()) as Arc<dyn DistributedSource>],
            schedule: Arc::new(queries.saved.clone()),
            standing: replicas.standing().clone(),
        });
        Ok(Self {
            database,
            identity,
            software,
            settings,
            hosts,
            queries,
            agents,
            sink,
            collectors,
            configurations,
            replicas,
            bus,
        })
    }

    /// Reads what has to be in memory before the first request.
    pub async fn load(&self) -> Result<(), StoreError> {
        self.settings.reload().await?;
        self.queries.start().await?;
        self.agents.start().await
    }

    /// Starts what runs beside requests: it ends when `stop` is cancelled, after writing what is in memory.
    pub fn run(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        let upkeep = |name| self.replicas.lease(name);
        let (people, hosts, questions) = (
            upkeep("identity.upkeep"),
            upkeep("hosts.upkeep"),
            upkeep("queries.upkeep"),
        );
        tasks.spawn({
            let (replicas, stop) = (self.replicas.clone(), stop.clone());
            async move { replicas.run(stop).await }
        });
        tasks.spawn({
            let (identity, settings) = (self.identity.clone(), Arc::new(self.settings.clone()));
            let (lease, stop) = (people.clone(), stop.clone());
            async move { identity.run_audit_expiry(settings, &lease, stop).await }
        });
        tasks.spawn({
            let (identity, stop) = (self.identity.clone(), stop.clone());
            async move { identity.run_maintenance(&people, stop).await }
        });
        tasks.spawn({
            let (settings, stop) = (self.settings.clone(), stop.clone());
            async move { settings.run(stop).await }
        });
        tasks.spawn({
            let (agents, stop) = (self.agents.clone(), stop.clone());
            async move { agents.run(&hosts, stop).await }
        });
        tasks.spawn({
            let (hosts, settings) = (self.hosts.clone(), self.settings.clone());
            let (lease, stop) = (upkeep("hosts.expiry"), stop.clone());
            async move { hosts.run_expiry(Arc::new(settings), &lease, stop).await }
        });
        tasks.spawn({
            let (collectors, lease) = (self.collectors.clone(), upkeep("collectors.upkeep"));
            let stop = stop.clone();
            async move { Box::pin(collectors.run(&lease, stop)).await }
        });
        tasks.spawn({
            let (collectors, settings) = (self.collectors.clone(), self.settings.clone());
            let (lease, stop) = (upkeep("collectors.expiry"), stop.clone());
            async move {
                let expiry = collectors.run_expiry(Arc::new(settings), &lease, stop);
                expiry.await;
            }
        });
        tasks.spawn({
            let configurations = self.configurations.clone();
            let (lease, stop) = (upkeep("collectors.configurations"), stop.clone());
            async move { configurations.run(&lease, stop).await }
        });
        tasks.spawn({
            let (queries, stop) = (self.queries.clone(), stop.clone());
            async move { queries.run(&questions, stop).await }
        });
    }

    /// Opens the files of logs again, after somebody else renamed them.
    pub async fn reopen(&self) {
        if let Err(error) = self.sink.reopen().await {
            tracing::error!(
                error = muster_http::error_chain(&error),
                "the files of logs could not be opened again; logs of hosts are refused until they can"
            );
        }
    }

    /// Writes what waits and closes the database. Call it when nothing runs any more.
    pub async fn close(&self) {
        self.sink.close().await;
        self.database.close().await;
    }
}
