//! Two servers on one database.

use muster_identity::KnownAgents;
use muster_store::testing::on_both_databases;
use serde_json::json;

use crate::{Fixture, SETTINGS, admin, described, key_of, message};

on_both_databases! {
    async fn an_agent_that_polls_now_here_and_now_there_is_asked_nothing(db: TestDatabase) {
        let one = Fixture::new(&db).await;
        let two = one.another(&db, 2).await;
        let token = one.token(KnownAgents::Adopt).await;
        one.send(&token, &described(7, 0, 0)).await;
        for number in 1..9 {
            one.collectors.flush().await.unwrap();
            two.collectors.flush().await.unwrap();
            one.wait(30);
            let server = if number % 2 == 0 { &one } else { &two };
            // Each reads anew, as after a restart: in one process there is but one bus that knows of one replica.
            let server = server.another(&db, 100 + number).await;
            let answer = server.send(&token, &message(7, number, 0)).await;
            assert_eq!(answer.flags, 0, "{number}");
            server.collectors.flush().await.unwrap();
        }
    }

    async fn a_revocation_on_one_server_is_in_force_on_the_other(db: TestDatabase) {
        let one = Fixture::new(&db).await;
        let two = one.another(&db, 2).await;
        let token = one.token(KnownAgents::Adopt).await;
        let key = key_of(&one.send(&token, &described(7, 0, SETTINGS)).await).unwrap();
        two.send(&key, &described(7, 0, SETTINGS)).await;
        let (status, _) = one.call(&admin(), "POST", "/collectors/1/revoke", json!({})).await;
        assert_eq!(status, 204);
        let refused = || async { two.post(&key, &message(7, 1, SETTINGS)).await.0 == 401 };
        crate::until("the other server refuses it", refused).await;
        let refused = || async { two.post(&token, &described(7, 0, SETTINGS)).await.0 == 401 };
        crate::until("and does not take it back", refused).await;
    }

    async fn one_uid_that_enrolls_on_two_servers_at_once_is_one_agent(db: TestDatabase) {
        let one = Fixture::new(&db).await;
        let two = one.another(&db, 2).await;
        let token = one.token(KnownAgents::Adopt).await;
        for uid in 1..6 {
            let said = described(uid, 0, SETTINGS);
            let (first, second) = tokio::join!(one.send(&token, &said), two.send(&token, &said));
            assert_eq!([first, second].iter().filter_map(key_of).count(), 1, "one offer");
        }
        assert_eq!(one.list("").await.len(), 5);
    }
}
