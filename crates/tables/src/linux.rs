//! The tables of Linux hosts, one file for each family.
//!
//! Every reader takes its files from below the engine's root, so that a folder of fixtures can stand for a machine.

mod access;
mod accounts;
mod agent;
mod block;
mod certificates;
mod command;
mod cron;
mod files;
mod glob;
mod hardware;
mod mounts;
mod names;
mod netlink;
mod network;
mod packages;
mod proc;
mod processes;
mod sessions;
mod smbios;
mod sockets;
mod superblock;
mod system;
mod systemd;

use std::path::Path;

use crate::spec::TableSpec;
use crate::table::{FunctionTable, Generate, Table};

pub use system::hardware_uuid;

/// Every table of this platform.
pub(crate) fn tables() -> Vec<Box<dyn Table>> {
    let all: &[(&'static TableSpec, Generate)] = &[
        (&access::AUTHORIZED_KEYS, access::authorized_keys),
        (&access::SUDOERS, access::sudoers),
        (&accounts::GROUPS, accounts::groups),
        (&accounts::USER_GROUPS, accounts::user_groups),
        (&accounts::USERS, accounts::users),
        (&agent::ORBIT_INFO, agent::orbit_info),
        (&agent::OSQUERY_FLAGS, agent::osquery_flags),
        (&agent::OSQUERY_INFO, agent::osquery_info),
        (&agent::OSQUERY_REGISTRY, agent::osquery_registry),
        (&agent::OSQUERY_SCHEDULE, agent::osquery_schedule),
        (&block::BLOCK_DEVICES, block::block_devices),
        (&block::DISK_ENCRYPTION, block::disk_encryption),
        (&certificates::CERTIFICATES, certificates::certificates),
        (&cron::CRONTAB, cron::crontab),
        (&files::FILE, files::file),
        (&files::HASH, files::hash),
        (&hardware::CPU_INFO, hardware::cpu_info),
        (&hardware::KERNEL_INFO, hardware::kernel_info),
        (&hardware::KERNEL_MODULES, hardware::kernel_modules),
        (&hardware::LOAD_AVERAGE, hardware::load_average),
        (&hardware::MEMORY_INFO, hardware::memory_info),
        (&hardware::PLATFORM_INFO, hardware::platform_info),
        (&hardware::ULIMIT_INFO, hardware::ulimit_info),
        (&mounts::MOUNTS, mounts::mounts),
        (&names::DNS_RESOLVERS, names::dns_resolvers),
        (&names::ETC_HOSTS, names::etc_hosts),
        (&names::ETC_SERVICES, names::etc_services),
        (&network::ARP_CACHE, network::arp_cache),
        (&network::INTERFACE_ADDRESSES, network::interface_addresses),
        (&network::INTERFACE_DETAILS, network::interface_details),
        (&network::ROUTES, network::routes),
        (&packages::apt::APT_SOURCES, packages::apt::apt_sources),
        (&packages::deb::DEB_PACKAGES, packages::deb::deb_packages),
        (&packages::npm::NPM_PACKAGES, packages::npm::npm_packages),
        (
            &packages::python::PYTHON_PACKAGES,
            packages::python::python_packages,
        ),
        (&packages::rpm::RPM_PACKAGES, packages::rpm::rpm_packages),
        (
            &processes::PROCESS_OPEN_FILES,
            processes::process_open_files,
        ),
        (&processes::PROCESSES, processes::processes),
        (&sessions::LAST, sessions::last),
        (&sessions::LOGGED_IN_USERS, sessions::logged_in_users),
        (&sockets::LISTENING_PORTS, sockets::listening_ports),
        (
            &sockets::PROCESS_OPEN_SOCKETS,
            sockets::process_open_sockets,
        ),
        (&system::OS_VERSION, system::os_version),
        (&system::SYSTEM_INFO, system::system_info),
        (&system::TIME, system::time),
        (&system::UPTIME, system::uptime),
        (&systemd::SYSTEMD_UNITS, systemd::systemd_units),
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
