//! Ids that other crates refer to.

use std::fmt;

use muster_store::{FromColumn, Row, StoreError, Value};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! ids {
    ($($(#[$meta:meta])* $name:ident;)*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$name> for Value {
            fn from(id: $name) -> Self {
                Self::from(id.0)
            }
        }

        impl FromColumn for $name {
            fn from_column(row: &Row, column: &str) -> Result<Self, StoreError> {
                row.get::<i64>(column).map(Self)
            }
        }
    )*};
}

ids! {
    /// A host.
    HostId;
    /// An agent that speaks OpAMP, by the id that we gave it. Neither a host's id nor the `instance_uid` that the agent says
    /// of itself, which changes.
    CollectorId;
    /// A team.
    TeamId;
    /// A user.
    UserId;
    /// An enrollment token.
    EnrollmentTokenId;
    /// A key that an agent identifies itself with.
    AgentKeyId;
}
