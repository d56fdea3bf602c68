//! Bringing a database's schema up to what this program needs.
//!
//! Each domain crate lists its own migrations, oldest first; the program puts the lists together as a [`Schema`]. What
//! has been applied stands in `store_migrations` with a hash of its text: a migration that was ever released does not
//! change. Old and new programs may run side by side on one database, so a migration only adds what the former release
//! can ignore; what is to be removed goes a release later.

use std::collections::HashMap;

use muster_clock::Timestamp;

use crate::{Database, Dialect, Executor, StoreError, args};

/// One change of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// What it does, in a few words with underscores; unique in its crate, never changed.
    pub name: &'static str,
    /// The SQL for both databases; several statements are allowed.
    pub sql: &'static str,
    /// The SQL for PostgreSQL, when it differs.
    pub postgres: Option<&'static str>,
}

impl Migration {
    /// A migration whose text serves both databases.
    pub const fn new(name: &'static str, sql: &'static str) -> Self {
        Self {
            name,
            sql,
            postgres: None,
        }
    }

    /// The text for one of the databases.
    pub fn text(&self, dialect: Dialect) -> &'static str {
        match (dialect, self.postgres) {
            (Dialect::Postgres, Some(text)) => text,
            _ => self.sql,
        }
    }

    fn hash(&self, dialect: Dialect) -> String {
        use std::fmt::Write as _;
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.text(dialect).as_bytes());
        digest
            .as_ref()
            .iter()
            .fold(String::with_capacity(64), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
    }
}

/// All migrations of a program: crates in the order in which they may refer to each other.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    crates: Vec<(&'static str, &'static [Migration])>,
}

/// A migration that has not been applied yet.
#[derive(Debug, Clone, Copy)]
pub struct PlannedMigration {
    /// Whose tables it changes.
    pub crate_name: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What will be run.
    pub sql: &'static str,
}

/// The schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The database refused or was away.
    #[error("migrate the database")]
    Store(#[from] StoreError),
    /// A migration failed.
    #[error("apply migration {crate_name}/{name}")]
    Apply {
        /// Whose.
        crate_name: &'static str,
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The database holds another text under this name.
    #[error(
        "migration {crate_name}/{name} was applied with another text: this database belongs to a different program"
    )]
    Changed {
        /// Whose.
        crate_name: &'static str,
        /// Its name.
        name: &'static str,
    },
}

const LOCK: &str = "SELECT pg_advisory_xact_lock(7166241583612345)";
const CREATE: &str = "CREATE TABLE IF NOT EXISTS store_migrations (
    crate_name TEXT NOT NULL, name TEXT NOT NULL, hash TEXT NOT NULL, applied_at BIGINT NOT NULL,
    PRIMARY KEY (crate_name, name))";
const APPLIED: &str = "SELECT crate_name, name, hash FROM store_migrations";
const RECORD: &str =
    "INSERT INTO store_migrations (crate_name, name, hash, applied_at) VALUES ($1, $2, $3, $4)";
const EXISTS_SQLITE: &str =
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'store_migrations'";
const EXISTS_POSTGRES: &str = "SELECT tablename FROM pg_tables WHERE tablename = 'store_migrations'
    AND schemaname = ANY (current_schemas(false))";

impl Schema {
    /// Adds a crate's migrations.
    pub fn with(mut self, crate_name: &'static str, migrations: &'static [Migration]) -> Self {
        self.crates.push((crate_name, migrations));
        self
    }

    /// What [`apply`](Self::apply) would do now. Changes nothing.
    pub async fn plan(&self, database: &Database) -> Result<Vec<PlannedMigration>, MigrationError> {
        let mut db = database;
        let exists = match database.dialect() {
            Dialect::Sqlite => EXISTS_SQLITE,
            Dialect::Postgres => EXISTS_POSTGRES,
        };
        let exists = !db.fetch_all(exists, args![]).await?.is_empty();
        let applied = if exists {
            applied(&mut db).await?
        } else {
            HashMap::new()
        };
        self.missing(&applied, database.dialect())
    }

    /// Applies what is missing, in one transaction, under a lock: of several programs that start at once, one does it
    /// and the others find it done. Gives what was applied.
    pub async fn apply(
        &self,
        database: &Database,
        now: Timestamp,
    ) -> Result<Vec<PlannedMigration>, MigrationError> {
        if let Ok(planned) = self.plan(database).await
            && planned.is_empty()
        {
            return Ok(planned);
        }
        let mut transaction = database.begin().await?;
        if database.dialect() == Dialect::Postgres {
            transaction.fetch_all(LOCK, args![]).await?;
        }
        transaction.execute(CREATE, args![]).await?;
        let applied = applied(&mut transaction).await?;
        let missing = self.missing(&applied, database.dialect())?;
        for migration in &missing {
            let (crate_name, name) = (migration.crate_name, migration.name);
            Database::execute_script(&mut transaction, migration.sql)
                .await
                .map_err(|source| MigrationError::Apply {
                    crate_name,
                    name,
                    source,
                })?;
            let hash = Migration::new(name, migration.sql).hash(database.dialect());
            transaction
                .execute(RECORD, args![crate_name, name, hash, now])
                .await?;
            tracing::info!(
                migration.crate_name = crate_name,
                migration.name = name,
                "applied a migration"
            );
        }
        transaction.commit().await?;
        Ok(missing)
    }

    fn missing(
        &self,
        applied: &HashMap<(String, String), String>,
        dialect: Dialect,
    ) -> Result<Vec<PlannedMigration>, MigrationError> {
        let mut missing = Vec::new();
        for (crate_name, migrations) in &self.crates {
            for migration in *migrations {
                match applied.get(&((*crate_name).to_owned(), migration.name.to_owned())) {
                    None => missing.push(PlannedMigration {
                        crate_name,
                        name: migration.name,
                        sql: migration.text(dialect),
                    }),
                    Some(hash) if *hash == migration.hash(dialect) => {}
                    Some(_) => {
                        return Err(MigrationError::Changed {
                            crate_name,
                            name: migration.name,
                        });
                    }
                }
            }
        }
        Ok(missing)
    }
}

async fn applied(db: &mut impl Executor) -> Result<HashMap<(String, String), String>, StoreError> {
    let rows = db.fetch_all(APPLIED, args![]).await?;
    rows.iter()
        .map(|row| Ok(((row.get("crate_name")?, row.get("name")?), row.get("hash")?)))
        .collect()
}
