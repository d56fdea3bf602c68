// tidy: long because it is one table of what is not compared, each with its reason
//! What is not compared, in one place, each with its reason.
//!
//! Three kinds: exchanges whose subject we do not build ([`NOT_BUILT`]), statuses where we decided otherwise
//! ([`OTHER_STATUS`]), and members of answers that we do not have or have otherwise ([`MEMBERS`]).

use crate::recording::Exchange;
use crate::shape::Difference;

/// An exchange that is not sent.
#[derive(Debug)]
pub struct LeftOut {
    /// The method, or `*`.
    pub method: &'static str,
    /// The path below the root of its family; `*` stands for any characters.
    pub route: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// A member of an answer that does not agree.
pub struct Member<'a> {
    /// The route.
    pub route: &'a str,
    /// What does not agree.
    pub difference: &'a Difference,
}

const fn not_built(method: &'static str, route: &'static str, reason: &'static str) -> LeftOut {
    LeftOut {
        method,
        route,
        reason,
    }
}

/// Why exchanges with a key are left out whose enrollment is not in the recording.
pub const GAP: &str = "the recording has a gap: it does not show where the key came from";

/// What was done to a recorded server besides: recording, first and last position, reason.
pub const ARTEFACTS: &[(&str, u64, u64, &str)] = &[
    (
        "golden",
        248,
        248,
        "the recorded title is not among those that were listed",
    ),
    (
        "experiments",
        138,
        139,
        "who may see a campaign may listen to it; the recorded server lets only its owner",
    ),
    (
        "golden",
        257,
        257,
        "the recording does not show the session before",
    ),
    (
        "orbit-2025",
        96,
        96,
        "the token was made old in the recorded database, which nothing marks",
    ),
];

/// Why a result of a live query is left out.
pub const UNSEEN_HOST: &str = "the recording shows nothing else of the host that answers";

const MDM: &str = "device management (MDM, profiles, disk encryption) is not built";
const SCRIPTS: &str = "scripts are not built yet";
const SOFTWARE: &str = "installing software is not built yet";
const POLICIES: &str = "policies are not built yet: lists are empty, and who writes one is told so";
const PACKS: &str = "packs come with schedules: lists are empty, and who writes one is told so";
const CARVES: &str = "file carving is not built yet";
const REPORTS: &str = "stored results of schedules come with schedules";
const MAIL: &str =
    "the server sends no mail: no invitations, no passwords by mail, no codes by mail";
const INTERNALS: &str =
    "the inside of Fleet's server is not ours; metrics and `doctor` tell of ours";
const POPULATE: &str = "lists of hosts stay short: software, users, labels and policies stand in each host's own answer";
const OS_VERSIONS: &str =
    "operating systems are counted together with their vulnerabilities, which are not built yet";
/// Why counts may not be told again.
pub const SAME_COUNTS: &str = "counts are told again when they change, and here they did not";
/// Why empty flags are not told to an orbit that says nothing of itself.
pub const EMPTY_FLAGS: &str = "`{}` as startup flags goes only to hosts that say what they can: orbit of 2022 restarts for ever";
/// Why a request is left out that was shortened.
pub const CUT: &str = "the body was too large to be kept in the recording";

/// Exchanges about what does not exist here.
pub const NOT_BUILT: &[LeftOut] = &[
    not_built("POST", "/spec/policies", POLICIES),
    not_built("*", "/policies/1", POLICIES),
    not_built("*", "/policies/7", POLICIES),
    not_built("POST", "/policies", POLICIES),
    not_built("POST", "/policies/delete", POLICIES),
    not_built("POST", "/spec/packs", PACKS),
    not_built("GET", "/spec/packs/seed%2520pack", PACKS),
    not_built("*", "/packs/1", PACKS),
    not_built("GET", "/packs/1/scheduled", PACKS),
    not_built("POST", "/packs", PACKS),
    not_built("*", "/packs/schedule/1", PACKS),
    not_built("*", "/osquery/carve/begin", CARVES),
    not_built("*", "/osquery/carve/block", CARVES),
    not_built("GET", "/carves/1*", CARVES),
    not_built("*", "/osquery/yara/x", CARVES),
    not_built("GET", "/queries/*/report", REPORTS),
    not_built("GET", "/hosts/2065/queries/1*", REPORTS),
    not_built("*", "/orbit/scripts/*", SCRIPTS),
    not_built("POST", "/scripts/run", SCRIPTS),
    not_built("GET", "/scripts/results/8508039b*", SCRIPTS),
    not_built("*", "/orbit/setup_experience/*", MDM),
    not_built("*", "/orbit/luks_data", MDM),
    not_built("*", "/orbit/disk_encryption_key", MDM),
    not_built("POST", "/invites", MAIL),
    not_built("POST", "/forgot_password", MAIL),
    not_built("POST", "/reset_password", MAIL),
    not_built("POST", "/sessions", MAIL),
    not_built("*", "/debug/*", INTERNALS),
    not_built("POST", "/download_installer/pkg", SOFTWARE),
    not_built("GET", "/os_versions", OS_VERSIONS),
    not_built("GET", "/os_versions/1", OS_VERSIONS),
    not_built(
        "GET",
        "/results/info",
        "SockJS's other transports are for Fleet's console; fleetctl opens the socket at once",
    ),
];

/// Statuses where we decided otherwise: route or case, recorded, ours, reason.
pub const OTHER_STATUS: &[(&str, u16, u16, &str)] = &[
    (
        "/trigger",
        200,
        404,
        "background work runs by itself and waits for no trigger; fleetctl says so and ends with 0 either way",
    ),
    (
        "/hosts/transfer/filter",
        400,
        200,
        "an empty `query` in a filter is as good as none (fleetctl up to March 2024 always sends one)",
    ),
    (
        "orbit device_mapping by POST",
        405,
        200,
        "documented as POST and sent as PUT: both are taken",
    ),
    (
        "orbit software_install/details unknown",
        401,
        404,
        "either spelling of the key is taken",
    ),
    (
        "host by node key",
        200,
        404,
        "a secret has no place in a path",
    ),
    (
        "host by uuid in capitals",
        404,
        200,
        "identifiers are found whatever their case",
    ),
    (
        "hosts after cursor",
        422,
        200,
        "an error of the recorded database",
    ),
    (
        "host software",
        422,
        200,
        "an error of the recorded database",
    ),
    (
        "device software",
        422,
        200,
        "an error of the recorded database",
    ),
    (
        "device self service",
        422,
        200,
        "an error of the recorded database",
    ),
    ("/translate", 422, 200, "an error of the recorded database"),
    ("/spec/teams", 422, 200, "an error of the recorded database"),
    (
        "/spec/labels",
        422,
        200,
        "built-in labels in what `get labels --yaml` printed are accepted when they are unchanged",
    ),
    (
        "fleets (newer)",
        404,
        200,
        "the newer spelling is served from the first day",
    ),
    (
        "reports (newer)",
        404,
        200,
        "the newer spelling is served from the first day",
    ),
    (
        "v1 spelling /schedule",
        405,
        404,
        "no client tells a wrong method from a missing path",
    ),
    (
        "setup page after setup",
        307,
        410,
        "the page says that the server is set up; there is no console to go to yet",
    ),
    (
        "orbit ping by GET",
        405,
        200,
        "a ping may be looked at with a browser",
    ),
    ("double slash", 307, 404, "paths are taken as they are"),
    (
        "POST queries, null",
        500,
        422,
        "a query without a name is 422",
    ),
    (
        "POST queries, unknown key",
        500,
        422,
        "a query without a name is 422",
    ),
    (
        "query without name",
        500,
        422,
        "a query without a name is 422",
    ),
    ("query without SQL", 500, 422, "a query without SQL is 422"),
    (
        "query create with Content-Type None",
        400,
        422,
        "a query without SQL is 422",
    ),
    (
        "query create with Content-Type text/plain",
        400,
        422,
        "a query without SQL is 422",
    ),
    (
        "query create with Content-Type application/x-www-form-urlencoded",
        400,
        422,
        "bodies are JSON by their route, whatever the headers say",
    ),
    (
        "query create with Content-Type application/json; charset=utf-8",
        400,
        422,
        "a query without SQL is 422",
    ),
    (
        "login with Content-Type application/x-www-form-urlencoded",
        400,
        200,
        "bodies are JSON by their route, whatever the headers say",
    ),
    (
        "osquery read with Content-Type application/x-www-form-urlencoded",
        400,
        200,
        "bodies are JSON by their route, whatever the headers say",
    ),
    (
        "POST queries, empty body",
        400,
        422,
        "a query without a name is 422",
    ),
    (
        "query bad logging",
        400,
        422,
        "a field with a value that is not allowed is 422 everywhere",
    ),
    (
        "query bad platform",
        400,
        422,
        "a field with a value that is not allowed is 422 everywhere",
    ),
    (
        "host query empty",
        400,
        422,
        "a field with a value that is not allowed is 422 everywhere",
    ),
    (
        "write status text",
        500,
        200,
        "a status that cannot be read counts as a failure, and the rest is kept",
    ),
    (
        "write stats as strings",
        400,
        200,
        "numbers as texts are read",
    ),
    (
        "orbit enroll without uuid",
        500,
        400,
        "a request without what it needs is 400",
    ),
    (
        "login flood 4",
        429,
        401,
        "tries are counted by account and by address, not for the whole server",
    ),
    (
        "login flood 5",
        429,
        401,
        "tries are counted by account and by address, not for the whole server",
    ),
    (
        "login flood 6",
        429,
        401,
        "tries are counted by account and by address, not for the whole server",
    ),
    (
        "E9 host query while disabled",
        200,
        403,
        "live queries that are switched off are refused in one way",
    ),
    (
        "hosts by software version",
        404,
        200,
        "a filter that nothing fits gives an empty list",
    ),
    (
        "hosts by software title",
        404,
        200,
        "a filter that nothing fits gives an empty list",
    ),
    (
        "log unknown type",
        500,
        422,
        "a request that makes no sense is no fault of the server; the agent keeps its logs all the same",
    ),
    (
        "token in the query string",
        200,
        401,
        "a token in an address ends up in the logs of proxies; no client sends it there",
    ),
];

/// Members where we have something else: route, place, reason.
pub const MEMBERS: &[(&str, &str, &str)] = &[
    (
        "/teams",
        "teams[].agent_options",
        "a new team has no options of its own, so that the organisation's stay in force",
    ),
    (
        "/teams",
        "team.agent_options",
        "a new team has no options of its own, so that the organisation's stay in force",
    ),
    (
        "/teams/1",
        "team.agent_options",
        "a new team has no options of its own, so that the organisation's stay in force",
    ),
    (
        "/teams/6",
        "team.agent_options",
        "a new team has no options of its own, so that the organisation's stay in force",
    ),
    ("*", "*macos_setup.*", MDM),
    ("*", "*macos_settings.*", MDM),
    ("/config", "mdm.*", MDM),
    ("/config", "scripts", SCRIPTS),
    (
        "/hosts/identifier/*",
        "host.pack_stats",
        "a host looked up by name is told as whole as by its number",
    ),
    (
        "/hosts/identifier/*",
        "host.*_version",
        "a host looked up by name is told as whole as by its number",
    ),
    (
        "/hosts/identifier/*",
        "host.scripts_enabled",
        "a host looked up by name is told as whole as by its number",
    ),
    (
        "/users/admin",
        "code",
        "what is wrong with a role is told like everything that is wrong",
    ),
    (
        "/hosts/identifier/*",
        "host.team_name",
        "a host has a team or none",
    ),
    (
        "/results/websocket",
        "data.stats",
        "what a query cost is told whenever the host says it",
    ),
    (
        "/hosts",
        "software",
        "the software that a filter names is told by its own route",
    ),
    (
        "/hosts",
        "software_title",
        "the software that a filter names is told by its own route",
    ),
    ("/hosts", "hosts[].labels", POPULATE),
    ("/hosts", "hosts[].policies", POPULATE),
    ("/hosts", "hosts[].software", POPULATE),
    ("/hosts", "hosts[].users", POPULATE),
    ("/hosts", "hosts[].device_mapping", POPULATE),
    (
        "/users/admin",
        "user.teams[].*",
        "of a team the answer has what identifies it; the recorded server echoes the request",
    ),
    ("/hosts", "hosts[].team_id", "a host has a team or none"),
    ("/hosts", "hosts[].team_name", "a host has a team or none"),
    (
        "/hosts/*/health",
        "health.disk_encryption_enabled",
        "not asked of hosts yet",
    ),
    (
        "*",
        "counts_updated_at",
        "counts are of now, not of the last round of a job",
    ),
    (
        "/activities",
        "activities[].actor_id",
        "what was done by the setup link has no actor",
    ),
    ("/carves", "carves", CARVES),
    (
        "/orbit/config",
        "notifications.pending_script_execution_ids",
        SCRIPTS,
    ),
    (
        "/osquery/distributed/read",
        "accelerate",
        "a half-filled row of details does not blank what is known, so the host need not hurry",
    ),
];

/// Why an exchange says nothing of servers.
pub fn artefact(recording: &str, n: u64) -> Option<&'static str> {
    let fits =
        |entry: &&(&str, u64, u64, &str)| entry.0 == recording && (entry.1..=entry.2).contains(&n);
    ARTEFACTS.iter().find(fits).map(|entry| entry.3)
}

/// Why an exchange is not sent, when it is not.
pub fn left_out(exchange: &Exchange) -> Option<&'static LeftOut> {
    let fits = |entry: &&LeftOut| {
        (entry.method == "*" || entry.method == exchange.method)
            && matches(below_root(exchange.route()), entry.route)
    };
    NOT_BUILT.iter().find(fits)
}

/// Why a status may be another one.
pub fn other_status(exchange: &Exchange, ours: u16) -> Option<&'static str> {
    let recorded = exchange.status?;
    let fits = |entry: &&(&str, u16, u16, &str)| {
        (matches(below_root(exchange.route()), entry.0)
            || (!exchange.name.is_empty() && exchange.name == entry.0))
            && entry.1 == recorded
            && entry.2 == ours
    };
    OTHER_STATUS.iter().find(fits).map(|entry| entry.3)
}

/// Why a member may be another one.
pub fn may_differ(member: &Member<'_>) -> Option<&'static str> {
    let fits = |entry: &&(&str, &str, &str)| {
        matches(below_root(member.route), entry.0) && matches(&member.difference.at, entry.1)
    };
    MEMBERS.iter().find(fits).map(|entry| entry.2)
}

/// A route below the root of its family: `/hosts/1` of `/api/latest/fleet/hosts/1`, `/orbit/config` of
/// `/api/fleet/orbit/config`, `/osquery/log` of either of its roots.
fn below_root(route: &str) -> &str {
    let rest = route.strip_prefix("/api/").unwrap_or(route);
    if let Some(orbit) = rest.strip_prefix("fleet") {
        return orbit;
    }
    let versions = ["v1", "2022-04", "latest"];
    let version = versions
        .iter()
        .find_map(|version| rest.strip_prefix(*version));
    let rest = version.unwrap_or(rest);
    if let Some(user) = rest.strip_prefix("/fleet") {
        return user;
    }
    route.find("/osquery/").map_or(route, |at| &route[at..])
}

/// Whether a whole text fits a pattern, in which `*` stands for any characters.
fn matches(text: &str, pattern: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return text == pattern;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    loop {
        if matches(text, rest) {
            return true;
        }
        let mut characters = text.chars();
        if characters.next().is_none() {
            return false;
        }
        text = characters.as_str();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_routes() {
        assert!(matches("/queries/7/report", "/queries/*/report"));
        assert!(
            !matches("/hosts/report", "/report") && !matches("/hosts/report", "/queries/*/report")
        );
        assert!(matches("mdm.a.b", "mdm.*") && !matches("config.mdm.a", "mdm.*"));
        for (route, below) in [
            ("/api/latest/fleet/hosts/1", "/hosts/1"),
            ("/api/v1/fleet/global/policies", "/global/policies"),
            ("/api/fleet/orbit/config", "/orbit/config"),
            ("/api/v1/osquery/log", "/osquery/log"),
            ("/api/osquery/log", "/osquery/log"),
            ("/debug/errors", "/debug/errors"),
        ] {
            assert_eq!(below_root(route), below);
        }
    }

    #[test]
    fn nothing_is_left_out_that_no_recording_has() {
        let recordings = crate::recordings();
        let has = |fits: &dyn Fn(&str, &Exchange) -> bool| {
            recordings.iter().any(|recording| {
                recording
                    .exchanges()
                    .any(|exchange| fits(&recording.name, exchange))
            })
        };
        for entry in NOT_BUILT {
            let fits = |_: &str, exchange: &Exchange| {
                (entry.method == "*" || entry.method == exchange.method)
                    && matches(below_root(exchange.route()), entry.route)
            };
            assert!(has(&fits), "{entry:?}");
        }
        for (recording, first, last, reason) in
            ARTEFACTS.iter().filter(|entry| entry.0 != "experiments")
        {
            let fits = |name: &str, exchange: &Exchange| {
                name == *recording && (*first..=*last).contains(&exchange.n)
            };
            assert!(has(&fits), "{reason}");
        }
        for (place, recorded, ours, _) in OTHER_STATUS {
            let fits = |_: &str, exchange: &Exchange| {
                exchange.status == Some(*recorded)
                    && other_status(exchange, *ours).is_some()
                    && (exchange.name == *place || matches(below_root(exchange.route()), place))
            };
            assert!(has(&fits), "{place}");
        }
    }
}
