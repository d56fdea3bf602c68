//! What peers say in headers and paths before they are known.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_negotiation::{CapabilitySet, FleetVersion};

fuzz_target!(|data: &[u8]| {
    let said = CapabilitySet::parse(data.split(|byte| *byte == b'\n'));
    let header = said.to_header_value();
    assert!(!header.contains(' '));
    assert_eq!(CapabilitySet::parse([header.as_bytes()]), said);
    if let Ok(segment) = std::str::from_utf8(data) {
        let _ = FleetVersion::parse(segment);
    }
});
