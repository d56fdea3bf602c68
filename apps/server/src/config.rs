//! The server's configuration: one table of keys, read from flags, environment and a file.
//!
//! [`KEYS`](keys::KEYS) declares each key once, with its default and what it means. From it come the flags
//! (`--database-max-connections`), the variables (`MUSTER_DATABASE_MAX_CONNECTIONS`), the members of the TOML file
//! (`[database] max_connections`), what `config show` prints, and the reference page. Flags win over the environment, the
//! environment over the file. A key that is not in the table is an error that suggests the right one.

mod keys;
mod layers;
mod settings;

pub use keys::{KEYS, Key, Kind, markdown};
pub use layers::{ConfigError, Environment, Layered, Origin, Resolved};
pub(crate) use settings::is_loopback;
pub use settings::{Access, BusSettings, Settings, TlsSettings};

#[cfg(test)]
mod tests;
