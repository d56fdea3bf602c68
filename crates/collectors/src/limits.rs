//! Limits and times of this crate.

use std::time::Duration;

use muster_wire_opamp::limits::DEFAULT_MESSAGE_BYTES;

use crate::configurations::MAX_VERSION_BYTES;

/// The most bytes of the authorities that an offer names: those of a whole operating system are fewer.
pub const MAX_AUTHORITY_BYTES: usize = 256 * 1024;
/// The most bytes of the further headers that an offer names, names and values together.
pub const MAX_HEADERS_BYTES: usize = 16 * 1024;
/// The most bytes of whatever else is in an answer: uids, hashes, an address, a key, what tells fields apart.
const REST_OF_ANSWER_BYTES: usize = 16 * 1024;

// An offer and a configuration may come in one answer, and no answer may be larger than agents take.
const _: () = assert!(
    MAX_VERSION_BYTES + MAX_AUTHORITY_BYTES + MAX_HEADERS_BYTES + REST_OF_ANSWER_BYTES
        <= DEFAULT_MESSAGE_BYTES
);

/// How many new agents may come by one token from one address in a day when nobody decided otherwise: more than any fleet that
/// comes at once by one gateway, and less than fills a disk within days when the token leaked.
pub const DEFAULT_NEW_PER_DAY: u32 = 50_000;
/// For how many pairs of token and address that is counted. When there are more, those go first that have most left.
pub(crate) const MAX_NEWCOMERS: usize = 10_000;
/// How often an agent is to be heard when nobody decided otherwise.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(DEFAULT_HEARTBEAT_SECONDS as u64);
/// The same, in seconds.
pub(crate) const DEFAULT_HEARTBEAT_SECONDS: u32 = 30;
/// The least time between two requests for a full state, per agent.
pub(crate) const FULL_STATE_PAUSE: Duration = Duration::from_secs(30);
/// How often a full state is asked for in a row without getting one.
pub(crate) const MAX_FULL_STATE_REQUESTS: u8 = 3;
/// The least time between two offers to one agent, whatever happens: two that are close together leave a supervisor with two
/// live connections.
pub(crate) const LEAST_OFFER_PAUSE: Duration = Duration::from_secs(10);
/// After how many offers without adoption an agent is marked, and how long is waited before the next ones.
pub(crate) const OFFERS_UNTIL_MARKED: u32 = 3;
/// How long is waited after the second, third, fourth and every later offer that was not adopted.
pub(crate) const OFFER_PAUSES: [Duration; 4] = [
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 60 * 60),
    Duration::from_secs(24 * 60 * 60),
];
/// How long after an agent was taken back by its token its older key may still be used by a request that was under way.
pub(crate) const UNDER_WAY: Duration = Duration::from_secs(15);
/// How long it is remembered that somebody showed an agent's uid and the token while its key may be in use.
pub(crate) const CONTEST_LASTS: Duration = Duration::from_secs(10 * 60);
/// How often an agent is given another uid because it asks for one, at most.
pub(crate) const REASSIGNMENT_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How long after an offer of where to send own telemetry the same is offered again to an agent that starts anew.
pub(crate) const TELEMETRY_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How long a wish to restart an agent waits for it.
pub(crate) const RESTART_WAITS: Duration = Duration::from_secs(15 * 60);
/// How long an answer to a remote configuration is waited for until the configuration is sent again.
pub(crate) const CONFIG_ANSWER_TIME: Duration = Duration::from_secs(5 * 60);
/// How long what names an agent's components may stay unknown until a full state is asked for instead.
pub(crate) const COMPONENTS_PATIENCE: Duration = Duration::from_secs(25);
/// How often a day an agent may come back with its token before people are told.
pub(crate) const COMEBACKS_PER_DAY: u32 = 5;

/// How many uids by which an agent went are remembered, the one that it has included.
pub(crate) const MAX_UIDS: i64 = 32;
/// How many lines (pairs of agent and credential) are told apart per agent.
pub(crate) const MAX_LINES: usize = 4;
/// How many other machines that show an agent's uid are told apart.
pub(crate) const MAX_SEPARATED: usize = 32;
/// The most attributes of a list that are kept.
pub(crate) const MAX_ATTRIBUTES: usize = 200;
/// The longest text inside an attribute that is kept, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 4_096;
/// The longest message of an error that is kept, in bytes.
pub(crate) const MAX_ERROR_BYTES: usize = 4_096;
/// How deep values and trees are kept.
pub(crate) const MAX_DEPTH: usize = 32;
/// How many nodes of a tree of health or components are kept.
pub(crate) const MAX_NODES: usize = 5_000;
/// How many files of an effective configuration are kept.
pub(crate) const MAX_CONFIG_FILES: usize = 64;
/// How many custom messages of an agent are kept.
pub(crate) const MAX_KEPT_MESSAGES: i64 = 20;
/// The largest custom message that is kept with its data, in bytes.
pub(crate) const MAX_CUSTOM_BYTES: usize = 16 * 1024;
/// How many entries of an agent's timeline are kept.
pub(crate) const MAX_EVENTS: i64 = 200;
