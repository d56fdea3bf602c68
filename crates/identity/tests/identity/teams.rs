//! Deleting teams with what other crates keep for them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use muster_clock::Timestamp;
use muster_http::{Listing, OrderDirection};
use muster_identity::{
    Actor, AuditFilter, AuditRecord, Family, Identity, IdentityError, NewEnrollmentToken,
    TeamBelongings, TeamId,
};
use muster_store::testing::on_both_databases;
use muster_store::{Database, Executor as _, StoreError, Transaction, args};

use crate::{Fixture, HERE, START};

/// Things of teams, kept in memory.
#[derive(Default)]
struct Things {
    owned: Mutex<HashMap<TeamId, u64>>,
    breaks: AtomicBool,
    told: AtomicU32,
}

#[async_trait]
impl TeamBelongings for Things {
    fn kind(&self) -> &'static str {
        "things"
    }

    async fn owners(&self, _: &Database) -> Result<Vec<TeamId>, StoreError> {
        Ok(self.owned.lock().unwrap().keys().copied().collect())
    }

    async fn release(
        &self,
        db: &mut Transaction,
        team: TeamId,
        _: Timestamp,
    ) -> Result<u64, StoreError> {
        if self.breaks.load(Ordering::Relaxed) {
            db.fetch_one("SELECT 1 AS one WHERE 1 = 0", args![]).await?;
        }
        Ok(self.owned.lock().unwrap().remove(&team).unwrap_or(0))
    }

    async fn released(&self) {
        self.told.fetch_add(1, Ordering::Relaxed);
    }
}

impl Things {
    fn give(&self, team: TeamId, count: u64) {
        self.owned.lock().unwrap().insert(team, count);
    }

    fn told(&self) -> u32 {
        self.told.load(Ordering::Relaxed)
    }
}

async fn last_change(identity: &Identity) -> AuditRecord {
    let listing = Listing {
        limit: 1,
        offset: 0,
        sort: "id",
        direction: OrderDirection::Descending,
        search: None,
    };
    let filter = AuditFilter::default();
    let page = identity.audit.list(&listing, &filter).await.unwrap();
    page.items.into_iter().next().unwrap()
}

on_both_databases! {
    async fn a_team_takes_with_it_what_was_attached_and_the_log_says_how_much(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (identity, actor) = (&fixture.identity, Actor::system());
        let things = Arc::new(Things::default());
        identity.teams.attach(Arc::<Things>::clone(&things));
        let team = identity.teams.create(&actor, "Laptops", "").await.unwrap().id;
        let new = NewEnrollmentToken { name: "t".into(), team_id: Some(team), ..NewEnrollmentToken::default() };
        let (_, secret) = identity.enrollment_tokens.create(&actor, new).await.unwrap();
        things.give(team, 3);
        identity.teams.delete(&actor, team).await.unwrap();
        let entry = last_change(identity).await;
        assert_eq!((entry.action.as_str(), entry.subject_id), ("deleted_team", team.to_string()));
        assert_eq!(entry.before.unwrap()["name"], "Laptops");
        assert_eq!(entry.after.unwrap()["released"], serde_json::json!({"access_keys": 0, "enrollment_tokens": 1, "things": 3}));
        assert_eq!(things.told(), 1);
        let replica = fixture.replica().await;
        assert!(replica.enrollment_tokens.admit(&secret, Family::Osquery, HERE, START).await.is_err());
        let again = identity.teams.delete(&actor, team).await;
        assert!(matches!(again, Err(IdentityError::NotFound { .. })));
    }

    async fn a_deletion_that_breaks_half_way_leaves_everything_as_it_was(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (identity, actor) = (&fixture.identity, Actor::system());
        let things = Arc::new(Things::default());
        identity.teams.attach(Arc::<Things>::clone(&things));
        let team = identity.teams.create(&actor, "Laptops", "").await.unwrap().id;
        let new = NewEnrollmentToken { name: "t".into(), team_id: Some(team), ..NewEnrollmentToken::default() };
        let (_, secret) = identity.enrollment_tokens.create(&actor, new).await.unwrap();
        things.breaks.store(true, Ordering::Relaxed);
        identity.teams.delete(&actor, team).await.unwrap_err();
        assert_eq!(identity.teams.find(team).await.unwrap().name, "Laptops");
        assert!(identity.enrollment_tokens.admit(&secret, Family::Osquery, HERE, START).await.is_ok());
        assert_eq!(last_change(identity).await.action, "created_enrollment_token");
        assert_eq!(things.told(), 0);
        things.breaks.store(false, Ordering::Relaxed);
        identity.teams.delete(&actor, team).await.unwrap();
    }

    async fn what_came_to_a_team_while_it_was_deleted_is_let_go_later(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (identity, actor) = (&fixture.identity, Actor::system());
        let things = Arc::new(Things::default());
        identity.teams.attach(Arc::<Things>::clone(&things));
        let gone = identity.teams.create(&actor, "Gone", "").await.unwrap().id;
        identity.teams.delete(&actor, gone).await.unwrap();
        let stays = identity.teams.create(&actor, "Stays", "").await.unwrap().id;
        assert_ne!(gone, stays, "an id is never given twice");
        things.give(gone, 2);
        things.give(stays, 5);
        identity.teams.reconcile().await.unwrap();
        let entry = last_change(identity).await;
        assert_eq!((entry.action.as_str(), entry.subject_id), ("released_leftovers", gone.to_string()));
        assert_eq!(entry.after.unwrap()["released"]["things"], 2);
        assert_eq!(things.owned.lock().unwrap().get(&stays), Some(&5));
        assert_eq!(things.told(), 1);
        let before = last_change(identity).await.id;
        identity.teams.reconcile().await.unwrap();
        assert_eq!(last_change(identity).await.id, before, "nothing to do is nothing to tell");
    }
}
