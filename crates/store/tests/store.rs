//! The store against both databases.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::time::Duration;

use muster_clock::Timestamp;
use muster_store::testing::{TestDatabase, on_both_databases};
use muster_store::{
    Address, Database, Dialect, Executor, Migration, MigrationError, Options, Schema, args,
};

const PETS: &[Migration] = &[
    Migration::new(
        "pets",
        "CREATE TABLE pets_pets (id BIGINT PRIMARY KEY, name TEXT NOT NULL CONSTRAINT pets_pets_name_key UNIQUE);
         CREATE TABLE pets_toys (pet_id BIGINT NOT NULL REFERENCES pets_pets (id), weight DOUBLE PRECISION);",
    ),
    Migration::new("pictures", "ALTER TABLE pets_pets ADD COLUMN picture {{bytes}}"),
    Migration {
        name: "visits",
        sql: "CREATE TABLE pets_visits (id {{id}}, at BIGINT NOT NULL)",
        postgres: Some("CREATE TABLE pets_visits (id {{id}}, at BIGINT NOT NULL CHECK (at >= 0))"),
    },
];

async fn pets(db: &TestDatabase) {
    db.migrate(&Schema::default().with("pets", PETS)).await;
}

on_both_databases! {
    async fn a_unit_of_work_waits_for_the_names_that_another_one_holds(db: TestDatabase) {
        pets(&db).await;
        let database = db.database();
        let (first, second) = ("Rex".to_owned(), "Bella".to_owned());
        let mut holder = db.begin().await.unwrap();
        holder.lock(&[first.clone(), second.clone()]).await.unwrap();
        let mut waiting = tokio::spawn(async move {
            let mut transaction = database.begin().await.unwrap();
            transaction.lock(&[second, first]).await.unwrap();
            let rows = transaction.fetch_all("SELECT id FROM pets_pets", args![]).await;
            rows.unwrap().len()
        });
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
        holder.execute("INSERT INTO pets_pets (id, name) VALUES (1, 'Rex')", args![]).await.unwrap();
        holder.commit().await.unwrap();
        assert_eq!(waiting.await.unwrap(), 1, "it sees what was kept");
    }

    async fn values_come_back_as_they_went(db: TestDatabase) {
        pets(&db).await;
        let mut sql = &*db;
        let insert = "INSERT INTO pets_pets (id, name, picture) VALUES ($1, $2, $3), ($4, $5, $6)";
        let pets = args![1_i64, "Rex", vec![0_u8, 255], 2_i64, "Bé\u{301}a", None::<Vec<u8>>];
        let done = sql.execute(insert, pets).await;
        assert_eq!(done.unwrap(), 2);
        let rows = sql.fetch_all("SELECT id, name, picture FROM pets_pets ORDER BY id", args![]).await.unwrap();
        assert_eq!(rows[0].get::<Option<Vec<u8>>>("picture").unwrap(), Some(vec![0, 255]));
        assert_eq!(rows[1].get::<String>("name").unwrap(), "Bé\u{301}a");
        assert_eq!(rows[1].get::<Option<Vec<u8>>>("picture").unwrap(), None);
        assert_eq!(rows[1].get::<Timestamp>("id").unwrap(), Timestamp::from_micros(2));
        let toy = "INSERT INTO pets_toys (pet_id, weight) VALUES ($1, $2) RETURNING weight";
        let toy = sql.execute_returning(toy, args![1_i64, 1.5]).await.unwrap();
        assert!((toy[0].get::<f64>("weight").unwrap() - 1.5).abs() < f64::EPSILON);
        assert!(rows[0].get::<i64>("name").is_err());
    }

    async fn what_is_not_committed_is_gone(db: TestDatabase) {
        pets(&db).await;
        let mut transaction = db.begin().await.unwrap();
        transaction.execute("INSERT INTO pets_pets (id, name) VALUES ($1, $2)", args![1_i64, "Rex"]).await.unwrap();
        drop(transaction);
        let mut transaction = db.begin().await.unwrap();
        transaction.execute("INSERT INTO pets_pets (id, name) VALUES ($1, $2)", args![2_i64, "Bella"]).await.unwrap();
        transaction.commit().await.unwrap();
        let rows = (&*db).fetch_all("SELECT name FROM pets_pets", args![]).await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].get::<String>("name").unwrap(), "Bella");
    }

    async fn after_a_statement_that_failed_nothing_of_the_work_is_kept(db: TestDatabase) {
        pets(&db).await;
        let insert = "INSERT INTO pets_pets (id, name) VALUES ($1, $2)";
        let mut work = db.begin().await.unwrap();
        work.execute(insert, args![1_i64, "Rex"]).await.unwrap();
        assert!(work.execute(insert, args![2_i64, "Rex"]).await.unwrap_err().is_duplicate());
        assert!(work.execute(insert, args![3_i64, "Bella"]).await.is_err());
        assert!(work.commit().await.is_err());
        let rows = (&mut &*db).fetch_all("SELECT id FROM pets_pets", args![]).await.unwrap();
        assert!(rows.is_empty());
        let mut work = db.begin().await.unwrap();
        work.execute(insert, args![1_i64, "Rex"]).await.unwrap();
        work.commit().await.unwrap();
    }

    async fn a_doubled_name_a_missing_row_and_a_wrong_statement_are_told_apart(db: TestDatabase) {
        pets(&db).await;
        let mut sql = &*db;
        let insert = "INSERT INTO pets_pets (id, name) VALUES ($1, $2)";
        sql.execute(insert, args![1_i64, "Rex"]).await.unwrap();
        let doubled = sql.execute(insert, args![2_i64, "Rex"]).await.unwrap_err();
        assert!(doubled.is_duplicate_of("name") && !doubled.is_unavailable(), "{doubled:?}");
        let orphan = sql.execute("INSERT INTO pets_toys (pet_id) VALUES ($1)", args![9_i64]).await.unwrap_err();
        assert_eq!(orphan.kind(), muster_store::ErrorKind::Reference);
        let wrong = sql.fetch_all("SELECT colour FROM pets_pets", args![]).await.unwrap_err();
        assert_eq!(wrong.kind(), muster_store::ErrorKind::Defect);
        let nul = sql.execute(insert, args![3_i64, "R\0x"]).await.unwrap_err();
        assert_eq!(nul.kind(), muster_store::ErrorKind::Unstorable, "on both databases");
    }

    async fn a_closed_database_is_unavailable(db: TestDatabase) {
        pets(&db).await;
        db.close().await;
        let mut sql = &*db;
        assert!(sql.fetch_all("SELECT id FROM pets_pets", args![]).await.err().unwrap().is_unavailable());
        assert!(db.begin().await.err().unwrap().is_unavailable());
        assert!(db.ping().await.unwrap_err().is_unavailable());
    }

    async fn migrations_are_applied_once_and_planned_before(db: TestDatabase) {
        let schema = Schema::default().with("pets", PETS);
        let planned = schema.plan(&db).await.unwrap();
        assert_eq!(planned.iter().map(|planned| planned.name).collect::<Vec<_>>(), ["pets", "pictures", "visits"]);
        assert_eq!(schema.apply(&db, Timestamp::EPOCH).await.unwrap().len(), 3);
        assert_eq!(schema.apply(&db, Timestamp::EPOCH).await.unwrap().len(), 0);
        assert_eq!(schema.plan(&db).await.unwrap().len(), 0);
    }

    async fn counted_ids_are_never_used_twice(db: TestDatabase) {
        pets(&db).await;
        let mut sql = &*db;
        let mut last = 0;
        for _ in 0..3 {
            let insert = "INSERT INTO pets_visits (at) VALUES ($1) RETURNING id";
            let id: i64 = sql.execute_returning(insert, args![0_i64]).await.unwrap()[0].get("id").unwrap();
            assert!(id > last);
            last = id;
            sql.execute("DELETE FROM pets_visits WHERE id = $1", args![id]).await.unwrap();
        }
    }

    async fn a_migration_that_was_changed_after_its_release_is_refused(db: TestDatabase) {
        pets(&db).await;
        const OTHER: &[Migration] = &[Migration::new("pets", "CREATE TABLE pets_pets (id BIGINT)")];
        let refused = Schema::default().with("pets", OTHER).apply(&db, Timestamp::EPOCH).await.unwrap_err();
        assert!(matches!(refused, MigrationError::Changed { name: "pets", .. }), "{refused}");
    }

    async fn a_migration_that_fails_leaves_nothing_behind(db: TestDatabase) {
        const BROKEN: &[Migration] = &[
            Migration::new("good", "CREATE TABLE pets_good (id BIGINT)"),
            Migration::new("bad", "CREATE TABLE pets_bad (id BIGINT); CREATE NONSENSE"),
        ];
        let failed = Schema::default().with("pets", BROKEN).apply(&db, Timestamp::EPOCH).await.unwrap_err();
        assert!(matches!(failed, MigrationError::Apply { name: "bad", .. }), "{failed}");
        assert!((&*db).fetch_all("SELECT id FROM pets_good", args![]).await.is_err());
    }

    async fn two_programs_that_start_at_once_migrate_once(db: TestDatabase) {
        let other = db.reopen().await;
        let schema = Schema::default().with("pets", PETS);
        let (first, second) =
            tokio::join!(schema.apply(&db, Timestamp::EPOCH), schema.apply(&other, Timestamp::EPOCH));
        assert_eq!(first.unwrap().len() + second.unwrap().len(), 3);
    }
}

#[tokio::test]
async fn a_file_that_another_process_locks_is_unavailable_and_comes_back() {
    let db = TestDatabase::new(Dialect::Sqlite).await;
    pets(&db).await;
    let address: Address = db.address().parse().unwrap();
    let options = Options {
        busy_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let impatient = Database::open(&address, &options).await.unwrap();
    let lock = db.begin().await.unwrap();
    let mut sql = &impatient;
    let insert = "INSERT INTO pets_pets (id, name) VALUES (1, 'Rex')";
    assert!(
        sql.execute(insert, args![])
            .await
            .unwrap_err()
            .is_unavailable()
    );
    drop(lock);
    db.ping().await.unwrap();
    // The rollback of a dropped transaction happens on the connection's thread.
    while sql.execute(insert, args![]).await.is_err() {}
}

#[tokio::test]
async fn a_file_that_was_full_is_written_again_once_there_is_room() {
    let db = TestDatabase::new(Dialect::Sqlite).await;
    pets(&db).await;
    let mut sql = &*db;
    let insert = "INSERT INTO pets_pets (id, name, picture) VALUES ($1, $2, $3)";
    // It holds for the one connection that writes.
    sql.execute("PRAGMA max_page_count = 64", args![])
        .await
        .unwrap();
    let mut id = 0_i64;
    let refused = loop {
        id += 1;
        let mut work = db.begin().await.unwrap();
        let pet = args![id, format!("pet {id}"), vec![0_u8; 16 * 1024]];
        if let Err(refused) = work.execute(insert, pet).await {
            break refused;
        }
        work.commit().await.unwrap();
    };
    assert!(refused.is_unavailable(), "{refused}");
    let mut work = db.begin().await.unwrap();
    let pet = args![id, "after it", vec![0_u8; 16 * 1024]];
    work.execute(insert, pet).await.unwrap();
    work.commit().await.unwrap();
    let rows = sql.fetch_all("SELECT id FROM pets_pets", args![]).await;
    assert_eq!(rows.unwrap().len() as i64, id);
}

#[tokio::test]
async fn statements_are_counted() {
    let db = TestDatabase::new(Dialect::Sqlite).await;
    let before = db.statements();
    db.ping().await.unwrap();
    db.ping().await.unwrap();
    assert_eq!(db.statements() - before, 2);
}
