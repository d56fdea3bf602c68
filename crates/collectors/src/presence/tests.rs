//! What is written of marks, and when.

use muster_clock::Clock as _;
use muster_store::testing::{TestDatabase, on_both_databases};
use muster_store::{Executor as _, args};

use super::*;
use crate::record::LineKey;
use crate::store;
use crate::testing::{kept, service};

const KEY: LineKey = LineKey::Token(muster_identity::EnrollmentTokenId(1));

/// An agent is heard once more: what it is now, and what was known before.
fn heard(presence: &Presence, record: &mut Record, now: Timestamp) {
    let before = record.clone();
    let line = record.line_mut(KEY).unwrap();
    line.sequence += 1;
    line.seen_at = now;
    presence.heard(record, Some(&before));
}

/// The number of the last message, and when that came, as the database has them.
async fn written(db: &TestDatabase) -> (i64, Timestamp) {
    let sql = "SELECT sequence, seen_at FROM collectors_lines";
    let rows = (&db.database()).fetch_all(sql, args![]).await.unwrap();
    assert_eq!(rows.len(), 1);
    (
        rows[0].get("sequence").unwrap(),
        rows[0].get("seen_at").unwrap(),
    )
}

on_both_databases! {
    async fn numbers_on_a_socket_are_written_every_few_minutes_and_every_reader_knows_when_it_was_heard(db: TestDatabase) {
        let (_, clock) = service(&db).await;
        let mut record = kept(&db, &clock, 2).await;
        let presence = Presence::new(db.database());
        let connected = clock.now();
        record.put_line(Line::new(KEY, 0, 5, connected));
        presence.heard(&record, None);
        presence.write(Extent::Urgent).await.unwrap();
        assert_eq!(written(&db).await, (0, connected), "one that came cannot wait");
        let mut numbers = Vec::new();
        for _ in 0..24 {
            clock.advance(Duration::from_secs(30));
            heard(&presence, &mut record, clock.now());
            presence.write(Extent::Due).await.unwrap();
            let other = store::record::find(&mut &db.database(), record.id).await.unwrap().unwrap();
            assert_eq!(other.seen_at(), Some(clock.now()));
            assert_eq!(other.gone_at(), None);
            numbers.push(written(&db).await.0);
        }
        numbers.dedup();
        assert_eq!(numbers, [0, 11, 22], "each 5 minutes after the first that waits");
        assert_eq!(presence.waiting(record.id)[0].sequence, 24);
        // Its end tells the last number, too.
        let before = record.clone();
        record.line_mut(KEY).unwrap().ended_at = Some(clock.now());
        presence.heard(&record, Some(&before));
        presence.write(Extent::Urgent).await.unwrap();
        assert_eq!(written(&db).await, (24, clock.now()));
        assert!(presence.waiting(record.id).is_empty());
    }

    async fn a_stop_writes_the_numbers_that_wait(db: TestDatabase) {
        let (_, clock) = service(&db).await;
        let mut record = kept(&db, &clock, 2).await;
        let presence = Presence::new(db.database());
        record.put_line(Line::new(KEY, 0, 5, clock.now()));
        presence.heard(&record, None);
        presence.write(Extent::Urgent).await.unwrap();
        heard(&presence, &mut record, clock.now());
        presence.write(Extent::Due).await.unwrap();
        assert_eq!(written(&db).await.0, 0);
        let before = db.statements();
        presence.write(Extent::Due).await.unwrap();
        assert_eq!(db.statements(), before, "nothing is new");
        presence.flush().await.unwrap();
        assert_eq!(written(&db).await.0, 1);
    }

    async fn numbers_of_polls_are_written_whenever_the_agent_was_heard(db: TestDatabase) {
        let (_, clock) = service(&db).await;
        let mut record = kept(&db, &clock, 2).await;
        let presence = Presence::new(db.database());
        record.put_line(Line::new(KEY, 0, 0, clock.now()));
        presence.heard(&record, None);
        for number in 1..4 {
            clock.advance(Duration::from_secs(30));
            heard(&presence, &mut record, clock.now());
            presence.write(Extent::Due).await.unwrap();
            assert_eq!(written(&db).await, (number, clock.now()));
        }
    }
}
