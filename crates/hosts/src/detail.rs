//! What hosts are asked about themselves, and how their answers become facts.
//!
//! [`queries`] holds the questions, under the names that existing agents and simulators know. [`facts`] reads answers
//! into [`HostFacts`](crate::HostFacts), [`inventory`] into accounts and software. Reading is tolerant: a query that
//! failed, a row that is missing and a cell that makes no sense leave what is known as it is.

pub(crate) mod facts;
pub(crate) mod inventory;
pub(crate) mod queries;

/// How the names of detail queries begin on the wire.
pub(crate) const PREFIX: &str = "fleet_detail_query_";

use crate::source::DueQueries;
use crate::state::HostProfile;

/// Adds every question that fits a host.
pub(crate) fn ask(profile: &HostProfile, out: &mut DueQueries) {
    for query in queries::all() {
        if query.platforms.fit(profile) {
            out.push(query.wire_name, query.sql.clone(), query.discovery.clone());
        }
    }
}

/// Whether a name on the wire is one of ours.
pub(crate) fn is_known(wire_name: &str) -> bool {
    queries::all()
        .iter()
        .any(|query| query.wire_name == wire_name)
}
