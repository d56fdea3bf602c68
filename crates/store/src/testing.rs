//! Databases of their own for tests, on both kinds.
//!
//! ```text
//! muster_store::testing::on_both_databases! {
//!     async fn a_pet_is_found_by_its_id(db: TestDatabase) {
//!         db.migrate(&Schema::default().with("pets", MIGRATIONS)).await;
//!         …
//!     }
//! }
//! ```
//! makes the tests `a_pet_is_found_by_its_id::on_sqlite` and `…::on_postgres`.

use std::ops::Deref;

use muster_clock::Timestamp;

use crate::{Address, Database, Dialect, Options, Schema};

/// Names the PostgreSQL server that tests may make databases on: `postgres://USER@HOST:PORT/postgres`.
pub const POSTGRES_VARIABLE: &str = "MUSTER_TEST_POSTGRES";

/// A database that nothing else uses. It goes with the value.
pub struct TestDatabase {
    database: Database,
    address: Address,
    text: String,
    _folder: Option<tempfile::TempDir>,
}

impl TestDatabase {
    /// A new, empty database.
    pub async fn new(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Sqlite => {
                let folder = tempfile::tempdir().expect("a temporary folder can be made");
                let text = folder
                    .path()
                    .join("test.db")
                    .to_str()
                    .expect("the path is text")
                    .to_owned();
                Self::open(text, Some(folder)).await
            }
            Dialect::Postgres => Self::open(Self::create_postgres().await, None).await,
        }
    }

    async fn open(text: String, folder: Option<tempfile::TempDir>) -> Self {
        let address: Address = text.parse().expect("the address is right");
        let options = Options {
            max_connections: 4,
            ..Options::default()
        };
        let database = Database::open(&address, &options)
            .await
            .expect("the database opens");
        Self {
            database,
            address,
            text,
            _folder: folder,
        }
    }

    async fn create_postgres() -> String {
        use sqlx::{Connection as _, Executor as _};
        let server = std::env::var(POSTGRES_VARIABLE).unwrap_or_else(|_| {
            panic!(
                "this test needs PostgreSQL: run it through `cargo xtask test`, or start one with \
                 `cargo xtask postgres start` and set {POSTGRES_VARIABLE} to what it prints"
            )
        });
        let mut name = [0; 8];
        muster_clock::Randomness::fill(&muster_clock::SystemRandomness, &mut name);
        let name = format!("muster_test_{:016x}", u64::from_le_bytes(name));
        let mut connection = sqlx::PgConnection::connect(&server)
            .await
            .expect("the PostgreSQL server for tests answers");
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
        connection
            .execute(sqlx::raw_sql(create))
            .await
            .expect("a database can be made");
        let (base, _) = server
            .rsplit_once('/')
            .expect("the address ends in a database's name");
        format!("{base}/{name}")
    }

    /// Applies all migrations.
    pub async fn migrate(&self, schema: &Schema) {
        schema
            .apply(&self.database, Timestamp::EPOCH)
            .await
            .expect("the migrations apply");
    }

    /// A second, independent set of pools on the same database, as another replica has.
    pub async fn reopen(&self) -> Database {
        Database::open(&self.address, &Options::default())
            .await
            .expect("the database opens again")
    }

    /// The address, to hand to a program.
    pub fn address(&self) -> &str {
        &self.text
    }

    /// The database itself, to hand to a service.
    pub fn database(&self) -> Database {
        self.database.clone()
    }
}

impl Drop for TestDatabase {
    /// A database takes some 8 MB of disk, and there are hundreds of tests.
    fn drop(&mut self) {
        if self.database.dialect() == crate::Dialect::Sqlite {
            return;
        }
        let Some((_, name)) = self.text.rsplit_once('/') else {
            return;
        };
        let (name, Ok(server)) = (name.to_owned(), std::env::var(POSTGRES_VARIABLE)) else {
            return;
        };
        // A test's own runtime cannot wait here. What fails is left behind: the test is what counts.
        let dropping = std::thread::spawn(move || {
            use sqlx::{Connection as _, Executor as _};
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let text = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                let drop = sqlx::raw_sql(sqlx::AssertSqlSafe(text));
                if let Ok(mut connection) = sqlx::PgConnection::connect(&server).await {
                    let _ = connection.execute(drop).await;
                }
            });
        });
        let _ = dropping.join();
    }
}

impl Deref for TestDatabase {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

/// Has the database prepare each statement, so that a spelling that only one of the two knows is found.
pub async fn prepare_all(database: &Database, statements: &[(&str, &str)]) {
    for (name, sql) in statements {
        if let Err(error) = database.prepare(sql).await {
            let mut text = format!(
                "{} does not prepare {name}: {error}",
                database.dialect().name()
            );
            let mut source = std::error::Error::source(&error);
            while let Some(inner) = source {
                text.push_str(": ");
                text.push_str(&inner.to_string());
                source = inner.source();
            }
            panic!("{text}");
        }
    }
}

/// Makes two tests of each function, one per database.
#[macro_export]
macro_rules! on_both_databases {
    ($($(#[$meta:meta])* async fn $name:ident($db:ident : TestDatabase) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[expect(unused_imports, reason = "a body need not use its surroundings")]
            use super::*;

            async fn body($db: $crate::testing::TestDatabase) $body

            #[tokio::test]
            async fn on_sqlite() {
                body($crate::testing::TestDatabase::new($crate::Dialect::Sqlite).await).await;
            }

            #[tokio::test]
            async fn on_postgres() {
                body($crate::testing::TestDatabase::new($crate::Dialect::Postgres).await).await;
            }
        }
    )*};
}
pub use on_both_databases;
