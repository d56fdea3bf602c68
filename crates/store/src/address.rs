//! Where the database is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

/// Where the database is: `sqlite:///var/lib/muster/muster.db`, a plain path, or `postgres://user@host/name`.
#[derive(Clone)]
pub enum Address {
    /// A file, made when it is not there.
    Sqlite(PathBuf),
    /// A server.
    Postgres(Box<PgConnectOptions>),
}

/// The text names no database.
#[derive(Debug, thiserror::Error)]
#[error(
    "{shown:?} is not a database address; give a file path, sqlite://PATH or postgres://USER:PASSWORD@HOST/NAME"
)]
pub struct AddressError {
    shown: String,
    #[source]
    source: Option<sqlx::Error>,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return match text.parse() {
                Ok(options) => Ok(Self::Postgres(Box::new(options))),
                // The text may hold a password: it is not repeated.
                Err(source) => Err(AddressError {
                    shown: "postgres://…".to_owned(),
                    source: Some(source),
                }),
            };
        }
        let path = text
            .strip_prefix("sqlite://")
            .or_else(|| text.strip_prefix("sqlite:"))
            .unwrap_or(text);
        if path.is_empty() || path.contains("://") {
            let shown = text.split("://").next().unwrap_or_default().to_owned() + "://…";
            return Err(AddressError {
                shown,
                source: None,
            });
        }
        Ok(Self::Sqlite(PathBuf::from(path)))
    }
}

impl fmt::Display for Address {
    /// Without user and password: it is for people and logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(options) => write!(
                f,
                "postgres://{}:{}/{}",
                options.get_host(),
                options.get_port(),
                options.get_database().unwrap_or_default()
            ),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_without_their_password() {
        for (text, shown) in [
            ("data/muster.db", "sqlite://data/muster.db"),
            ("sqlite:///var/lib/muster.db", "sqlite:///var/lib/muster.db"),
            (
                "postgres://muster:hunter2@db.example:5433/fleet",
                "postgres://db.example:5433/fleet",
            ),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "mysql://root:hunter2@db/fleet",
            "postgres://muster:hunter2@db:notaport/x",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
