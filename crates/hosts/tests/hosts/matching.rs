//! Which row an enrollment lands on, and into which team.

use muster_store::testing::on_both_databases;
use muster_store::{Executor, args};
use serde_json::{Value, json};

use crate::harness::{TestServer, ubuntu};

fn orbit(secret: &str, uuid: &str) -> Value {
    json!({"enroll_secret": secret, "hardware_uuid": uuid, "hardware_serial": format!("SER-{uuid}"),
        "hostname": "x", "platform": "ubuntu"})
}

async fn count(server: &TestServer) -> i64 {
    let row = (&server.database)
        .fetch_one("SELECT COUNT(*) AS n FROM hosts_hosts", args![])
        .await;
    row.unwrap().get("n").unwrap()
}

on_both_databases! {
    async fn orbit_and_osquery_in_either_order_are_one_host(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let osquery = server.enroll("00000001-0000-4000-8000-0000000000AA").await;
        let uuid = "00000001-0000-4000-8000-0000000000aa";
        let orbit_key = server.enroll_orbit_with(orbit(&server.secret, uuid)).await;
        assert_eq!(server.host_of(&osquery).await, server.host_of(&orbit_key).await);

        let orbit_key = server.enroll_orbit("00000002-0000-4000-8000-0000000000aa").await;
        let osquery = server.enroll("00000002-0000-4000-8000-0000000000AA").await;
        assert_eq!(server.host_of(&osquery).await, server.host_of(&orbit_key).await);
        assert_eq!(count(&server).await, 2);
        let record = server.record(&osquery).await;
        assert!(record.orbit_enrolled_at.is_some() && record.osquery_enrolled_at.is_some());
    }

    async fn osquery_without_details_finds_the_host_of_its_orbit(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let orbit_key = server.enroll_orbit("abc").await;
        let body = json!({"enroll_secret": server.secret, "host_identifier": "ABC"});
        let osquery = server.enroll_with(&body).await;
        assert_eq!(server.host_of(&osquery).await, server.host_of(&orbit_key).await);
    }

    async fn an_instance_identifier_and_the_bare_uuid_are_one_host_in_either_order(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let mut body = ubuntu(&server.secret, "inst-13");
        body["host_details"]["system_info"]["uuid"] = json!("uuid-13");
        let osquery = server.enroll_with(&body).await;
        let mut announced = orbit(&server.secret, "uuid-13");
        announced["osquery_identifier"] = json!("inst-13");
        let first = server.enroll_orbit_with(announced).await;
        let second = server.enroll_orbit_with(orbit(&server.secret, "uuid-13")).await;
        let host = server.host_of(&osquery).await;
        assert_eq!((server.host_of(&first).await, server.host_of(&second).await), (host, host));

        let orbit_key = server.enroll_orbit_with(orbit(&server.secret, "uuid-14")).await;
        let mut body = ubuntu(&server.secret, "inst-14");
        body["host_details"]["system_info"]["uuid"] = json!("uuid-14");
        let osquery = server.enroll_with(&body).await;
        assert_eq!(server.host_of(&osquery).await, server.host_of(&orbit_key).await);
        // And both find it again.
        let again = server.enroll_orbit_with(orbit(&server.secret, "uuid-14")).await;
        assert_eq!(server.host_of(&again).await, server.host_of(&osquery).await);
        assert_eq!(server.enroll_with(&body).await.len(), 32);
        assert_eq!(count(&server).await, 2);
    }

    async fn machines_that_share_a_uuid_but_not_the_identifier_stay_apart(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        // The simulator of 2022 gives every simulated Mac this one.
        let uuid = "4740D59F-699E-5B29-960B-979AAF9BBEEB";
        let mut keys = Vec::new();
        for number in 0..4 {
            let mut body = ubuntu(&server.secret, &format!("mac-{number}"));
            body["host_details"]["system_info"]["uuid"] = json!(uuid);
            keys.push(server.enroll_with(&body).await);
        }
        assert_eq!(count(&server).await, 4);
        for key in &keys {
            assert_eq!(server.read(key).await.status, 200);
        }
    }

    async fn a_serial_number_joins_what_has_no_uuid_in_common_unless_makers_share_it(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let mut with_serial = orbit(&server.secret, "board-1");
        with_serial["hardware_serial"] = json!("C02R262BM8LN");
        let orbit_key = server.enroll_orbit_with(with_serial).await;
        let mut body = ubuntu(&server.secret, "laptop.example.com");
        body["host_details"]["system_info"] = json!({"hostname": "laptop", "hardware_serial": "C02R262BM8LN"});
        let osquery = server.enroll_with(&body).await;
        assert_eq!(server.host_of(&osquery).await, server.host_of(&orbit_key).await);

        for (number, serial) in ["To Be Filled By O.E.M.", "0", "Default string"].iter().enumerate() {
            let mut shared = orbit(&server.secret, &format!("shared-{number}"));
            shared["hardware_serial"] = json!(serial);
            let orbit_key = server.enroll_orbit_with(shared).await;
            let mut body = ubuntu(&server.secret, &format!("other-{number}"));
            body["host_details"]["system_info"] = json!({"hostname": "x", "hardware_serial": serial});
            let osquery = server.enroll_with(&body).await;
            assert_ne!(server.host_of(&osquery).await, server.host_of(&orbit_key).await, "{serial}");
        }
    }

    async fn a_uuid_that_firmware_shares_joins_nobody(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let shared = "03000200-0400-0500-0006-000700080009";
        for identifier in ["first", "second"] {
            let mut body = ubuntu(&server.secret, identifier);
            body["host_details"]["system_info"]["uuid"] = json!(shared);
            server.enroll_with(&body).await;
        }
        let mut announced = orbit(&server.secret, shared);
        announced["osquery_identifier"] = json!("third");
        server.enroll_orbit_with(announced).await;
        assert_eq!(count(&server).await, 3);
    }

    async fn a_transfer_by_an_operator_sticks_until_another_token_is_used(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (red, blue) = (server.team("red").await, server.team("blue").await);
        let red_secret = server.token("red", Some(red)).await;
        let key = server.enroll_with(&ubuntu(&red_secret, "moves")).await;
        assert_eq!(server.record(&key).await.team_id, Some(red));
        // What the operators' side does.
        let host = server.host_of(&key).await;
        let sql = "UPDATE hosts_hosts SET team_id = $2 WHERE id = $1";
        (&server.database).execute(sql, args![host, blue.0]).await.unwrap();
        let key = server.enroll_with(&ubuntu(&red_secret, "moves")).await;
        assert_eq!(server.record(&key).await.team_id, Some(blue));
        let orbit_key = server.enroll_orbit_with(orbit(&red_secret, "moves")).await;
        assert_eq!(server.record(&orbit_key).await.team_id, Some(blue));
        // The token of no team moves it out, and its own back.
        let key = server.enroll_with(&ubuntu(&server.secret, "moves")).await;
        assert_eq!(server.record(&key).await.team_id, None);
        let key = server.enroll_with(&ubuntu(&red_secret, "moves")).await;
        assert_eq!(server.record(&key).await.team_id, Some(red));
    }
}
