//! Hosts: how they enroll and check in, what is known about them, and how operators see them.
//!
//! Two sides share the tables. The agents' side (enrollment, check-in, details, labels' evaluation, orbit, device
//! tokens, presence, logs) is made for many small requests: what is asked at every check-in is answered from memory,
//! and what is told at every check-in is written in batches. The operators' side lists, searches and edits.
//!
//! Other crates plug in through [`DistributedSource`] (queries that hosts run at a check-in) and [`ScheduleSource`]
//! (queries that hosts run by themselves). Whoever keeps collectors says by [`HostCollectors`] which run on a host.
//!
//! Not responsible for: who may enroll and whose key is whose (`identity`), what is asked live (`queries`), the
//! inventory of software (`software`), where logs go (`sinks`).

mod agents;
mod belongings;
mod cache;
mod capability;
mod checkin;
mod clones;
mod companions;
mod configuration;
mod detail;
mod device;
mod enroll;
mod error;
mod expiry;
mod guesses;
pub mod http;
mod inspect;
mod load;
mod logs;
mod machines;
mod matching;
mod membership;
mod migrations;
mod operators;
mod pace;
mod presence;
mod record;
mod rotation;
mod source;
mod state;
mod store;
mod token_labels;

pub use agents::{AgentParts, Agents};
pub use capability::{Lost, Saying};
pub use checkin::{CheckIn, HOST_TOPIC, LABELS_TOPIC};
pub use companions::{HostCollector, HostCollectors};
pub use configuration::{AgentOptions, OptionsSource};
pub use device::{REFETCH_PAUSE, Refetch, refetch_state};
pub use error::HostsError;
pub use expiry::{ExpiryRules, ExpirySource};
pub use machines::{HostSummary, MAX_ALIKE, MachineId, Match, machine_name};
pub use operators::{
    Ban, Census, DarkBecause, DarkFeature, DarkHost, FeatureSummary, HOST_SORTS, HostDetail,
    HostQuery, Hosts, KeyRotation, LabelChange, LabelSpecification, Membership, NewLabel,
    OperatorError, Presence as HostPresence, ProgramCount, SKEW_SORTS, Selection, SkewQuery,
    presence as presence_of,
};
pub use presence::Presence;

/// What a host answered to one query: status, message, rows and cost.
pub use muster_wire_osquery::{DistributedResult as QueryResult, Row, Stats as QueryStats};

pub use migrations::MIGRATIONS;
pub use record::{
    HostCapabilities, HostEndUser, HostEvent, HostFacts, HostRecord, HostUser, IdentifierSource,
    LabelId, LabelMembership, LabelRecord,
};
pub use source::{
    ALWAYS, DistributedSource, DueQueries, DueQuery, NoSchedule, ScheduleSource, SourceError,
};
pub use state::{HostProfile, HostState, Said};
