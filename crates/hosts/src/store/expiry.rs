//! Hosts that stay away.

use std::collections::HashSet;

use muster_clock::Timestamp;
use muster_identity::{HostId, TeamId};
use muster_store::{Executor, StoreError, Value};

/// Whose hosts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whose<'a> {
    /// Those without a team, and of all teams but these.
    AllBut(&'a [TeamId]),
    /// Those of this team.
    Team(TeamId),
}

/// The first hosts after one, in the order of ids, that were not heard since `before` and enrolled earlier.
pub(crate) async fn silent(
    db: &mut impl Executor,
    whose: Whose<'_>,
    before: Timestamp,
    after: HostId,
    limit: usize,
) -> Result<Vec<HostId>, StoreError> {
    let mut args = vec![Value::from(before), Value::from(after)];
    let teams = match whose {
        Whose::AllBut([]) => "1 = 1".to_owned(),
        Whose::AllBut(teams) => {
            let list = super::numbered(args.len() + 1, teams.len());
            args.extend(teams.iter().map(|team| Value::from(team.0)));
            format!("(h.team_id IS NULL OR h.team_id NOT IN ({list}))")
        }
        Whose::Team(team) => {
            args.push(Value::from(team.0));
            "h.team_id = $3".to_owned()
        }
    };
    let sql = format!(
        "SELECT h.id FROM hosts_hosts h LEFT JOIN hosts_presence p ON p.host_id = h.id
         WHERE h.id > $2 AND h.enrolled_at < $1 AND COALESCE(p.seen_at, h.enrolled_at) < $1 AND {teams}
         ORDER BY h.id LIMIT {limit}"
    );
    let rows = db.fetch_all(&sql, args).await?;
    rows.iter().map(|row| row.get("id")).collect()
}

/// Those of the hosts that were heard since `before`, or enrolled again. The rows of the others stay as they are until the
/// unit of work ends: whoever hears of one meanwhile waits.
pub(crate) async fn heard(
    db: &mut impl Executor,
    hosts: &[HostId],
    before: Timestamp,
) -> Result<HashSet<HostId>, StoreError> {
    let list = super::numbered(2, hosts.len());
    let args = || {
        let ids = hosts.iter().copied().map(Value::from);
        std::iter::once(Value::from(before)).chain(ids).collect()
    };
    let lock = format!(
        "UPDATE hosts_presence SET seen_at = seen_at WHERE host_id IN ({list}) AND seen_at < $1"
    );
    db.execute(&lock, args()).await?;
    let sql = format!(
        "SELECT h.id FROM hosts_hosts h LEFT JOIN hosts_presence p ON p.host_id = h.id
         WHERE h.id IN ({list}) AND (p.seen_at >= $1 OR h.enrolled_at >= $1)"
    );
    let rows = db.fetch_all(&sql, args()).await?;
    rows.iter().map(|row| row.get("id")).collect()
}
