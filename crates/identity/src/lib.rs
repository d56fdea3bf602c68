//! Who is who: the ids that other crates refer to.

mod ids;

pub use ids::{AgentKeyId, EnrollmentTokenId, HostId, TeamId, UserId};
