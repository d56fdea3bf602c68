//! Denials in the log of changes.

use std::time::Duration;

use muster_identity::{Actor, AuditFilter, AuditRecord, DENIED_REQUEST, Denial};
use muster_replicas::Lease;
use muster_store::Executor as _;
use muster_store::testing::on_both_databases;
use tokio_util::sync::CancellationToken;

use crate::{Fixture, address};

fn denial(route: &str) -> Denial {
    Denial {
        action: DENIED_REQUEST,
        actor: Actor::unknown(address(1)),
        reason: "unauthenticated",
        subject_kind: "route",
        subject_id: route.to_owned(),
    }
}

async fn kept(fixture: &Fixture) -> Vec<AuditRecord> {
    let listing = muster_http::ListingQuery::default().check(&["id"]).unwrap();
    let filter = AuditFilter {
        action: Some(DENIED_REQUEST.to_owned()),
        ..AuditFilter::default()
    };
    fixture
        .identity
        .audit
        .list(&listing, &filter)
        .await
        .unwrap()
        .items
}

on_both_databases! {
    async fn the_first_denial_is_kept_at_once_and_repetitions_are_counted(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let identity = fixture.identity.clone();
        let stop = CancellationToken::new();
        let running = {
            let (identity, stop) = (identity.clone(), stop.clone());
            tokio::spawn(async move { identity.run_maintenance(&Lease::always(), stop).await })
        };
        identity.denials.note(denial("GET /a"));
        let waited = tokio::time::timeout(Duration::from_secs(30), async {
            while kept(&fixture).await.is_empty() {
                tokio::task::yield_now().await;
            }
        });
        waited.await.expect("the first one is written without waiting for a timer");
        for _ in 0..500 {
            identity.denials.note(denial("GET /a"));
        }
        fixture.clock.advance(Duration::from_secs(3600));
        stop.cancel();
        running.await.unwrap();
        let kept = kept(&fixture).await;
        let details: Vec<_> = kept.iter().map(|record| record.after.clone().unwrap()).collect();
        assert_eq!(details.len(), 2, "{details:?}");
        assert_eq!(details[0], serde_json::json!({ "reason": "unauthenticated" }));
        assert_eq!((&details[1]["times"], &details[1]["reason"]), (&500.into(), &"unauthenticated".into()));
        assert_eq!((kept[0].actor_kind.as_str(), kept[0].subject_id.as_str()), ("unknown", "GET /a"));
        assert_eq!(kept[0].address, "192.0.2.1");
    }

    async fn what_cannot_be_written_is_written_later(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let maintain = async || {
            let stop = CancellationToken::new();
            stop.cancel();
            fixture.identity.run_maintenance(&Lease::always(), stop).await;
        };
        let rename = async |from: &str, to: &str| {
            let sql = format!("ALTER TABLE {from} RENAME TO {to}");
            let database = fixture.db.database();
            (&mut &database).execute(&sql, Vec::new()).await.unwrap();
        };
        for number in 0..3 {
            fixture.identity.denials.note(denial(&format!("GET /{number}")));
        }
        rename("identity_audit", "identity_audit_away").await;
        maintain().await;
        rename("identity_audit_away", "identity_audit").await;
        maintain().await;
        assert_eq!(kept(&fixture).await.len(), 3);
    }

    async fn what_is_denied_in_very_many_ways_stays_bounded(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        for number in 0..5_000 {
            fixture.identity.denials.note(denial(&format!("GET /{number}")));
        }
        let stop = CancellationToken::new();
        stop.cancel();
        fixture.identity.run_maintenance(&Lease::always(), stop).await;
        let listing = muster_http::ListingQuery { search: Some("others".into()), ..Default::default() };
        let others = fixture.identity.audit.list(&listing.check(&["id"]).unwrap(), &AuditFilter::default()).await.unwrap();
        assert_eq!(others.total, 1);
        assert_eq!(others.items[0].after.as_ref().unwrap()["times"], 3_000);
        let all = AuditFilter { action: Some(DENIED_REQUEST.into()), ..AuditFilter::default() };
        let listing = muster_http::ListingQuery::default().check(&["id"]).unwrap();
        assert_eq!(fixture.identity.audit.list(&listing, &all).await.unwrap().total, 2_001);
        fixture.clock.advance(Duration::from_secs(91 * 24 * 3600));
        assert_eq!(fixture.identity.audit.forget_denials().await.unwrap(), 2_001);
    }
}
