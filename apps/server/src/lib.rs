//! The server: everything that hosts and operators talk to, in one program.
//!
//! - [`backup`]: everything that it keeps in one file, and back.
//! - [`config`]: what can be configured, and where each value came from.
//! - [`tls`]: the certificate authority and certificate that it makes for itself, or yours.
//! - [`listener`]: one port for HTTP/1.1 and HTTP/2, with limits.
//! - [`compose`]: the domain crates put together into one router.
//! - [`services`]: the domain crates' services, handed to each other.
//! - [`observe`] and [`gauges`]: what it tells about itself, request by request and now and then.
//! - [`start`]: from an empty folder to a running server, and to an orderly end.
//! - [`cli`]: the command line.
//! - [`doctor`]: what is wrong with a server, and what to do about it.
//!
//! Not responsible for: rules of any domain. What is here is wiring.

pub mod backup;
mod certificates;
pub mod cli;
pub mod compose;
pub mod config;
pub mod doctor;
mod folder;
pub mod gauges;
pub mod guard;
pub mod listener;
pub mod observe;
pub mod pages;
pub mod proxies;
mod replicas;
pub mod schema;
pub mod services;
pub mod start;
pub mod targets;
pub mod tls;
