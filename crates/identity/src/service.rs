//! The services of this crate, put together.

use std::sync::Arc;
use std::time::Duration;

use muster_bus::{Bus, Hint, Topic};
use muster_clock::{Clock, Randomness, Timestamp};
use muster_replicas::Lease;
use muster_store::Database;
use tokio_util::sync::CancellationToken;

use crate::{
    AgentKeys, ApiTokens, Audit, CollectorKeys, Denials, EnrollmentTokens, IdentityError,
    MasterKey, MasterKeyError, SecondFactor, Sessions, Teams, Users, secret, store,
};

/// How often what is kept in memory is written and compared with the database.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(30);

/// How often what belongs to teams is compared with the teams that there are.
const TEAMS_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// What operators decide about people.
#[derive(Debug, Clone)]
pub struct IdentityOptions {
    /// A session that is not used for so long ends.
    pub session_lifetime: Duration,
    /// What authenticator apps show beside the account.
    pub issuer: String,
    /// After which age collectors are offered a new key; never without one.
    pub collector_key_lifetime: Option<Duration>,
}

impl Default for IdentityOptions {
    /// Sessions of five days, as Fleet has it; collectors' keys of 90 days.
    fn default() -> Self {
        Self {
            session_lifetime: Duration::from_secs(5 * 24 * 60 * 60),
            issuer: "Muster".to_owned(),
            collector_key_lifetime: Some(Duration::from_secs(90 * 24 * 60 * 60)),
        }
    }
}

/// What every service needs.
pub(crate) struct Context {
    pub(crate) database: Database,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) randomness: Arc<dyn Randomness>,
}

impl Context {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Tells all replicas that something changed. That they hear of it late is no reason to fail.
    pub(crate) async fn hint(&self, topic: Topic, key: impl ToString) {
        if let Err(error) = self.bus.publish(Hint::new(topic, key)).await {
            tracing::warn!(
                error = muster_http::error_chain(&error),
                "could not publish a hint"
            );
        }
    }
}

/// Everything that knows who is who.
#[derive(Clone)]
pub struct Identity {
    /// People and programs that act.
    pub users: Users,
    /// Their logins.
    pub sessions: Sessions,
    /// What logins need beside a password.
    pub second_factor: SecondFactor,
    /// Their tokens for programs.
    pub api_tokens: ApiTokens,
    /// Teams.
    pub teams: Teams,
    /// Tokens by which agents enroll.
    pub enrollment_tokens: EnrollmentTokens,
    /// Keys of enrolled agents.
    pub agent_keys: AgentKeys,
    /// Keys of collectors.
    pub collector_keys: CollectorKeys,
    /// Who changed what.
    pub audit: Audit,
    /// Who was denied what.
    pub denials: Denials,
    /// The one-time link by which the first admin is made.
    pub setup: SetupToken,
    /// What tells the master key from others.
    fingerprint: [u8; 32],
    master_key: Arc<MasterKey>,
    context: Arc<Context>,
}

impl Identity {
    /// Seals a secret that another crate has to use again. It is bound to `context`, which names the row that it is for.
    pub fn seal_secret(&self, secret: &str, context: &str) -> Vec<u8> {
        self.master_key
            .seal(secret, context, &*self.context.randomness)
    }

    /// Opens what [`seal_secret`](Self::seal_secret) sealed for the same context.
    pub fn open_secret(&self, sealed: &[u8], context: &str) -> Result<String, MasterKeyError> {
        self.master_key.open(sealed, context)
    }

    /// Puts the services together; nothing is read yet.
    pub fn new(
        database: Database,
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        randomness: Arc<dyn Randomness>,
        master_key: Arc<MasterKey>,
    ) -> Self {
        let options = IdentityOptions::default();
        Self::with_options(database, bus, clock, randomness, master_key, &options)
    }

    /// The same, with what an operator decided.
    pub fn with_options(
        database: Database,
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        randomness: Arc<dyn Randomness>,
        master_key: Arc<MasterKey>,
        options: &IdentityOptions,
    ) -> Self {
        let context = Arc::new(Context {
            database,
            bus,
            clock,
            randomness,
        });
        let audit = Audit::new(Arc::clone(&context));
        let users = Users::new(Arc::clone(&context), audit.clone());
        let denials = Denials::new(Arc::clone(&context));
        let second_factor = SecondFactor::new(
            Arc::clone(&context),
            users.clone(),
            audit.clone(),
            Arc::clone(&master_key),
            options.issuer.clone(),
        );
        let collector_keys = CollectorKeys::new(
            Arc::clone(&context),
            audit.clone(),
            denials.clone(),
            options.collector_key_lifetime,
        );
        let teams = Teams::new(Arc::clone(&context), audit.clone());
        teams.attach(Arc::new(collector_keys.clone()));
        Self {
            sessions: Sessions::new(
                Arc::clone(&context),
                users.clone(),
                second_factor.clone(),
                audit.clone(),
                options.session_lifetime,
            ),
            second_factor,
            api_tokens: ApiTokens::new(Arc::clone(&context), users.clone(), audit.clone()),
            teams,
            setup: SetupToken::new(&master_key, users.clone()),
            fingerprint: master_key.fingerprint(),
            master_key: Arc::clone(&master_key),
            enrollment_tokens: EnrollmentTokens::new(
                Arc::clone(&context),
                audit.clone(),
                master_key,
            ),
            agent_keys: AgentKeys::new(Arc::clone(&context), denials.clone()),
            collector_keys,
            denials,
            users,
            audit,
            context,
        }
    }

    /// Refuses a database whose secrets another master key sealed: they could not be shown, and setup links of two
    /// servers would differ. A new database belongs to the key that comes first.
    pub async fn check_master_key(&self) -> Result<(), IdentityError> {
        let mut db = &self.context.database;
        if store::master_key::claim(&mut db, &self.fingerprint).await? == self.fingerprint {
            Ok(())
        } else {
            Err(MasterKeyError::Foreign.into())
        }
    }

    /// Writes last uses, follows hints, forgets sessions that ran out and looks after what teams left behind, until it is
    /// told to stop; then writes what is left. What one replica does for all hangs on `upkeep`.
    pub async fn run_maintenance(&self, upkeep: &Lease, shutdown: CancellationToken) {
        let mut hints = self.agent_keys.subscribe();
        let mut timer = tokio::time::interval(MAINTENANCE_INTERVAL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut teams = tokio::time::interval(TEAMS_INTERVAL);
        teams.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                hint = hints.next() => match hint {
                    Some(hint) => {
                        self.agent_keys.follow(&hint);
                        self.collector_keys.follow(&hint);
                        self.enrollment_tokens.follow(&hint);
                        let compared = self.collector_keys.reconcile_if_asked().await;
                        report(compared.map_err(IdentityError::from));
                    }
                    None => break,
                },
                () = self.denials.first() => {
                    report(self.denials.flush(false).await.map_err(IdentityError::from));
                }
                _ = timer.tick() => self.maintain(upkeep).await,
                () = upkeep.due(&mut teams) => {
                    report(self.teams.reconcile().await);
                    report(self.audit.forget_denials().await.map(drop).map_err(IdentityError::from));
                    report(self.agent_keys.purge().await.map(drop).map_err(IdentityError::from));
                    report(self.collector_keys.purge().await.map(drop).map_err(IdentityError::from));
                }
            }
        }
        self.maintain(upkeep).await;
        report(self.denials.flush(true).await.map_err(IdentityError::from));
    }

    async fn maintain(&self, upkeep: &Lease) {
        self.enrollment_tokens.expire_cache();
        let compared = self
            .agent_keys
            .reconcile()
            .await
            .map_err(IdentityError::from);
        let flushed = self.agent_keys.flush().await.map_err(IdentityError::from);
        let collectors = async {
            self.collector_keys.reconcile().await?;
            self.collector_keys.flush().await
        };
        report(collectors.await.map_err(IdentityError::from));
        report(self.denials.flush(false).await.map_err(IdentityError::from));
        report(compared);
        report(flushed);
        if upkeep.is_held() {
            report(self.sessions.end_idle().await);
        }
    }
}

fn report(result: Result<(), IdentityError>) {
    if let Err(error) = result {
        tracing::warn!(
            error = muster_http::error_chain(&error),
            "identity maintenance failed; it is tried again"
        );
    }
}

/// The one-time secret that makes the first admin, void as soon as there is a user. It follows from the master key, so
/// that all replicas take the same one, and it can be shown again on the server's machine.
#[derive(Clone)]
pub struct SetupToken {
    text: Arc<str>,
    hash: [u8; 32],
    users: Users,
}

impl SetupToken {
    fn new(master_key: &MasterKey, users: Users) -> Self {
        let text = secret::spelled("setup", &master_key.derive("setup token"));
        Self {
            hash: secret::hash(&text),
            text: text.into(),
            users,
        }
    }

    /// The secret, for the link that the server prints; none once there is a user.
    pub async fn reveal(&self) -> Result<Option<Arc<str>>, IdentityError> {
        Ok(if self.users.any().await? {
            None
        } else {
            Some(Arc::clone(&self.text))
        })
    }

    /// Whether this is the secret.
    pub fn is(&self, presented: &str) -> bool {
        secret::hash(presented) == self.hash
    }
}

impl std::fmt::Debug for SetupToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SetupToken(…)")
    }
}
