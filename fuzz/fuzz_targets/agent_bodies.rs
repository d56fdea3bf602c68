//! Bodies that anybody can send who reaches the agents' port: before any key is looked at, all of them are parsed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_http::parse_json;
use muster_wire_fleet::orbit;
use muster_wire_osquery as osquery;

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    match kind % 8 {
        0 => drop(parse_json::<osquery::EnrollRequest>(body)),
        1 => drop(parse_json::<osquery::ConfigRequest>(body)),
        2 => drop(parse_json::<osquery::NodeKeyRequest<'_>>(body)),
        3 => {
            if let Ok(write) = parse_json::<osquery::WriteRequest>(body) {
                for result in &write.results {
                    let _ = result.succeeded();
                    let _: usize = result.rows.iter().map(osquery::Row::bytes).sum();
                }
            }
        }
        4 => drop(parse_json::<osquery::LogRequest>(body)),
        5 => drop(parse_json::<orbit::EnrollRequest>(body)),
        6 => drop(parse_json::<orbit::DeviceTokenRequest>(body)),
        _ => drop(parse_json::<orbit::DeviceMappingRequest>(body)),
    }
});
