//! What real Fleet clients put on the wire and what a real Fleet server answered, replayed against a server of ours.
//!
//! - [`recording`]: reads the recordings in `recordings/`.
//! - [`mapping`]: what stands in the place of recorded secrets and ids.
//! - [`scene`]: what happened around the recorded client.
//! - [`replay`]: sends the recorded requests and compares the answers.
//! - [`answer`]: answers, and what of them has to agree.
//! - [`shape`]: what has to agree in two answers.
//! - [`mutation`]: requests as no client sends them.
//! - [`cutting`]: a proxy that cuts connections.
//! - [`page`]: what people read about it.
//! - [`left_out`]: what is not compared, in one place, each with its reason.
//!
//! Everything here is for tests: what goes wrong is a panic or a difference that says where.
//!
//! Not responsible for what our answers mean, which other tests show; here only the recorded clients' view counts.

pub mod answer;
pub mod cutting;
pub mod left_out;
pub mod mapping;
pub mod mutation;
pub mod page;
pub mod recording;
pub mod replay;
pub mod scene;
pub mod shape;
mod stream;

use crate::recording::Recording;

/// The recordings of this project: one of each client and era, and three made case by case.
const RECORDINGS: &[(&str, &str)] = &[
    (
        "desktop-2025",
        include_str!("../recordings/desktop-2025.jsonl"),
    ),
    ("errors", include_str!("../recordings/errors.jsonl")),
    (
        "experiments",
        include_str!("../recordings/experiments.jsonl"),
    ),
    (
        "fleetctl-2022",
        include_str!("../recordings/fleetctl-2022.jsonl"),
    ),
    (
        "fleetctl-2025",
        include_str!("../recordings/fleetctl-2025.jsonl"),
    ),
    ("golden", include_str!("../recordings/golden.jsonl")),
    ("orbit-2022", include_str!("../recordings/orbit-2022.jsonl")),
    ("orbit-2025", include_str!("../recordings/orbit-2025.jsonl")),
    (
        "osquery-perf-2022",
        include_str!("../recordings/osquery-perf-2022.jsonl"),
    ),
    (
        "osquery-perf-2025",
        include_str!("../recordings/osquery-perf-2025.jsonl"),
    ),
];

/// A recording of this project by its name.
pub fn recording(name: &str) -> Recording {
    let found = RECORDINGS.iter().find(|(known, _)| *known == name);
    let (name, text) = found.expect("there is such a recording");
    Recording::read(name, text)
}

/// All recordings of this project.
pub fn recordings() -> Vec<Recording> {
    RECORDINGS
        .iter()
        .map(|(name, text)| Recording::read(name, text))
        .collect()
}
