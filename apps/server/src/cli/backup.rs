//! The commands `backup` and `restore`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Failure, print};
use crate::backup::{self, container::Manifest};
use crate::config::{Settings, TlsSettings};
use crate::start::{self, Ambient};

/// The fewest characters of a passphrase: whoever has the file can try as many as they like.
const MIN_PASSPHRASE_CHARACTERS: usize = 12;

fn passphrase_argument() -> Arg {
    Arg::new("passphrase_file")
        .long("passphrase-file")
        .value_name("FILE")
        .help("File whose first line is the passphrase that the backup is sealed with")
}

/// Their places in the command line.
pub(super) fn commands() -> [Command; 2] {
    let file = || Arg::new("file").value_name("BACKUP").required(true);
    let backup = Command::new("backup")
        .about("Write everything that the server keeps into one file, while it serves")
        .arg(file().help("The file to make"))
        .arg(passphrase_argument())
        .after_help(
            "The file has the database, the master key and the certificate authority: keep it as secret as the data \
             folder, or seal it with a passphrase. Logs of hosts and the configuration are not in it.\n\nExamples:\n  \
             muster-server backup --data-dir /var/lib/muster --passphrase-file /etc/muster/backup.passphrase \
             /backup/muster-monday\n  muster-server restore --check /backup/muster-monday \
             --passphrase-file /etc/muster/backup.passphrase",
        );
    let restore = Command::new("restore")
        .about("Put a backup into an empty data folder and an empty database")
        .arg(file().help("The file that `backup` made"))
        .arg(passphrase_argument())
        .arg(
            Arg::new("check")
                .long("check")
                .action(ArgAction::SetTrue)
                .help("Only read it to its end and say what is in it"),
        )
        .arg(
            Arg::new("replace")
                .long("replace")
                .action(ArgAction::SetTrue)
                .conflicts_with("check")
                .help("Replace what is there: files are put aside, tables of PostgreSQL are lost"),
        )
        .after_help(
            "Stop the server first. SQLite goes into SQLite, PostgreSQL into PostgreSQL; the database of an older release \
             is brought up to date by the next start.\n\nExamples:\n  muster-server restore --check /backup/muster-monday\n  \
             muster-server restore --data-dir /var/lib/muster /backup/muster-monday",
        );
    [backup, restore]
}

fn file(matches: &ArgMatches) -> PathBuf {
    matches
        .get_one::<String>("file")
        .map(PathBuf::from)
        .unwrap_or_default()
}

fn passphrase(matches: &ArgMatches) -> Result<Option<String>, Failure> {
    let Some(path) = matches.get_one::<String>("passphrase_file") else {
        return Ok(None);
    };
    let failed = |error: io::Error| format!("read the passphrase in {path}: {error}");
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let mode = std::fs::metadata(path)
        .map_err(failed)?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        let _ = writeln!(
            io::stderr(),
            "muster-server: others can read {path}; take that right away: chmod 600"
        );
    }
    let passphrase = text.lines().next().unwrap_or_default().trim().to_owned();
    if passphrase.chars().count() < MIN_PASSPHRASE_CHARACTERS {
        let wanted = format!(
            "the passphrase in {path} is too short: take at least {MIN_PASSPHRASE_CHARACTERS} characters, such as from \
             openssl rand -base64 24"
        );
        return Err(wanted.into());
    }
    Ok(Some(passphrase))
}

/// What is in a backup, for people.
fn contents(text: &mut String, manifest: &Manifest) {
    let (mut tables, mut files, mut bytes) = (0, Vec::new(), 0);
    for part in &manifest.parts {
        bytes += part.bytes;
        match part.name.split_once('/') {
            Some(("table", _)) => tables += 1,
            Some(("file", name)) => files.push(name),
            _ => {}
        }
    }
    let database = match manifest.database.as_str() {
        "sqlite" => "SQLite database".to_owned(),
        _ => format!("PostgreSQL database in {tables} tables"),
    };
    let _ = writeln!(
        text,
        "  made      {} by release {}",
        manifest.made_at, manifest.release
    );
    let _ = writeln!(
        text,
        "  holds     {database}, {} migrations; {}; {bytes} bytes before packing",
        manifest.schema.len(),
        files.join(", ")
    );
}

/// Cancelled by a signal to end. What a backup has written until then is not sealed, and must not stay.
fn told_to_stop() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Whoever has it ignored (nohup) goes on when the terminal goes.
    let mut hang_up = if ignores_hang_up() {
        None
    } else {
        Some(signal(SignalKind::hangup())?)
    };
    let stop = CancellationToken::new();
    let told = stop.clone();
    // A task of its own: the backup's own thread may be busy with packing.
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = async {
                match &mut hang_up {
                    Some(hang_up) => drop(hang_up.recv().await),
                    None => std::future::pending().await,
                }
            } => {}
        }
        told.cancel();
    });
    Ok(stop)
}

fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The first signal is the lowest bit.
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}

pub(super) async fn backup(settings: Settings, matches: &ArgMatches) -> Result<(), Failure> {
    let passphrase = passphrase(matches)?;
    let target = file(matches);
    let ambient = Ambient::default();
    let made = backup::make(
        &settings,
        &target,
        passphrase.as_deref(),
        &ambient,
        &told_to_stop()?,
    )
    .await?;
    let manifest = made.manifest;
    let size = std::fs::metadata(&target)?.len();
    let mut text = String::new();
    let _ = writeln!(text, "{}", target.display());
    let sealed = if passphrase.is_some() {
        "sealed with the passphrase"
    } else {
        "not sealed"
    };
    let _ = writeln!(text, "  file      {size} bytes, mode 0600, {sealed}");
    contents(&mut text, &manifest);
    let _ = writeln!(
        text,
        "  not in it logs of hosts in {}; the configuration{}",
        settings.sink_folder.display(),
        match &settings.tls {
            TlsSettings::Files { certificate, key } =>
                format!("; your {} and {}", certificate.display(), key.display()),
            _ => String::new(),
        }
    );
    for path in &made.cleared {
        let _ = writeln!(
            text,
            "  removed   {}, which a backup left that was killed",
            path.display()
        );
    }
    print(&text)?;
    if passphrase.is_none() {
        let _ = writeln!(
            io::stderr(),
            "muster-server: this file is not sealed: whoever reads it can enroll hosts with its tokens, pose as this \
             server to its agents, and read what is known of every host. Keep it as secret as the data folder, or use \
             --passphrase-file."
        );
    }
    Ok(())
}

pub(super) async fn restore(settings: Settings, matches: &ArgMatches) -> Result<(), Failure> {
    let passphrase = passphrase(matches)?;
    let from = file(matches);
    let mut text = String::new();
    if matches.get_flag("check") {
        let manifest = backup::check(&from, passphrase.as_deref())?;
        let _ = writeln!(text, "{} is whole", from.display());
        contents(&mut text, &manifest);
        return print(&text);
    }
    let replace = matches.get_flag("replace");
    let ambient = Ambient::default();
    let restored =
        backup::restore(&settings, &from, passphrase.as_deref(), replace, &ambient).await?;
    let _ = writeln!(text, "{} is put back", from.display());
    contents(&mut text, &restored.manifest);
    let _ = writeln!(text, "  database  {}", settings.database);
    let _ = writeln!(text, "  files     {}", settings.data_dir.display());
    if let Some(aside) = &restored.aside {
        let _ = writeln!(
            text,
            "  aside     {} has what was there before",
            aside.display()
        );
    }
    next(&mut text, &settings);
    print(&text)?;
    let is_roots = |folder: &Path| std::fs::metadata(folder).is_ok_and(|found| found.uid() == 0);
    if rustix::process::geteuid().is_root() && is_roots(&settings.data_dir) {
        let _ = writeln!(
            io::stderr(),
            "muster-server: {0} belongs to root; if the server runs as another user, give it to that: chown -R muster: {0}",
            settings.data_dir.display()
        );
    }
    Ok(())
}

/// What to do after a restore.
fn next(text: &mut String, settings: &Settings) {
    let folder = settings.data_dir.display();
    let database = match settings.database {
        muster_store::Address::Postgres(_) => {
            ", which has to name this database (--database or MUSTER_DATABASE_URL)"
        }
        muster_store::Address::Sqlite(_) => "",
    };
    let _ = writeln!(text, "What to do next:");
    let _ = writeln!(
        text,
        "  1. Look whether it fits this machine, with the same configuration{database}: muster-server doctor --data-dir {folder}"
    );
    let _ = writeln!(
        text,
        "  2. Start the server; it brings the database up to date. Agents go on with the keys that they have."
    );
    if let Some(address) = start::last_address(&settings.data_dir) {
        let _ = writeln!(
            text,
            "  3. Agents look for it at {address}: if this is another machine, let that name lead here."
        );
    }
    if matches!(settings.database, muster_store::Address::Postgres(_)) {
        let key = Path::new(&settings.data_dir).join("master.key");
        let _ = writeln!(
            text,
            "  4. Give every other server of this database the same {} and tls folder.",
            key.display()
        );
    }
}
