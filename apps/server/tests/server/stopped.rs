//! Backups and restores that are ended in their middle, and whom their files belong to.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};

use crate::backup::large;
use crate::program::{Program, command};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn act(data: &Path, arguments: &[&str], file: &Path) -> Command {
    let mut command = command(data);
    command.args(arguments).arg(file);
    command
}

fn run(mut command: Command) -> Output {
    command.output().unwrap()
}

fn succeeds(command: Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn fails(command: Command) -> String {
    let output = run(command);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr)
}

/// Waits until a file is there that the program makes.
fn until_there(child: &mut Child, path: &Path) {
    while !path.exists() {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "it ended before {}", path.display());
        std::thread::yield_now();
    }
}

/// A folder as a backup has it that is being made.
fn unfinished(path: &Path, content: &str) -> fs::File {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(path.join(content), "secrets").unwrap();
    fs::File::open(path).unwrap()
}

#[tokio::test]
async fn a_backup_that_is_told_to_stop_leaves_nothing_and_the_next_one_clears_what_killed_ones_left()
 {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    large(&data).await;
    for signal in [Signal::TERM, Signal::INT] {
        let file = folder.path().join("stopped");
        let beside = folder.path().join("stopped.unfinished");
        let mut begun = act(&data, &["backup"], &file);
        let mut begun = begun.stderr(std::process::Stdio::piped()).spawn().unwrap();
        until_there(&mut begun, &beside.join("database"));
        kill_process(Pid::from_child(&begun), signal).unwrap();
        let output = begun.wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("told to stop"), "{said}");
        assert!(!file.exists() && !beside.exists(), "{signal:?}");
    }
    let killed = folder.path().join("killed");
    let mut begun = act(&data, &["backup"], &killed).spawn().unwrap();
    let left = folder.path().join("killed.unfinished");
    until_there(&mut begun, &left.join("database"));
    begun.kill().unwrap();
    begun.wait().unwrap();
    assert!(left.join("database").exists());
    // One that is under way holds its folder; other folders are nobody's business, whatever they are called.
    let busy = folder.path().join("busy.unfinished");
    let held = unfinished(&busy, "database");
    rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
    let other = folder.path().join("novel.unfinished");
    drop(unfinished(&other, "chapter-1"));
    let said = succeeds(act(&data, &["backup"], &folder.path().join("next")));
    assert!(said.contains(left.to_str().unwrap()), "{said}");
    assert!(!left.exists() && busy.join("database").exists());
    assert!(other.join("chapter-1").exists());
    drop(held);
    succeeds(act(&data, &["backup"], &folder.path().join("last")));
    assert!(!busy.exists() && other.exists());
}

/// What the unit runs, with other places.
fn unit(program: &Path, folder: &Path, passphrase: &Path) -> Command {
    let unit = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/systemd/muster-backup.service"
    );
    let text = fs::read_to_string(unit).unwrap().replace("\\\n", " ");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/bin/sh -euc '"));
    let script = line.unwrap().strip_suffix('\'').unwrap().replace("%%", "%");
    let mut changed = script.clone();
    for (place, with) in [
        ("/var/lib/muster-backups", folder),
        ("/usr/bin/muster-server", program),
        ("/etc/muster/backup.passphrase", passphrase),
    ] {
        assert!(changed.contains(place), "{changed}");
        changed = changed.replace(place, with.to_str().unwrap());
    }
    let mut shell = Command::new("sh");
    shell.args(["-euc", &changed]);
    shell
}

#[tokio::test]
async fn the_nightly_unit_is_kept_from_its_work_by_nothing_that_an_earlier_night_left() {
    let folder = tempfile::tempdir().unwrap();
    let (data, kept) = (folder.path().join("data"), folder.path().join("kept"));
    let server = Program::start(&mut command(&data));
    server.terminate();
    assert!(server.wait().success());
    fs::create_dir(&kept).unwrap();
    let passphrase = folder.path().join("passphrase");
    fs::write(&passphrase, "correct horse battery\n").unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    let like = command(&data);
    let mut unit = unit(Path::new(like.get_program()), &kept, &passphrase);
    for (name, value) in like.get_envs() {
        match value {
            Some(value) => unit.env(name, value),
            None => unit.env_remove(name),
        };
    }
    fs::write(kept.join("muster-old"), "a backup").unwrap();
    fs::write(kept.join("muster-new"), "a backup").unwrap();
    drop(unfinished(&kept.join("muster-1.unfinished"), "database"));
    // Of another user, say: it stays, and keeps nothing from its work.
    drop(unfinished(&kept.join("muster-2.unfinished"), "something"));
    let mut touch = Command::new("touch");
    touch.args(["--date", "20 days ago"]);
    for name in [
        "muster-old",
        "muster-1.unfinished",
        "muster-2.unfinished/something",
        "muster-2.unfinished",
    ] {
        touch.arg(kept.join(name));
    }
    succeeds(touch);
    let said = succeeds(unit);
    assert!(said.contains("is whole"), "{said}");
    let there = |name: &str| kept.join(name).exists();
    assert!(!there("muster-old") && !there("muster-1.unfinished"));
    assert!(there("muster-new") && there("muster-2.unfinished/something"));
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 3, "with the new one");
}

#[tokio::test]
async fn no_server_and_no_command_begins_anew_in_a_folder_while_a_restore_into_it_is_unfinished() {
    let folder = tempfile::tempdir().unwrap();
    let (data, place) = (folder.path().join("data"), folder.path().join("place"));
    large(&data).await;
    let file = folder.path().join("backup");
    succeeds(act(&data, &["backup"], &file));
    let mut begun = act(&place, &["restore"], &file).spawn().unwrap();
    until_there(&mut begun, &place.join("muster.db.restoring"));
    begun.kill().unwrap();
    begun.wait().unwrap();
    let unfinished = "did not come to its end; run it again with --replace";
    let mut create = command(&place);
    create.env("MUSTER_PASSWORD", crate::site::PASSWORD);
    create.args(["admin", "create-user", "--email", "ann@example.com"]);
    let mut migrate = command(&place);
    migrate.arg("migrate");
    let mut link = command(&place);
    link.args(["admin", "setup-link"]);
    let kept = act(&place, &["backup"], &folder.path().join("half"));
    for refused in [command(&place), create, migrate, link, kept] {
        let said = fails(refused);
        assert!(said.contains(unfinished), "{said}");
    }
    assert!(!place.join("muster.db").exists() && !place.join("master.key").exists());
    let mut doctor = command(&place);
    doctor.arg("doctor");
    let found = text(&run(doctor).stdout);
    assert!(found.contains("did not come to its end"), "{found}");
    succeeds(act(&place, &["restore", "--replace"], &file));
    let key = |folder: &Path| fs::read(folder.join("master.key")).unwrap();
    assert_eq!(key(&place), key(&data));
    assert!(place.join("muster.db").exists() && !place.join("restore-unfinished").exists());
    // One that is refused for a place that is in use leaves no mark.
    let said = fails(act(&place, &["restore"], &file));
    assert!(said.contains("say --replace"), "{said}");
    assert!(!place.join("restore-unfinished").exists());
}

/// A user that is nobody in particular, for the server.
const USER: u32 = 61_234;

/// The program where every user gets at it, as it is installed.
fn installed(folder: &Path) -> PathBuf {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.join("muster-server");
    fs::copy(command(folder).get_program(), &program).unwrap();
    program
}

/// The command as that user runs it.
fn as_user(program: &Path, data: &Path) -> Command {
    let like = command(data);
    let mut command = Command::new(program);
    for (name, value) in like.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.uid(USER).gid(USER).current_dir("/");
    command
}

#[tokio::test]
async fn what_root_puts_back_belongs_to_the_servers_user_and_what_does_not_is_told_without_advice_to_delete()
 {
    if !rustix::process::geteuid().is_root() {
        // Only root gives files away.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = installed(folder.path());
    let (data, place) = (folder.path().join("data"), folder.path().join("place"));
    let server = Program::start(&mut command(&data));
    server.terminate();
    assert!(server.wait().success());
    let file = folder.path().join("backup");
    succeeds(act(&data, &["backup"], &file));
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&place, Some(USER), Some(USER)).unwrap();
    // The second time into what is there already.
    for how in [&["restore"][..], &["restore", "--replace"]] {
        succeeds(act(&place, how, &file));
        let mut folders = vec![place.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let entry = entry.unwrap();
                let found = entry.metadata().unwrap();
                let owner = (found.uid(), found.gid());
                assert_eq!(owner, (USER, USER), "{}", entry.path().display());
                if found.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        let server = Program::start(&mut as_user(&program, &place));
        server.terminate();
        assert!(server.wait().success());
    }
    for name in ["lock", "address"] {
        let found = fs::metadata(place.join(name)).unwrap();
        assert_eq!(found.mode() & 0o777, 0o600, "{name}");
    }
    let doctor = |mut command: Command| {
        let output = run({
            command.arg("doctor");
            command
        });
        (output.status.code(), text(&output.stdout))
    };
    for (code, said) in [doctor(command(&place)), doctor(as_user(&program, &place))] {
        assert!(code == Some(0) && said.contains("ok       owner"), "{said}");
    }
    // As releases left it that gave nothing away.
    for name in ["tls/ca.key", "tls/server.key", "muster.db", "lock"] {
        chown(place.join(name), Some(0), Some(0)).unwrap();
    }
    let advice = format!("as root: chown -R {USER}:{USER} {}", place.display());
    for (code, said) in [doctor(command(&place)), doctor(as_user(&program, &place))] {
        assert!(code == Some(1) && said.contains("PROBLEM  owner"), "{said}");
        assert!(
            said.contains("tls/ca.key") && said.contains(&advice),
            "{said}"
        );
        for harmful in ["remove", "put back"] {
            assert!(!said.contains(harmful), "{said}");
        }
    }
    // What is advised helps.
    let mut helped = Command::new("chown");
    helped.args(["-R", &format!("{USER}:{USER}")]).arg(&place);
    succeeds(helped);
    let server = Program::start(&mut as_user(&program, &place));
    server.terminate();
    assert!(server.wait().success());
}
