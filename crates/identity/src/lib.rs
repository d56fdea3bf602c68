//! Who is who: users and what they may do, teams, enrollment tokens, agent keys, and the log of who changed what.
//!
//! [`Identity`] holds the services; each is cheap to clone. On the operators' side [`authenticate`](http::authenticate)
//! turns a bearer token into a [`Principal`], which handlers ask with [`Principal::authorize`]. On the agents' side
//! [`EnrollmentTokens`] decides who may enroll, and [`AgentKeys`] tells on every check-in whose key that is, from memory;
//! [`CollectorKeys`] does so for agents that speak OpAMP, which are offered keys instead of being told to enroll.
//!
//! Every secret has a row of its own with an id, an owner, a last use and, where it makes sense, an expiry; it is looked
//! up by its SHA-256. Only enrollment tokens, which installers carry and people must be able to see again, are also kept
//! sealed with the server's [`MasterKey`].
//!
//! A database that is away is never a refusal: every decision here can also answer *unavailable*.
//!
//! Not responsible for: hosts themselves (only their ids are known here), or what an agent may ask once it is known.

mod agent_keys;
mod api_tokens;
mod audit;
mod audit_expiry;
mod belongings;
mod collector_keys;
mod denials;
mod enrollment_tokens;
mod error;
pub mod http;
mod ids;
mod key_memory;
mod limits;
mod master_key;
mod migrations;
mod password;
mod principal;
mod second_factor;
mod secret;
mod service;
mod sessions;
mod store;
mod teams;
mod users;

pub use agent_keys::{
    AGENT_KEYS_TOPIC, AgentAuthError, AgentIdentity, AgentKeyInfo, AgentKeys, Family, HostKey,
    IssuedKey, RefusedAgent, RefusedKey,
};
pub use api_tokens::{ApiToken, ApiTokens, NewApiToken};
pub use audit::{Actor, Audit, AuditEntry, AuditFilter, AuditRecord};
pub use audit_expiry::AuditExpirySource;
pub use belongings::TeamBelongings;
pub use collector_keys::{
    COLLECTOR_KEYS_TOPIC, CollectorKeyFilter, CollectorKeyInfo, CollectorKeyRotation,
    CollectorKeys, ComeBack, KeyCollectors, KeyHolder, KeyOffer, KeyState,
    MAX_COLLECTORS_PER_MINUTE, MAX_PENDING_KEYS, NewCollectorKey, NotRenewable, Offered,
    OutstandingOffer, PENDING_FOR, PresentedKey, SUPERSEDED_FOR,
};
pub use denials::{DENIED_AGENT, DENIED_ENROLLMENT, DENIED_REQUEST, Denial, Denials};
pub use enrollment_tokens::{
    Admission, CollectorAdmission, EnrollError, EnrolledHost, EnrollmentToken, EnrollmentTokens,
    KnownAgents, NewEnrollmentToken, Readmission, RefusalReason, Rotated, ScopedSecret, Successor,
    TokenCollectors, TokenLabel, TokenLabels, TokenRotation,
};
pub use error::IdentityError;
pub use ids::{AgentKeyId, CollectorId, EnrollmentTokenId, HostId, TeamId, UserId};
pub use limits::{LoginLimits, TooMany};
pub use master_key::{MasterKey, MasterKeyError};
pub use migrations::MIGRATIONS;
pub use password::{MAX_PASSWORD_CHARACTERS, MIN_PASSWORD_CHARACTERS};
pub use principal::{Action, Credential, Principal, Role, Scope, TeamFilter};
pub use second_factor::{Enrolment, SecondFactor, SecondFactorState};
pub use service::{Identity, IdentityOptions, SetupToken};
pub use sessions::{Login, Sessions};
pub use teams::{Team, Teams};
pub use users::{NewPassword, NewUser, TeamRole, User, UserChange, Users};

pub use secret::{SecretHash, hash as hash_secret};
