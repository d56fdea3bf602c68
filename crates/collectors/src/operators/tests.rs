//! What no caller can bring about on purpose.

use std::sync::Arc;

use muster_bus::LocalBus;
use muster_clock::{ManualClock, SeededRandomness};
use muster_identity::{Identity, MasterKey};
use muster_store::Schema;
use muster_store::testing::on_both_databases;

use super::*;
use crate::record::Durable;
use crate::service::Settings;
use crate::{CollectorParts, Masking};

on_both_databases! {
    async fn what_was_permitted_in_one_team_is_not_done_in_another(db: TestDatabase) {
        let schema = Schema::default()
            .with("identity", muster_identity::MIGRATIONS)
            .with("collectors", crate::MIGRATIONS);
        db.migrate(&schema).await;
        let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(1_795_392_000)));
        let (bus, randomness) = (Arc::new(LocalBus::new()), Arc::new(SeededRandomness::new(1)));
        let key = Arc::new(MasterKey::from_bytes(&[7; 32]));
        let identity = Identity::new(db.database(), bus.clone(), clock.clone(), randomness.clone(), key);
        let settings = Settings {
            offers: None,
            masking: Masking::default(),
            new_per_day: crate::DEFAULT_NEW_PER_DAY,
        };
        let collectors =
            Collectors::new(CollectorParts { database: db.database(), bus, clock, randomness, identity, settings });
        let durable = json!({ "uid": "07070707-0707-0707-0707-070707070707", "team_id": 2, "standing": "enrolled",
            "created_at": collectors.now(), "capabilities": 0x401 });
        let record = Record {
            id: CollectorId(0),
            revision: 0,
            durable: serde_json::from_value::<Durable>(durable).unwrap().into(),
            lines: Vec::new(),
            said_config: None,
        };
        let id = store::record::insert(&mut &db.database(), &record, &ListedParts::default(), collectors.now()).await.unwrap();
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
