//! The database, what belongs to it, and the bus.

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_bus::LocalBus;
use muster_clock::Timestamp;
use muster_hosts::Hosts;
use muster_http::error_chain;
use muster_identity::MasterKey;
use muster_negotiation::Offer;
use muster_replicas::{About, Replicas};
use muster_software::Software;
use muster_store::{Address, Database, Dialect, Schema};
use rustix::fs::Access;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Report, give_back, is_denied};
use crate::config::Settings;
use crate::schema::schema;
use crate::services;
use crate::start::{self, Ambient};

/// Clocks that differ by more are a problem.
const CLOCK_PROBLEM: Duration = Duration::from_secs(30);
/// Clocks that differ by more are a warning.
const CLOCK_WARNING: Duration = Duration::from_secs(2);
/// A database that needs longer for an answer makes everything slow.
const SLOW_ANSWER: Duration = Duration::from_millis(100);
/// A server that said nothing for so long has ended.
const SILENT_SERVER: Duration = Duration::from_secs(30);

/// Gives how many hosts there are, when that is known.
pub(super) async fn examine(
    report: &mut Report,
    settings: &Settings,
    ambient: &Ambient,
) -> Option<u64> {
    let name = "database";
    if let Address::Sqlite(path) = &settings.database {
        let may = rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK);
        if may == Err(rustix::io::Errno::ACCESS) {
            let found = format!("this user may not read and write {}", path.display());
            report.problem(name, found, give_back(settings));
            return None;
        }
    }
    if let Address::Sqlite(path) = &settings.database
        && !path.exists()
    {
        // Looking must not make one.
        let path = path.display();
        let found = format!("{path} is not there yet; the first start makes it");
        if settings.data_dir.join("master.key").exists() {
            report.warn(name, found, start::NAME_THE_DATABASE);
        } else {
            report.ok(name, found);
        }
        return None;
    }
    let database = match start::open_database(settings).await {
        Ok(database) => database,
        Err(error) => {
            let advice = match settings.database {
                Address::Sqlite(_) => {
                    "look at its rights and its disk; a backup can be put back with restore"
                }
                Address::Postgres(_) => {
                    "look whether it runs, lets this machine in (pg_hba.conf) and knows user and password; database.url \
                     says where it is looked for"
                }
            };
            report.problem(name, error_chain(&error), advice);
            return None;
        }
    };
    let hosts = look(report, settings, &database, ambient).await;
    database.close().await;
    hosts
}

async fn look(
    report: &mut Report,
    settings: &Settings,
    database: &Database,
    ambient: &Ambient,
) -> Option<u64> {
    // Once before it is measured: the first one connects.
    if let Err(error) = database.ping().await {
        report.problem(
            "database",
            error_chain(&error),
            "look at the database's own log",
        );
        return None;
    }
    let begun = Instant::now();
    let before = ambient.clock.now();
    let (release, theirs) = match database.about().await {
        Ok(about) => about,
        Err(error) => {
            report.problem(
                "database",
                error_chain(&error),
                "look at the database's own log",
            );
            return None;
        }
    };
    let took = begun.elapsed();
    let found = format!(
        "{} {release} at {}, answered in {:.1} ms",
        database.dialect().name(),
        settings.database,
        took.as_secs_f64() * 1e3
    );
    if took > SLOW_ANSWER {
        report.warn(
            "database",
            found,
            "put it nearer to the server, or look at its load",
        );
    } else {
        report.ok("database", found);
    }
    clock(report, database.dialect(), before.plus(took / 2), theirs);
    migrations(report, database).await?;
    master_key(report, settings, database).await;
    servers(report, database, ambient).await;
    bus(report, settings, database, ambient).await;
    hosts(report, settings, database, ambient).await
}

fn clock(report: &mut Report, dialect: Dialect, ours: Timestamp, theirs: Timestamp) {
    let name = "clock";
    if dialect == Dialect::Sqlite {
        return report.ok(name, format!("{ours}; the database is on this machine"));
    }
    let (apart, word) = if ours > theirs {
        (ours.since(theirs), "ahead of")
    } else {
        (theirs.since(ours), "behind")
    };
    let seconds = apart.as_secs_f64();
    let found = format!("{seconds:.1} s {word} the database's");
    let advice = "let both machines follow a time server (timedatectl shows whether this one does)";
    if apart > CLOCK_PROBLEM {
        report.problem(name, found, advice);
    } else if apart > CLOCK_WARNING {
        report.warn(name, found, advice);
    } else {
        report.ok(name, found);
    }
}

/// None when the rest cannot be looked at.
async fn migrations(report: &mut Report, database: &Database) -> Option<()> {
    let name = "schema";
    let applied = match Schema::applied(database).await {
        Ok(applied) => applied,
        Err(error) => {
            report.problem(name, error_chain(&error), "look at the database's own log");
            return None;
        }
    };
    if applied.is_empty() {
        report.ok(name, "no server has used this database yet");
        return None;
    }
    match schema().plan(database).await {
        Err(error) => {
            let advice =
                "this database belongs to another program: name the right one with database.url";
            report.problem(name, error_chain(&error), advice);
            None
        }
        Ok(pending) if !pending.is_empty() => {
            report.warn(
                name,
                format!("{} migrations are not applied yet", pending.len()),
                "the next start applies them; muster-server migrate --plan shows them",
            );
            // Tables may be missing.
            None
        }
        Ok(_) => {
            if schema().knows(&applied, database.dialect()).is_err() {
                let found = "a newer release has brought it up to date; this one works beside it";
                report.warn(name, found, "give this server the newer release, too");
            } else {
                report.ok(name, format!("up to date, {} migrations", applied.len()));
            }
            Some(())
        }
    }
}

async fn master_key(report: &mut Report, settings: &Settings, database: &Database) {
    let name = "master key";
    let path = settings.data_dir.join("master.key");
    let copy = "copy master.key from another server of this database, or from the backup that the database came from";
    let key = match MasterKey::load(&path) {
        Ok(Some(key)) => key,
        Ok(None) => return report.problem(name, format!("there is no {}", path.display()), copy),
        Err(error) => {
            let advice = if is_denied(&error) {
                give_back(settings)
            } else {
                "its owner has to be the server's user".to_owned()
            };
            return report.problem(name, error_chain(&error), advice);
        }
    };
    match key.belongs_to(database).await {
        Ok(Some(true)) => report.ok(name, "it belongs to this database"),
        Ok(Some(false)) => report.problem(name, "it belongs to another database", copy),
        Ok(None) => report.ok(name, "no server has used this database yet"),
        Err(error) => report.problem(name, error_chain(&error), "look at the database's own log"),
    }
}

/// Who else uses the database, and with which release.
async fn servers(report: &mut Report, database: &Database, ambient: &Ambient) {
    let name = "servers";
    let about = About {
        name: "doctor".to_owned(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        offer: Offer::NOTHING,
    };
    let (bus, clock) = (Arc::new(LocalBus::new()), Arc::clone(&ambient.clock));
    let replicas = Replicas::new(database.clone(), bus, clock, &*ambient.randomness, about);
    match replicas.list().await {
        Err(error) => report.problem(name, error_chain(&error), "look at the database's own log"),
        Ok(list) => {
            let since = ambient.clock.now().minus(SILENT_SERVER);
            let here: Vec<String> = list
                .iter()
                .filter(|replica| replica.seen_at >= since)
                .map(|replica| format!("{} ({})", replica.name, replica.release))
                .collect();
            let found = if here.is_empty() {
                "none uses this database now".to_owned()
            } else {
                format!("{} on this database: {}", here.len(), here.join(", "))
            };
            report.ok(name, found);
        }
    }
}

async fn bus(report: &mut Report, settings: &Settings, database: &Database, ambient: &Ambient) {
    let name = "bus";
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let opened = start::open_bus(settings, database, ambient, &tasks, &stop).await;
    match opened {
        Err(error) => report.problem(name, error_chain(&error), "correct bus.url"),
        Ok(bus) => {
            let status = bus.status();
            let carrier = status.carrier;
            if status.is_connected {
                report.ok(name, format!("{carrier}: connected"));
            } else {
                let why = status.last_error.unwrap_or_else(|| "no answer".to_owned());
                report.problem(
                    name,
                    format!("{carrier}: {why}"),
                    "look whether it runs and lets this machine in; without it servers notice each other's changes up to \
                     a minute late",
                );
            }
        }
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

async fn hosts(
    report: &mut Report,
    settings: &Settings,
    database: &Database,
    ambient: &Ambient,
) -> Option<u64> {
    let (bus, clock) = (Arc::new(LocalBus::new()), Arc::clone(&ambient.clock));
    // It needs a key to be put together, and reads nothing that is sealed.
    if !settings.data_dir.join("master.key").exists() {
        return None;
    }
    let people = services::identity(
        settings,
        database.clone(),
        Arc::<LocalBus>::clone(&bus),
        ambient,
    );
    let software = Software::new(database.clone());
    let hosts = Hosts::new(database.clone(), bus, clock, people.ok()?, software);
    match hosts.census().await {
        Err(error) => {
            report.problem(
                "hosts",
                error_chain(&error),
                "look at the database's own log",
            );
            None
        }
        Ok(census) => {
            let found = format!(
                "{} hosts: {} online, {} offline, of these {} missing for long",
                census.total, census.online, census.offline, census.missing
            );
            report.ok("hosts", found);
            Some(census.total)
        }
    }
}
