//! The tables of Linux hosts, one file for each family.
//!
//! Every reader takes its files from below the engine's root, so that a folder of fixtures can stand for a machine.

mod agent;
mod system;

use std::path::Path;

use crate::spec::TableSpec;
use crate::table::{FunctionTable, Generate, Table};

pub use system::hardware_uuid;

/// Every table of this platform.
pub(crate) fn tables() -> Vec<Box<dyn Table>> {
    let all: &[(&'static TableSpec, Generate)] = &[
        (&agent::ORBIT_INFO, agent::orbit_info),
        (&agent::OSQUERY_FLAGS, agent::osquery_flags),
        (&agent::OSQUERY_INFO, agent::osquery_info),
        (&agent::OSQUERY_REGISTRY, agent::osquery_registry),
        (&agent::OSQUERY_SCHEDULE, agent::osquery_schedule),
        (&system::OS_VERSION, system::os_version),
        (&system::SYSTEM_INFO, system::system_info),
        (&system::TIME, system::time),
        (&system::UPTIME, system::uptime),
    ];
    all.iter()
        .map(|(spec, generate)| {
            Box::new(FunctionTable {
                spec,
                generate: *generate,
            }) as Box<dyn Table>
        })
        .collect()
}

/// The mount namespace of this process, as its inode's number.
pub(crate) fn mount_namespace(root: &Path) -> Option<String> {
    namespace_number(&root.join("proc/self/ns/mnt"))
}

/// The number in a namespace link such as `mnt:[4026531841]`.
fn namespace_number(link: &Path) -> Option<String> {
    let target = std::fs::read_link(link).ok()?;
    let (_, number) = target.to_str()?.split_once('[')?;
    Some(number.trim_end_matches(']').to_owned())
}
