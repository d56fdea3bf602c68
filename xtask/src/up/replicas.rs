//! What several servers need beside themselves: a PostgreSQL database, Redis, and a load balancer before them.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::children::Children;
use super::{START_TIMEOUT, within};
use crate::error::XtaskError;
use crate::postgres::{self, Session};
use crate::workspace::Workspace;
use crate::{prerequisites, process};

/// The surroundings of several servers. The database goes with the value.
pub(super) struct Surroundings {
    postgres: Session,
    database: String,
    redis: PathBuf,
    /// Where the load balancer listens.
    pub(super) port: u16,
}

impl Surroundings {
    /// Starts PostgreSQL and Redis, and makes a database.
    pub(super) fn start(
        workspace: &Workspace,
        children: &mut Children,
        folder: &Path,
        port: u16,
    ) -> Result<Self, XtaskError> {
        prerequisites::ensure()?;
        let postgres = Session::open(workspace)?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let surroundings = Self {
            database: name.replace('-', "_"),
            postgres,
            redis: folder.join("redis.sock"),
            port: if port == 0 { free_port()? } else { port },
        };
        surroundings.psql(&format!("CREATE DATABASE {}", surroundings.database))?;
        let mut redis = Command::new("redis-server");
        redis
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(&surroundings.redis)
            .arg("--dir")
            .arg(folder);
        children.start("redis", &mut redis)?;
        Ok(surroundings)
    }

    fn psql(&self, sql: &str) -> Result<(), XtaskError> {
        let binaries = postgres::find_binaries().unwrap_or_default();
        let mut psql = Command::new(binaries.join("psql"));
        psql.args(["--quiet", "--dbname", self.postgres.url(), "--command", sql]);
        process::capture(&mut psql).map(drop)
    }

    /// What every server is told of them.
    pub(super) fn tell(&self, server: &mut Command) {
        let (base, _) = self
            .postgres
            .url()
            .rsplit_once('/')
            .unwrap_or((self.postgres.url(), ""));
        server
            .env("MUSTER_DATABASE_URL", format!("{base}/{}", self.database))
            .env(
                "MUSTER_BUS_URL",
                format!("redis+unix://{}", self.redis.display()),
            )
            .env(
                "MUSTER_PUBLIC_URL",
                format!("https://localhost:{}", self.port),
            );
    }

    /// Puts a load balancer before the servers, which passes their TLS through.
    pub(super) fn balance(
        &self,
        children: &mut Children,
        folder: &Path,
        ports: &[u16],
    ) -> Result<String, XtaskError> {
        use std::fmt::Write as _;
        let mut text = format!(
            "global\n    log stdout format raw local0 notice\n\n\
             defaults\n    mode tcp\n    log global\n    option redispatch 1\n    retries 3\n    \
             timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n\n\
             listen muster\n    bind 127.0.0.1:{}\n    balance roundrobin\n    \
             default-server check inter 1s fall 2 rise 1\n",
            self.port
        );
        for (number, port) in ports.iter().enumerate() {
            let _ = writeln!(text, "    server server-{number} 127.0.0.1:{port}");
        }
        let path = folder.join("haproxy.cfg");
        fs::write(&path, text).map_err(XtaskError::file("write", &path))?;
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-db").arg("-f").arg(&path);
        children.start("haproxy", &mut haproxy)?;
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            children.check()?;
            within(begun, START_TIMEOUT, "the load balancer does not start")?;
        }
        Ok(format!("https://localhost:{}", self.port))
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        // The cluster is private to this project; what is left of it costs some disk.
        let _ = self.psql(&format!(
            "DROP DATABASE IF EXISTS {} WITH (FORCE)",
            self.database
        ));
    }
}

/// A port that nobody listens on now.
fn free_port() -> Result<u16, XtaskError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    let address = address.map_err(XtaskError::file("listen on", Path::new("127.0.0.1:0")))?;
    Ok(address.port())
}
