//! Which row belongs to an agent that enrolls.
//!
//! A machine enrolls several times: its osquery and its orbit, in either order, and each again when it lost its key.
//! All of them have to land on one row, and two machines never on the same. The order is: the identifier of osquery,
//! then the hardware's UUID, then its serial number. An identifier wins over the hardware: cloned machines and
//! simulators have one UUID and many identifiers, so a row that osquery named otherwise is never taken for its UUID.

use muster_store::{Executor, StoreError};

use crate::record::{HostRecord, IdentifierSource};
use crate::store;

/// UUIDs that firmware and hypervisors give to many machines.
const SHARED_UUIDS: &[&str] = &[
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "03000200-0400-0500-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "00020003-0004-0005-0006-000700080009",
    "fefefefe-fefe-fefe-fefe-fefefefefefe",
    "not settable",
    "not specified",
];

/// Serial numbers that makers leave in many machines, in lower case.
const SHARED_SERIALS: &[&str] = &[
    "-1",
    "0",
    "00000000",
    "0000000000",
    "0123456789",
    "123456789",
    "1234567890",
    "baseboard serial number",
    "chassis serial number",
    "default string",
    "default",
    "empty",
    "invalid",
    "n/a",
    "na",
    "no asset information",
    "none",
    "not applicable",
    "not available",
    "not set",
    "not specified",
    "null",
    "o.e.m.",
    "oem",
    "serial",
    "serial number",
    "sernum",
    "sn",
    "system serial number",
    "to be filled by o.e.m.",
    "to be filled by oem",
    "unknown",
    "unspecified",
    "xxxxxxxxxxxx",
];

/// The key form of an identifier: agents change the case of UUIDs.
pub(crate) fn identifier_key(identifier: &str) -> String {
    identifier.trim().to_lowercase()
}

/// The key form of a hardware UUID; empty when it says nothing about the machine.
pub(crate) fn uuid_key(uuid: &str) -> String {
    let key = identifier_key(uuid);
    if SHARED_UUIDS.contains(&key.as_str()) {
        String::new()
    } else {
        key
    }
}

/// Whether a serial number tells machines apart.
pub(crate) fn is_serial_usable(serial: &str) -> bool {
    let serial = serial.trim().to_lowercase();
    let mut characters = serial.chars();
    let first = characters.next();
    let is_one_character = characters.all(|character| Some(character) == first);
    !is_one_character && !SHARED_SERIALS.contains(&serial.as_str())
}

/// What two enrollments of one machine have in common, whatever each calls itself. They look for a row and make one; who
/// looks holds these names, so that the other one finds what was made.
pub(crate) fn machine_names(identifier: &str, uuid: &str, serial: &str) -> Vec<String> {
    let mut names: Vec<String> = [uuid_key(uuid), uuid_key(identifier)]
        .into_iter()
        .filter(|key| !key.is_empty())
        .map(|key| format!("hosts.uuid {key}"))
        .collect();
    if is_serial_usable(serial) {
        names.push(format!("hosts.serial {}", serial.trim()));
    }
    names
}

/// The row of a machine whose osquery enrolls.
pub(crate) async fn find_for_osquery(
    db: &mut impl Executor,
    identifier: &str,
    uuid: &str,
    serial: &str,
) -> Result<Option<HostRecord>, StoreError> {
    let identifier = identifier_key(identifier);
    if let Some(host) = store::host::find_by_identifier(db, &identifier).await? {
        return Ok(Some(host));
    }
    // Only a row that osquery did not name yet: else another osquery is behind it.
    let unnamed = |host: &HostRecord| host.identifier_from == IdentifierSource::HardwareUuid;
    for key in [uuid_key(uuid), uuid_key(&identifier)] {
        if !key.is_empty() {
            let hosts = store::host::find_by_hardware_uuid(db, &key).await?;
            if let Some(host) = only(hosts, unnamed) {
                return Ok(Some(host));
            }
        }
    }
    if is_serial_usable(serial) {
        let hosts = store::host::find_by_serial(db, serial.trim()).await?;
        return Ok(only(hosts, unnamed));
    }
    Ok(None)
}

/// The row of a machine whose orbit enrolls. `announced` is the identifier that its osquery will enroll with, when that
/// is not the hardware's UUID.
pub(crate) async fn find_for_orbit(
    db: &mut impl Executor,
    announced: Option<&str>,
    uuid: &str,
    serial: &str,
) -> Result<Option<HostRecord>, StoreError> {
    let identifier = identifier_key(announced.unwrap_or(uuid));
    if let Some(host) = store::host::find_by_identifier(db, &identifier).await? {
        return Ok(Some(host));
    }
    let fits = |host: &HostRecord| {
        announced.is_none() || host.identifier_from == IdentifierSource::HardwareUuid
    };
    let key = uuid_key(uuid);
    if !key.is_empty() {
        let hosts = store::host::find_by_hardware_uuid(db, &key).await?;
        if let Some(host) = only(hosts.clone(), fits) {
            return Ok(Some(host));
        }
        // Several machines share the UUID: the serial number decides.
        if is_serial_usable(serial)
            && let Some(host) = only(hosts, |host| {
                fits(host) && host.facts.hardware_serial == serial.trim()
            })
        {
            return Ok(Some(host));
        }
    }
    if is_serial_usable(serial) {
        let hosts = store::host::find_by_serial(db, serial.trim()).await?;
        // A row that another orbit enrolled is that orbit's.
        return Ok(only(hosts, |host| {
            fits(host) && host.orbit_enrolled_at.is_none()
        }));
    }
    Ok(None)
}

/// The one host that passes; none when several do, since any choice could be wrong.
fn only(hosts: Vec<HostRecord>, passes: impl Fn(&HostRecord) -> bool) -> Option<HostRecord> {
    let mut hosts = hosts.into_iter().filter(|host| passes(host));
    let first = hosts.next();
    if hosts.next().is_some() { None } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_many_machines_share_identify_nobody() {
        for serial in [
            "",
            "0",
            "To Be Filled By O.E.M.",
            "Default string",
            " None ",
            "000000000000",
            "........",
        ] {
            assert!(!is_serial_usable(serial), "{serial:?}");
        }
        for serial in ["C02R262BM8LN", "SER1", "PDAFPSJSTTNM", "VMware-56 4d 12"] {
            assert!(is_serial_usable(serial), "{serial:?}");
        }
        assert_eq!(uuid_key("03000200-0400-0500-0006-000700080009"), "");
        assert_eq!(
            uuid_key(" 968CECBD-2D10-4A40-9DF5-7EDC76379915"),
            "968cecbd-2d10-4a40-9df5-7edc76379915"
        );
    }
}
