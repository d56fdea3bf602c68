//! What no caller can bring about on purpose.

use muster_store::testing::on_both_databases;

use super::*;
use crate::testing::{kept, service};

on_both_databases! {
    async fn what_was_permitted_in_one_team_is_not_done_in_another(db: TestDatabase) {
        let (collectors, clock) = service(&db).await;
        let record = kept(&db, &clock, 2).await;
        let id = record.id;
        let actor = Actor::system();
        for team in [None, Some(TeamId(1))] {
            for wish in [Wish::Restart, Wish::Revoke { reason: "" }, Wish::Transfer(None), Wish::Delete] {
                assert!(!collectors.try_change(&actor, id, team, wish).await.unwrap(), "{wish:?}");
            }
        }
        let kept = store::record::find(&mut &db.database(), id).await.unwrap().unwrap();
        assert_eq!((kept.revision, &kept.durable), (1, &record.durable));
        assert!(collectors.try_change(&actor, id, Some(TeamId(2)), Wish::Restart).await.unwrap());
    }
}
