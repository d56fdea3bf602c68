//! When agents were last heard, and the numbers of their messages: written in batches.

use muster_clock::Timestamp;
use muster_identity::CollectorId;
use muster_store::{Executor, Row, StoreError, Value, args, statements};

use crate::record::{Line, LineKey, Need};

/// The most agents of one statement.
pub(crate) const MAX_BATCH_ROWS: usize = 500;

statements! {
    LINES = "SELECT line, sequence, connection, seen_at, ended_at, said_goodbye, need, asked_at, asked_in_a_row,
        (SELECT p.seen_at FROM collectors_presence p WHERE p.collector_id = $1) AS heard_at
        FROM collectors_lines
        WHERE collector_id = $1 ORDER BY seen_at DESC LIMIT 4";
    /// One line; the test of the batch's shape. A time never goes back, unless by more than an hour.
    PUT_LINE = "INSERT INTO collectors_lines (collector_id, line, sequence, connection, seen_at, ended_at, need, asked_at,
        asked_in_a_row, said_goodbye)
        SELECT v.column1, v.column2, v.column3, v.column4, v.column5, v.column6, v.column7, v.column8, v.column9, v.column10
        FROM (VALUES (CAST($1 AS BIGINT), CAST($2 AS TEXT), CAST($3 AS BIGINT), CAST($4 AS BIGINT), CAST($5 AS BIGINT),
        CAST($6 AS BIGINT), CAST($7 AS BIGINT), CAST($8 AS BIGINT), CAST($9 AS BIGINT), CAST($10 AS BIGINT))) v
            JOIN collectors_collectors c ON c.id = v.column1
        WHERE 1 = 1
        ON CONFLICT (collector_id, line) DO UPDATE SET sequence = excluded.sequence, connection = excluded.connection,
            seen_at = excluded.seen_at, ended_at = excluded.ended_at, need = excluded.need,
            asked_at = excluded.asked_at, asked_in_a_row = excluded.asked_in_a_row, said_goodbye = excluded.said_goodbye
            WHERE collectors_lines.seen_at <= excluded.seen_at
                OR collectors_lines.seen_at > excluded.seen_at + 3600000000";
    PUT_PRESENCE = "INSERT INTO collectors_presence (collector_id, seen_at, gone_at, said_goodbye)
        SELECT v.column1, v.column2, v.column3, v.column4
        FROM (VALUES (CAST($1 AS BIGINT), CAST($2 AS BIGINT), CAST($3 AS BIGINT), CAST($4 AS BIGINT))) v
            JOIN collectors_collectors c ON c.id = v.column1
        WHERE 1 = 1
        ON CONFLICT (collector_id) DO UPDATE SET seen_at = excluded.seen_at, gone_at = excluded.gone_at,
            said_goodbye = excluded.said_goodbye,
            back_at = CASE WHEN collectors_presence.gone_at IS NOT NULL OR excluded.seen_at - collectors_presence.seen_at
                > 3000000 * (SELECT c.interval_seconds FROM collectors_collectors c WHERE c.id = excluded.collector_id)
                THEN excluded.seen_at ELSE collectors_presence.back_at END
            WHERE collectors_presence.seen_at <= excluded.seen_at
                OR collectors_presence.seen_at > excluded.seen_at + 3600000000";
    FORGET_LINES = "DELETE FROM collectors_lines WHERE seen_at < $1";
}

const LINE_ROW: &str = "(CAST($1 AS BIGINT), CAST($2 AS TEXT), CAST($3 AS BIGINT), CAST($4 AS BIGINT), CAST($5 AS BIGINT),
        CAST($6 AS BIGINT), CAST($7 AS BIGINT), CAST($8 AS BIGINT), CAST($9 AS BIGINT), CAST($10 AS BIGINT))";
const PRESENCE_ROW: &str =
    "(CAST($1 AS BIGINT), CAST($2 AS BIGINT), CAST($3 AS BIGINT), CAST($4 AS BIGINT))";

fn need_of(number: i64) -> Need {
    match number {
        1 => Need::Owed,
        2 => Need::Asked,
        _ => Need::None,
    }
}

fn number_of(need: Need) -> i64 {
    match need {
        Need::None => 0,
        Need::Owed => 1,
        Need::Asked => 2,
    }
}

fn line(row: &Row) -> Result<Option<Line>, StoreError> {
    let text: String = row.get("line")?;
    let Some(key) = LineKey::parse(&text) else {
        return Ok(None);
    };
    Ok(Some(Line {
        key,
        sequence: row.get::<i64>("sequence")? as u64,
        connection: row.get::<i64>("connection")? as u64,
        seen_at: row.get("seen_at")?,
        ended_at: row.get("ended_at")?,
        said_goodbye: row.get("said_goodbye")?,
        need: need_of(row.get("need")?),
        asked_at: row.get("asked_at")?,
        asked_in_a_row: u8::try_from(row.get::<i64>("asked_in_a_row")?).unwrap_or(u8::MAX),
    }))
}

/// The lines of an agent, the newest last.
pub(crate) async fn lines(
    db: &mut impl Executor,
    id: CollectorId,
) -> Result<Vec<Line>, StoreError> {
    let rows = db.fetch_all(LINES, args![id]).await?;
    let heard_at = match rows.first() {
        Some(row) => row.get::<Option<Timestamp>>("heard_at")?,
        None => None,
    };
    let lines = rows.iter().map(line).collect::<Result<Vec<_>, _>>()?;
    let mut lines: Vec<Line> = lines.into_iter().flatten().rev().collect();
    // Lines of sockets are not written each time that the agent is heard; those of polls are, and those that end. Of several
    // sockets nobody knows which it was.
    let mut on_sockets = lines.iter_mut().filter(|line| line.is_on_socket());
    if let (Some(line), None, Some(heard_at)) = (on_sockets.next(), on_sockets.next(), heard_at) {
        line.seen_at = line.seen_at.max(heard_at);
        lines.sort_by_key(|line| line.seen_at);
    }
    Ok(lines)
}

/// `$n` for each of the rows after the first, which tells PostgreSQL the types of all.
fn rows(first: &str, columns: usize, count: usize) -> String {
    let mut text = first.to_owned();
    for row in 1..count {
        let numbers: Vec<String> = (1..=columns)
            .map(|column| format!("${}", row * columns + column))
            .collect();
        text.push_str(", (");
        text.push_str(&numbers.join(", "));
        text.push(')');
    }
    text
}

/// What was heard of an agent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heard {
    pub(crate) id: CollectorId,
    pub(crate) lines: Vec<Line>,
    pub(crate) seen_at: Timestamp,
    pub(crate) gone_at: Option<Timestamp>,
    pub(crate) said_goodbye: bool,
}

impl Heard {
    /// Whether these are the times that the other has.
    pub(crate) fn has_times_of(&self, other: &Self) -> bool {
        (self.seen_at, self.gone_at, self.said_goodbye)
            == (other.seen_at, other.gone_at, other.said_goodbye)
    }
}

/// Notes what was heard of at most [`MAX_BATCH_ROWS`] agents, in two statements. Agents that were deleted meanwhile are left
/// out. In the order of ids, so that two servers never wait for each other.
pub(crate) async fn put(db: &mut impl Executor, heard: &[Heard]) -> Result<(), StoreError> {
    let mut heard: Vec<&Heard> = heard.iter().collect();
    heard.sort_by_key(|heard| heard.id);
    let mut lines: Vec<(CollectorId, &Line)> = heard
        .iter()
        .flat_map(|heard| heard.lines.iter().map(|line| (heard.id, line)))
        .collect();
    lines.sort_by_key(|(id, line)| (*id, line.key));
    if !lines.is_empty() {
        let mut values: Vec<Value> = Vec::with_capacity(lines.len() * 10);
        for (id, line) in &lines {
            values.extend(args![
                *id,
                line.key.text(),
                line.sequence as i64,
                line.connection as i64,
                line.seen_at,
                line.ended_at,
                number_of(line.need),
                line.asked_at,
                i64::from(line.asked_in_a_row),
                line.said_goodbye
            ]);
        }
        let sql = PUT_LINE.replace(LINE_ROW, &rows(LINE_ROW, 10, lines.len()));
        db.execute(&sql, values).await?;
    }
    if !heard.is_empty() {
        let mut values: Vec<Value> = Vec::with_capacity(heard.len() * 4);
        for heard in &heard {
            values.extend(args![
                heard.id,
                heard.seen_at,
                heard.gone_at,
                heard.said_goodbye
            ]);
        }
        let sql = PUT_PRESENCE.replace(PRESENCE_ROW, &rows(PRESENCE_ROW, 4, heard.len()));
        db.execute(&sql, values).await?;
    }
    Ok(())
}

/// Forgets lines that were silent for long: their credentials are good for nothing any more.
pub(crate) async fn forget_lines(
    db: &mut impl Executor,
    before: Timestamp,
) -> Result<u64, StoreError> {
    db.execute(FORGET_LINES, args![before]).await
}
