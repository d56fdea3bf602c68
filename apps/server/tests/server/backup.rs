//! Backups of servers that work, and their way back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use muster_store::testing::{TestDatabase, on_both_databases};
use muster_store::{Dialect, Executor as _};
use reqwest::Client;
use serde_json::json;

use crate::program::{Program, command, plain};
use crate::site::Site;

/// How many hosts enroll before the backup begins.
const ENOUGH: usize = 20;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

async fn succeeds(command: Command) -> String {
    let output = run(command).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

async fn fails(command: Command) -> String {
    let output = run(command).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr)
}

/// `muster-server` with a verb and a file, on a database.
fn act(verb: &str, data_dir: &Path, database: &str, file: &Path, more: &[&str]) -> Command {
    let mut command = plain(data_dir, database);
    command.arg(verb).arg(file).args(more);
    command
}

fn passphrase(folder: &Path) -> PathBuf {
    let path = folder.join("passphrase");
    fs::write(&path, "correct horse battery\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A database of the same kind with nothing in it. A file must not even be there.
async fn empty(dialect: Dialect, folder: &Path) -> (Option<TestDatabase>, String) {
    match dialect {
        Dialect::Sqlite => (
            None,
            folder.join("elsewhere.db").to_str().unwrap().to_owned(),
        ),
        Dialect::Postgres => {
            let database = TestDatabase::new(dialect).await;
            let address = database.address().to_owned();
            (Some(database), address)
        }
    }
}

/// The names of what is in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

on_both_databases! {
    async fn what_was_acknowledged_before_a_backup_under_load_is_there_after_its_restore(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (data, database) = (folder.path().join("data"), db.address());
        let server = Program::start(&mut plain(&data, database));
        let site = Site::set_up(Client::new(), server.base(), server.setup_link()).await;
        let secret = site.secret("office").await;
        let kept = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let load: Vec<_> = (0..3).map(|worker| {
            let (site, secret, kept, stop) = (site.clone(), secret.clone(), Arc::clone(&kept), Arc::clone(&stop));
            tokio::spawn(async move {
                for turn in 0.. {
                    let name = format!("host-{worker}-{turn}");
                    let key = site.enroll(&secret, &name).await;
                    site.log(&key, &name).await;
                    kept.lock().unwrap().push((name, key));
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        }).collect();
        let count = || kept.lock().unwrap().len();
        while count() < ENOUGH {
            tokio::task::yield_now().await;
        }
        let before = kept.lock().unwrap().clone();
        let (open, sealed) = (folder.path().join("open"), folder.path().join("sealed"));
        let secret_file = passphrase(folder.path());
        let with = ["--passphrase-file", secret_file.to_str().unwrap()];
        let plainly = run(act("backup", &data, database, &open, &[])).await;
        assert!(plainly.status.success(), "{}", text(&plainly.stderr));
        assert!(text(&plainly.stderr).contains("not sealed"), "{}", text(&plainly.stderr));
        let said = succeeds(act("backup", &data, database, &sealed, &with)).await;
        assert!(said.contains("sealed with the passphrase") && said.contains("master.key"), "{said}");
        assert!(count() > before.len(), "nothing was written meanwhile");
        stop.store(true, Ordering::Relaxed);
        for worker in load {
            worker.await.unwrap();
        }
        let token = &site.get("/api/muster/enrollment-tokens").await.body["items"][0]["id"].to_string();
        server.terminate();
        assert!(server.wait().success());
        for file in [&open, &sealed] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(names(folder.path()), ["data", "open", "passphrase", "sealed"]);
        let key = fs::read_to_string(data.join("master.key")).unwrap();
        for (number, (file, with)) in [(&open, &[][..]), (&sealed, &with)].into_iter().enumerate() {
            let place = folder.path().join(format!("place-{number}"));
            let (_held, database) = empty(db.dialect(), folder.path()).await;
            let said = succeeds(act("restore", &place, &database, file, with)).await;
            assert!(said.contains("What to do next") && said.contains(&server_address(&data)), "{said}");
            assert_eq!(fs::read_to_string(place.join("master.key")).unwrap(), key);
            let again = Program::start(&mut plain(&place, &database));
            let site = Site { base: again.base(), ..site.clone() };
            for (name, key) in &before {
                site.asked(key).await;
                let host = site.get(&format!("/api/latest/fleet/hosts/identifier/{name}")).await;
                assert_eq!(host.status, 200, "{name}");
            }
            let revealed = site.post(&format!("/api/muster/enrollment-tokens/{token}/reveal"), &json!({})).await;
            assert_eq!(revealed.body["secret"], secret.as_str(), "{revealed:?}");
            // Keys of rows are counted on from where they were.
            site.enroll(&secret, "new").await;
            again.terminate();
            assert!(again.wait().success());
            let _ = fs::remove_file(folder.path().join("elsewhere.db"));
        }
    }

    async fn a_restore_touches_nothing_unless_it_is_sure(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (data, database) = (folder.path().join("data"), db.address());
        let server = Program::start(&mut plain(&data, database));
        let site = Site::set_up(Client::new(), server.base(), server.setup_link()).await;
        let secret = site.secret("office").await;
        let key = site.enroll(&secret, "a").await;
        let (open, sealed) = (folder.path().join("open"), folder.path().join("sealed"));
        let secret_file = passphrase(folder.path());
        succeeds(act("backup", &data, database, &open, &[])).await;
        let with = ["--passphrase-file", secret_file.to_str().unwrap()];
        succeeds(act("backup", &data, database, &sealed, &with)).await;
        let said = fails(act("backup", &data, database, &open, &[])).await;
        assert!(said.contains("is there already"), "{said}");

        let place = folder.path().join("place");
        let (_held, elsewhere) = empty(db.dialect(), folder.path()).await;
        let bytes = fs::read(&open).unwrap();
        let broken = folder.path().join("broken");
        let mut changed = bytes.clone();
        changed[bytes.len() / 2] ^= 1;
        let later = [b"muster-backup 2\n", &bytes[16..]].concat();
        for (content, expected) in [
            (&bytes[..bytes.len() - 1], "damaged or cut off"),
            (&bytes[..bytes.len() / 2], "damaged or cut off"),
            (&changed, "damaged or cut off"),
            (b"SQLite format 3", "it is not a backup of muster-server"),
            (b"", "it is not a backup of muster-server"),
            (&later, "it has format 2, which this release does not read"),
        ] {
            fs::write(&broken, content).unwrap();
            for more in [&[][..], &["--check"], &["--replace"]] {
                let said = fails(act("restore", &place, &elsewhere, &broken, more)).await;
                assert!(said.contains(expected), "{said}");
            }
        }
        let said = fails(act("restore", &place, &elsewhere, &sealed, &[])).await;
        assert!(said.contains("--passphrase-file"), "{said}");
        let other = folder.path().join("other");
        fs::write(&other, "another passphrase").unwrap();
        let wrong = ["--passphrase-file", other.to_str().unwrap()];
        let said = fails(act("restore", &place, &elsewhere, &sealed, &wrong)).await;
        assert!(said.contains("others can read") && said.contains("is not the one"), "{said}");
        assert!(!place.exists(), "a refused restore leaves nothing");
        let (kind, unlike) = match db.dialect() {
            Dialect::Sqlite => ("SQLite", "postgres://u@127.0.0.1:1/x".to_owned()),
            Dialect::Postgres => ("PostgreSQL", folder.path().join("x.db").to_str().unwrap().to_owned()),
        };
        let said = fails(act("restore", &place, &unlike, &open, &[])).await;
        assert!(said.contains(&format!("holds a {kind} database")), "{said}");
        let said = succeeds(act("restore", &place, &elsewhere, &sealed, &[&with[..], &["--check"]].concat())).await;
        assert!(said.contains("is whole"), "{said}");

        let said = fails(act("restore", &data, database, &open, &["--replace"])).await;
        assert!(said.contains("another muster-server uses the data folder"), "{said}");
        if db.dialect() == Dialect::Postgres {
            let said = fails(act("restore", &place, database, &open, &["--replace"])).await;
            assert!(said.contains("stop all servers first"), "{said}");
        }
        assert_eq!(site.log(&key, "x").await.status, 200, "the server did not notice");
        site.enroll(&secret, "after").await;
        server.terminate();
        assert!(server.wait().success());
        let said = fails(act("restore", &data, database, &open, &[])).await;
        assert!(said.contains("say --replace"), "{said}");
        // The test's own connections are others, too.
        db.database().close().await;
        let said = succeeds(act("restore", &data, database, &open, &["--replace"])).await;
        assert!(said.contains("has what was there before"), "{said}");
        let again = Program::start(&mut plain(&data, database));
        let site = Site { base: again.base(), ..site };
        assert_eq!(site.log(&key, "x").await.status, 200);
        let host = |name: &str| format!("/api/latest/fleet/hosts/identifier/{name}");
        assert_eq!(site.get(&host("a")).await.status, 200);
        assert_eq!(site.get(&host("after")).await.status, 404);
        again.terminate();
        assert!(again.wait().success());
    }
}

fn server_address(data: &Path) -> String {
    let text = fs::read_to_string(data.join("address")).unwrap();
    text.trim().to_owned()
}

#[tokio::test]
async fn every_table_is_in_a_backup_of_postgresql() {
    let db = TestDatabase::new(Dialect::Postgres).await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    succeeds({
        let mut command = plain(&data, db.address());
        command.args(["admin", "create-user", "--email", "ann@example.com"]);
        command.env("MUSTER_PASSWORD", crate::site::PASSWORD);
        command
    })
    .await;
    let file = folder.path().join("backup");
    let said = succeeds(act("backup", &data, db.address(), &file, &[])).await;
    let mut database = &db.database();
    let sql = "SELECT COUNT(*) AS tables FROM pg_tables WHERE schemaname = current_schema()";
    let row = database.fetch_one(sql, Vec::new()).await.unwrap();
    let tables: i64 = row.get("tables").unwrap();
    assert!(
        said.contains(&format!("database in {tables} tables")),
        "{said}"
    );
}

#[tokio::test]
async fn what_no_server_uses_cannot_be_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");
    let backup = |data: &Path| {
        let mut command = command(data);
        command.arg("backup").arg(&file);
        command
    };
    let data = folder.path().join("data");
    let said = fails(backup(&data)).await;
    assert!(said.contains("there is no database"), "{said}");
    assert!(!data.exists());
    fs::create_dir(&data).unwrap();
    succeeds({
        let mut command = command(&data);
        command.arg("migrate");
        command
    })
    .await;
    let said = fails(backup(&data)).await;
    assert!(said.contains("master.key, without which"), "{said}");
    assert_eq!(names(folder.path()), ["data"]);
    // A server used the folder, with a database that is not named now.
    fs::rename(data.join("muster.db"), folder.path().join("elsewhere")).unwrap();
    fs::write(data.join("master.key"), "07".repeat(32)).unwrap();
    let said = fails(backup(&data)).await;
    assert!(
        said.contains("used, or restored, with another database")
            && said.contains("MUSTER_DATABASE_URL"),
        "{said}"
    );
    let mut plan = command(&data);
    plan.args(["migrate", "--plan"]);
    let plan = run(plan).await;
    let (said, warned) = (text(&plan.stdout), text(&plan.stderr));
    assert!(
        plan.status.success() && warned.contains("with another database"),
        "{warned}"
    );
    let release = format!("by release {}\n", env!("CARGO_PKG_VERSION"));
    assert!(said.ends_with(&release), "{said}");
}

on_both_databases! {
    async fn an_older_backup_is_brought_up_to_date_by_the_next_start_and_a_newer_one_is_refused(db: TestDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let (data, database) = (folder.path().join("data"), db.address());
        let server = Program::start(&mut plain(&data, database));
        let site = Site::set_up(Client::new(), server.base(), server.setup_link()).await;
        let key = site.enroll(&site.secret("office").await, "a").await;
        server.terminate();
        assert!(server.wait().success());
        // As the release was that had no replicas yet.
        let mut connection = &db.database();
        for sql in [
            "DROP TABLE replicas_replicas",
            "DROP TABLE replicas_leases",
            "DELETE FROM store_migrations WHERE crate_name = 'replicas'",
        ] {
            connection.execute(sql, Vec::new()).await.unwrap();
        }
        let old = folder.path().join("old");
        succeeds(act("backup", &data, database, &old, &[])).await;
        let sql = "INSERT INTO store_migrations (crate_name, name, hash, applied_at) VALUES ('rooms', 'first', '', 0)";
        connection.execute(sql, Vec::new()).await.unwrap();
        let new = folder.path().join("new");
        succeeds(act("backup", &data, database, &new, &[])).await;
        let place = folder.path().join("place");
        let (_held, elsewhere) = empty(db.dialect(), folder.path()).await;
        let said = fails(act("restore", &place, &elsewhere, &new, &[])).await;
        assert!(said.contains("take that release or a newer one") && said.contains("rooms/first"), "{said}");
        assert!(!place.exists());
        succeeds(act("restore", &place, &elsewhere, &old, &[])).await;
        let again = Program::start(&mut plain(&place, &elsewhere));
        let site = Site { base: again.base(), ..site };
        site.asked(&key).await;
        assert_eq!(site.get("/api/muster/replicas").await.body["items"].as_array().unwrap().len(), 1);
        again.terminate();
        assert!(again.wait().success());
    }
}

/// A server that ended, with enough in its database that a backup takes a while.
pub(crate) async fn large(data: &Path) {
    let server = Program::start(&mut command(data));
    server.terminate();
    assert!(server.wait().success());
    let address = data.join("muster.db").to_str().unwrap().parse().unwrap();
    let options = muster_store::Options::default();
    let database = muster_store::Database::open(&address, &options).await;
    let database = database.unwrap();
    let mut db = &database;
    let sql = "INSERT INTO settings_documents (name, team_id, body, version, updated_at)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)
        SELECT 'test', i, hex(randomblob(500)), 1, 0 FROM n";
    db.execute(sql, Vec::new()).await.unwrap();
    database.close().await;
}

#[tokio::test]
async fn a_backup_that_is_killed_or_finds_the_disk_full_leaves_no_file_and_does_not_keep_the_next_from_its_work()
 {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    large(&data).await;
    let file = folder.path().join("backup");
    let unfinished = folder.path().join("backup.unfinished");
    let mut begun = command(&data).arg("backup").arg(&file).spawn().unwrap();
    while !unfinished.join("database").exists() {
        assert!(
            begun.try_wait().unwrap().is_none(),
            "it ended before it was killed"
        );
        tokio::task::yield_now().await;
    }
    begun.kill().unwrap();
    begun.wait().unwrap();
    assert!(!file.exists() && unfinished.exists());
    // A limit of the size of files stands in for a disk that is full: 4 MiB, then 30 MiB, which the database's copy needs
    // and the backup beside it does not.
    for kib in ["4096", "30000"] {
        let mut shell = Command::new("sh");
        let program = command(&data);
        shell.args([
            "-c",
            &format!("trap '' XFSZ; ulimit -f {kib}; exec \"$@\""),
            "sh",
        ]);
        shell.arg(program.get_program());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.arg("backup").arg(&file);
        let said = fails(shell).await;
        assert!(!file.exists() && !unfinished.exists(), "{said}");
    }
    let mut backup = command(&data);
    backup.arg("backup").arg(&file);
    succeeds(backup).await;
    assert!(!unfinished.exists());

    fs::create_dir(folder.path().join("open.unfinished")).unwrap();
    fs::set_permissions(
        folder.path().join("open.unfinished"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let mut backup = command(&data);
    backup.arg("backup").arg(folder.path().join("open"));
    let said = fails(backup).await;
    assert!(said.contains("is in the way"), "{said}");

    let place = folder.path().join("place");
    let mut begun = command(&place).arg("restore").arg(&file).spawn().unwrap();
    while !place.join("muster.db.restoring").exists() {
        assert!(
            begun.try_wait().unwrap().is_none(),
            "it ended before it was killed"
        );
        tokio::task::yield_now().await;
    }
    begun.kill().unwrap();
    begun.wait().unwrap();
    let mut again = command(&place);
    again.arg("restore").arg(&file);
    succeeds(again).await;
    assert!(
        !names(&place)
            .iter()
            .any(|name| name.ends_with(".restoring")),
        "{:?}",
        names(&place)
    );
    fs::write(place.join("restore-unfinished"), "").unwrap();
    let said = fails(command(&place)).await;
    assert!(said.contains("did not come to its end"), "{said}");
}
