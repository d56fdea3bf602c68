//! The inventory of software: which versions of what each host has.
//!
//! Hosts of a fleet have much the same software, so each version is one row, found by a checksum over everything that
//! tells it apart, and a host's inventory is a set of their ids. A report is compared with what is kept and only the
//! difference is written.
//!
//! Not responsible for: reading what hosts report (`hosts`), or what is wrong with a version (vulnerabilities).

mod entry;
pub mod http;
mod migrations;
mod service;
mod store;

pub use entry::{MAX_ENTRIES_PER_HOST, SoftwareEntry};
pub use migrations::MIGRATIONS;
pub use service::{
    Inventory, Software, SoftwareTitle, SoftwareVersion, TITLE_SORTS, TitleVersion, VERSION_SORTS,
    Visible,
};
pub use store::{hosts_with_title, hosts_with_version};
