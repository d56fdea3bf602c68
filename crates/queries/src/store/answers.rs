//! Answers to campaigns, many in a statement.

use std::collections::HashSet;

use muster_clock::Timestamp;
use muster_identity::HostId;
use muster_store::{Executor, StoreError, args, placeholders};

use super::campaigns::Answer;

/// How many answers one statement keeps.
const MAX_ANSWERS: usize = 250;
/// How many parameters an answer has.
const ANSWER_COLUMNS: usize = 9;

/// Keeps answers of different hosts to one campaign, each with its position and time, but for those of hosts that were not
/// asked or answered before; gives the hosts whose answers were kept.
pub(crate) async fn keep(
    db: &mut impl Executor,
    id: i64,
    answers: &[(&Answer, i64, Timestamp)],
) -> Result<HashSet<HostId>, StoreError> {
    let mut kept = HashSet::new();
    for batch in answers.chunks(MAX_ANSWERS) {
        // PostgreSQL learns the types of a list of values from its first row.
        let mut values = "(CAST($1 AS BIGINT), CAST($2 AS TEXT), CAST($3 AS BIGINT), CAST($4 AS TEXT), CAST($5 AS BIGINT), \
             CAST($6 AS BIGINT), CAST($7 AS BIGINT), CAST($8 AS TEXT), CAST($9 AS BIGINT))"
            .to_owned();
        for row in 1..batch.len() {
            let first = 1 + row * ANSWER_COLUMNS;
            let places = (first..first + ANSWER_COLUMNS).map(|place| format!("${place}"));
            let places: Vec<String> = places.collect();
            values += ", (";
            values += &places.join(", ");
            values += ")";
        }
        let last = batch.len() * ANSWER_COLUMNS + 1;
        let sql = format!(
            "UPDATE queries_campaign_hosts SET state = v.column2, ended_at = v.column3, message = v.column4, \
             result_rows = v.column5, result_bytes = v.column6, clipped = v.column7, stats = v.column8, \
             position = v.column9 FROM (VALUES {values}) AS v WHERE host_id = v.column1 AND campaign_id = ${last} \
             AND state IN ('pending', 'sent', 'offline') RETURNING host_id"
        );
        let mut args = Vec::with_capacity(last);
        for (answer, position, now) in batch {
            let bytes = i64::try_from(answer.rows_json.len()).unwrap_or(i64::MAX);
            args.extend(args![
                answer.host_id,
                answer.state.name(),
                *now,
                &answer.message,
                answer.rows,
                bytes,
                answer.clipped,
                answer.stats.as_deref(),
                *position,
            ]);
        }
        args.push(id.into());
        for row in db.execute_returning(&sql, args).await? {
            kept.insert(row.get("host_id")?);
        }
        let with_rows: Vec<&Answer> = batch
            .iter()
            .map(|(answer, ..)| *answer)
            .filter(|answer| answer.rows > 0 && kept.contains(&answer.host_id))
            .collect();
        if with_rows.is_empty() {
            continue;
        }
        let sql = format!(
            "INSERT INTO queries_results (campaign_id, host_id, rows_json) VALUES {}",
            placeholders(with_rows.len(), 3)
        );
        let args = with_rows
            .iter()
            .flat_map(|answer| args![id, answer.host_id, &answer.rows_json]);
        db.execute(&sql, args.collect()).await?;
    }
    Ok(kept)
}
