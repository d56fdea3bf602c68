//! Who may enroll, and why not.

use muster_store::StoreError;

use crate::{EnrollmentTokenId, TeamId};

/// An agent may enroll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// By this token.
    pub token_id: EnrollmentTokenId,
    /// Into this team.
    pub team_id: Option<TeamId>,
}

/// What a token is worth to a host that came by it and enrolls again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readmission {
    /// It admits new hosts, too.
    Good,
    /// Its uses are used up: it admits only those hosts that came by it.
    UsedUp,
}

/// Why an enrollment is refused: for operators and metrics. The agent is told only that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// No token has this secret.
    Unknown,
    /// The token was revoked.
    Revoked,
    /// The token ran out.
    Expired,
    /// The token's uses are used up.
    UsedUp,
    /// The token is for other families of agents.
    OtherFamily,
    /// The token is for agents in other networks.
    OtherNetwork,
    /// The host is banned, which whoever keeps hosts decides.
    Banned,
}

impl RefusalReason {
    /// For labels of metrics and for logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::UsedUp => "used_up",
            Self::OtherFamily => "other_family",
            Self::OtherNetwork => "other_network",
            Self::Banned => "banned",
        }
    }
}

/// An agent may not enroll, or it is not known whether it may.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// It may not.
    #[error("the enrollment was refused: {}", .0.name())]
    Refused(RefusalReason),
    /// The database is away.
    #[error("check an enrollment token")]
    Unavailable(#[source] StoreError),
}

impl From<StoreError> for EnrollError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error)
    }
}
