//! The command line of `muster-server`.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use muster_bus::LocalBus;
use muster_http::error_chain;
use muster_identity::{Actor, Identity, NewUser, Role, UserChange};
use muster_store::{Address, Database};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, KEYS, Layered, Settings};
use crate::schema::schema;
use crate::services::{self, Services};
use crate::start::{self, Ambient};

mod backup;
mod doctor;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the program.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    match run(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "muster-server: {}", error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// The whole command line, made from the table of keys.
pub fn command() -> Command {
    let mut command = Command::new("muster-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Control plane for fleets of endpoint agents")
        .long_about(
            "Control plane for fleets of endpoint agents.\n\nWithout arguments it serves from the folder muster-data: \
             embedded database, certificates of its own, one port. It prints a link that makes the first administrator.",
        )
        .after_help(
            "Examples:\n  muster-server\n  muster-server serve --data-dir /var/lib/muster \
             --public-url https://muster.example.com\n  \
             MUSTER_DATABASE_URL=postgres://muster:password@db/muster muster-server serve\n  muster-server config show",
        )
        .arg(
            Arg::new("config")
                .long("config")
                .env("MUSTER_CONFIG")
                .value_name("FILE")
                .global(true)
                .help("TOML file to read; without it muster.toml in the data folder, when it is there"),
        );
    for key in KEYS {
        command = command.arg(
            Arg::new(key.name)
                .long(key.flag())
                .visible_aliases(key.short_flag())
                .value_name(
                    key.kind
                        .name()
                        .split(' ')
                        .next()
                        .unwrap_or_default()
                        .to_uppercase(),
                )
                .global(true)
                .hide_short_help(!matches!(
                    key.name,
                    "data_dir" | "listen" | "public_url" | "database.url"
                ))
                .help(key.help),
        );
    }
    command
        .subcommand(Command::new("serve").about("Serve; this is also what happens without a command"))
        .subcommand(
            Command::new("migrate")
                .about("Bring the database up to date, as serve does when it starts")
                .arg(Arg::new("plan").long("plan").action(ArgAction::SetTrue).help("Only print what would be done"))
                .after_help("Examples:\n  muster-server migrate --plan\n  muster-server migrate"),
        )
        .subcommand(
            Command::new("config")
                .about("Look at the configuration")
                .subcommand_required(true)
                .subcommand(
                    Command::new("show")
                        .about("Print what is in force and where each value came from, without secrets")
                        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON")),
                )
                .subcommand(Command::new("reference").about("Print the reference of all keys, in Markdown")),
        )
        .subcommand(
            Command::new("admin").about("Act on the server's data from its machine").subcommand_required(true).subcommand(
                Command::new("create-user")
                    .about("Make a user; the password is read from standard input or $MUSTER_PASSWORD")
                    .arg(Arg::new("email").long("email").required(true).help("Address, which is the name at login"))
                    .arg(Arg::new("name").long("name").help("Name; without it the address's first part"))
                    .arg(
                        Arg::new("role")
                            .long("role")
                            .default_value("admin")
                            .value_parser(["admin", "maintainer", "observer_plus", "observer", "gitops"])
                            .help("What the user may do everywhere"),
                    )
                    .after_help(
                        "Examples:\n  muster-server admin create-user --email ann@example.com\n  \
                         MUSTER_PASSWORD=… muster-server admin create-user --email ci@example.com --role maintainer",
                    ),
            )
            .subcommand(
                Command::new("reset-user")
                    .about("Let somebody in who lost a password, a second factor or both; for the last administrator, too")
                    .long_about(
                        "Let somebody in who lost a password, a second factor or both; for the last administrator, too.\n\n\
                         Prints a password for the next login, at which another has to be chosen. The user's sessions end, \
                         its second factor goes, and it is no longer shut out. It may run beside the server.",
                    )
                    .arg(Arg::new("email").long("email").required(true).help("Address of the user"))
                    .after_help("Examples:\n  muster-server admin reset-user --email ann@example.com"),
            )
            .subcommand(
                Command::new("setup-link")
                    .about("Print again the link that makes the first administrator")
                    .after_help("Examples:\n  muster-server admin setup-link --public-url https://muster.example.com"),
            ),
        )
        .subcommands(backup::commands())
        .subcommand(doctor::command())
        .subcommand(Command::new("openapi").about("Print the OpenAPI document of the API"))
        .subcommand(Command::new("version").about("Print the release"))
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("version", _)) => print(&format!("muster-server {}\n", env!("CARGO_PKG_VERSION"))),
        Some(("config", config)) => match config.subcommand() {
            Some(("reference", _)) => print(&config::markdown()),
            Some(("show", show)) => {
                let layers = layers(show)?;
                print(&shown(&layers, show.get_flag("json")))?;
                // Shown or not: the server would not start with a value that is wrong.
                Settings::from_layers(&layers)?;
                Ok(())
            }
            _ => Ok(()),
        },
        Some(("migrate", migrate)) => {
            let plan = migrate.get_flag("plan");
            with_runtime(None, do_migrate(settings(migrate)?, plan))
        }
        Some(("admin", admin)) => match admin.subcommand() {
            Some(("reset-user", user)) => with_runtime(None, reset_user(settings(user)?, user)),
            Some(("create-user", user)) => with_runtime(None, create_user(settings(user)?, user)),
            Some(("setup-link", link)) => with_runtime(None, setup_link(settings(link)?)),
            _ => Ok(()),
        },
        Some(("backup", matches)) => {
            with_runtime(None, backup::backup(settings(matches)?, matches))
        }
        Some(("restore", matches)) => {
            with_runtime(None, backup::restore(settings(matches)?, matches))
        }
        Some(("doctor", matches)) => {
            with_runtime(None, doctor::doctor(settings(matches)?, matches))
        }
        Some(("openapi", _)) => with_runtime(None, openapi()),
        Some((_, serve)) => run_server(settings(serve)?),
        None => run_server(settings(matches)?),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

fn run_server(settings: Settings) -> Result<(), Failure> {
    with_runtime(settings.worker_threads, do_serve(settings))
}

fn with_runtime(
    worker_threads: Option<usize>,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = worker_threads {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()?.block_on(work)
}

fn layers(matches: &ArgMatches) -> Result<Layered, Failure> {
    let flags: Vec<(String, String)> = KEYS
        .iter()
        .filter_map(|key| {
            Some((
                key.name.to_owned(),
                matches.get_one::<String>(key.name)?.clone(),
            ))
        })
        .collect();
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let file = matches.get_one::<String>("config").map(PathBuf::from);
    Ok(Layered::resolve(
        &flags,
        &environment,
        file.as_deref().map(Path::new),
    )?)
}

fn settings(matches: &ArgMatches) -> Result<Settings, Failure> {
    Ok(Settings::from_layers(&layers(matches)?)?)
}

fn shown(layers: &Layered, json: bool) -> String {
    if json {
        let members = layers.iter().map(|resolved| {
            let value = serde_json::json!({ "value": resolved.shown(), "from": resolved.origin.to_string() });
            (resolved.key.name.to_owned(), value)
        });
        return format!("{:#}\n", serde_json::Value::Object(members.collect()));
    }
    let mut text = String::new();
    for resolved in layers.iter() {
        let _ = writeln!(
            text,
            "{:<26} {:<28} {}",
            resolved.key.name,
            resolved.shown(),
            resolved.origin
        );
    }
    text
}

async fn do_serve(settings: Settings) -> Result<(), Failure> {
    crate::observe::begin_logging(settings.log_json, &settings.log_level)?;
    let data_dir = settings.data_dir.clone();
    start::raise_file_limit();
    // Before anything begins: whoever is told to end while it starts ends in order, too.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let running = tokio::select! {
        running = start::start(settings, Ambient::default()) => running?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let mut greeting = format!(
        "Muster {} listens on {}\n",
        env!("CARGO_PKG_VERSION"),
        running.address
    );
    let _ = writeln!(greeting, "  address      {}", running.public_url);
    let _ = writeln!(greeting, "  data folder  {}", data_dir.display());
    if running.authority_pem.is_some() {
        let _ = writeln!(
            greeting,
            "  certificate  give agents {}",
            data_dir.join("tls/ca.pem").display()
        );
    }
    if let Some(link) = &running.setup_link {
        let _ = writeln!(greeting, "  first admin  open {link}");
    }
    print(&greeting)?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => running.reload().await,
        }
    }
    tracing::info!("stopping");
    running.shut_down().await;
    Ok(())
}

async fn do_migrate(mut settings: Settings, plan: bool) -> Result<(), Failure> {
    let ambient = Ambient::default();
    let shown = settings.database.to_string();
    if plan && let Some(elsewhere) = start::used_elsewhere(&settings) {
        let _ = writeln!(io::stderr(), "muster-server: {elsewhere}");
    }
    let mut scratch = None;
    if let Address::Sqlite(path) = &mut settings.database {
        if !plan {
            // Not beneath a server that runs: it would not know of new tables.
            scratch = Some(Folder::Data(start::DataFolder::open(&settings.data_dir)?));
            start::refuse_unfinished(&settings.data_dir)?;
        } else if !path.exists() {
            // A plan leaves no trace: not even an empty database.
            let folder = ScratchFolder::new()?;
            *path = folder.0.join("muster.db");
            scratch = Some(Folder::Scratch(folder));
        }
    }
    let database = start::open_database(&settings).await?;
    let migrations = if plan {
        schema().plan(&database).await?
    } else {
        schema().apply(&database, ambient.clock.now()).await?
    };
    database.close().await;
    drop(scratch);
    let mut text = String::new();
    for migration in &migrations {
        let _ = writeln!(text, "-- {}/{}", migration.crate_name, migration.name);
        if plan {
            let _ = writeln!(text, "{}", migration.sql.trim());
        }
    }
    let verb = if plan { "to apply" } else { "applied" };
    // With the release: beside an upgrade it matters which program says so.
    let _ = writeln!(
        text,
        "{} migrations {verb} on {shown} by release {}",
        migrations.len(),
        env!("CARGO_PKG_VERSION")
    );
    print(&text)
}

/// A folder that is kept while a migration runs.
enum Folder {
    Data(#[expect(dead_code, reason = "held for its lock")] start::DataFolder),
    Scratch(#[expect(dead_code, reason = "held for its end")] ScratchFolder),
}

/// The database with everything that people need, for a command beside or instead of a server.
async fn open_identity(settings: &Settings) -> Result<(Database, Identity), Failure> {
    start::make_folder(&settings.data_dir)?;
    start::refuse_unfinished(&settings.data_dir)?;
    let ambient = Ambient::default();
    let database = start::open_database(settings).await?;
    schema().apply(&database, ambient.clock.now()).await?;
    let bus = Arc::new(LocalBus::new());
    let identity = services::identity(settings, database.clone(), bus, &ambient)?;
    start::check_master_key(&identity).await?;
    Ok((database, identity))
}

async fn setup_link(settings: Settings) -> Result<(), Failure> {
    if !settings.data_dir.is_dir() {
        // The link follows from the master key that is in it: a new folder would give one that opens nothing.
        let folder = settings.data_dir.display();
        return Err(format!(
            "there is no data folder {folder}: name the server's with --data-dir, or start the server, which prints \
             the link"
        )
        .into());
    }
    let (database, identity) = open_identity(&settings).await?;
    let token = identity.setup.reveal().await?;
    database.close().await;
    match token {
        Some(token) => {
            let told = settings.public_url.is_some();
            let url = (!told)
                .then(|| start::last_address(&settings.data_dir))
                .flatten();
            let url = url.unwrap_or_else(|| start::public_url(&settings, settings.listen));
            print(&format!("{url}/setup?token={token}\n"))
        }
        None => Err("there is an administrator already; the setup link is void".into()),
    }
}

async fn create_user(settings: Settings, matches: &ArgMatches) -> Result<(), Failure> {
    let text = |name: &str| {
        matches
            .get_one::<String>(name)
            .map(|text| text.trim().to_owned())
    };
    let email = text("email").unwrap_or_default();
    let name =
        text("name").unwrap_or_else(|| email.split('@').next().unwrap_or_default().to_owned());
    let role = text("role").as_deref().and_then(Role::parse);
    let password = match std::env::var("MUSTER_PASSWORD") {
        Ok(password) => password,
        Err(_) => read_password()?,
    };
    let (database, identity) = open_identity(&settings).await?;
    let new = NewUser {
        name,
        email,
        password,
        global_role: role,
        ..NewUser::default()
    };
    let user = identity.users.create(&Actor::system(), new).await?;
    database.close().await;
    print(&format!("made user {} with id {}\n", user.email, user.id))
}

async fn reset_user(settings: Settings, matches: &ArgMatches) -> Result<(), Failure> {
    let email = matches
        .get_one::<String>("email")
        .map_or("", |text| text.trim());
    let (database, identity) = open_identity(&settings).await?;
    let user = identity.users.find_by_email(email).await?;
    let user = user.ok_or_else(|| format!("there is no user with the address {email:?}"))?;
    let actor = Actor::system();
    let password = identity.users.reset_password(&actor, user.id, None).await?;
    identity.second_factor.remove(&actor, user.id).await?;
    if user.disabled {
        let change = UserChange {
            disabled: Some(false),
            ..UserChange::default()
        };
        identity.users.change(&actor, user.id, change).await?;
    }
    database.close().await;
    print(&format!("{password}\n"))
}

/// One line of standard input, not shown when it is a terminal. The prompt goes to standard error, so that the command can
/// be piped into.
fn read_password() -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        let _ = write!(io::stderr(), "Password: ");
        let _ = io::stderr().flush();
        return Ok(rpassword::read_password()?);
    }
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// The document follows from the routes alone; the services beneath them get a folder that is thrown away.
async fn openapi() -> Result<(), Failure> {
    let folder = ScratchFolder::new()?;
    let data_dir = folder.0.to_string_lossy().into_owned();
    let layers = Layered::resolve(&[("data_dir".to_owned(), data_dir)], &Vec::new(), None)?;
    let settings = Settings::from_layers(&layers)?;
    let database = start::open_database(&settings).await?;
    let (bus, ambient) = (Arc::new(LocalBus::new()), Ambient::default());
    let url = start::public_url(&settings, settings.listen);
    let services = Services::new(&settings, &url, None, "", database, bus, &ambient)?;
    let document = crate::compose::document(&services);
    services.close().await;
    print(&document)
}

/// A private folder that goes with the value.
struct ScratchFolder(PathBuf);

impl ScratchFolder {
    fn new() -> Result<Self, Failure> {
        let mut number = [0; 8];
        Ambient::default().randomness.fill(&mut number);
        let name = format!("muster-{:016x}", u64::from_le_bytes(number));
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
