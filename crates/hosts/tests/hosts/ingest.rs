//! Details and software, from what agents really send.

use std::time::Duration;

use muster_store::testing::on_both_databases;
use muster_store::{Executor, args};
use serde_json::{Value, json};

use crate::harness::{START, TestServer};

/// What a simulated Ubuntu host of 2025 answers.
fn simulated() -> Value {
    json!({
        "fleet_detail_query_network_interface_unix": [{"address": "fe80::8cb:112d:ff51:1e5d%en0", "mac": "f8:2d:88:93:56:5c"}],
        "fleet_detail_query_orbit_info": [{"desktop_channel": "stable", "desktop_version": "1.22.0",
            "enrolled": "true", "scripts_enabled": "1", "uptime": "10000", "version": "1.22.0"}],
        "fleet_detail_query_os_unix_like": [{"arch": "x86_64", "kernel_version": "5.10.76-linuxkit", "name": "Ubuntu"}],
        "fleet_detail_query_os_version": [{"arch": "x86_64", "build": "", "codename": "jammy", "major": "22", "minor": "4",
            "name": "Ubuntu", "patch": "0", "platform": "ubuntu", "platform_like": "debian",
            "version": "22.04.1 LTS (Jammy Jellyfish)"}],
        "fleet_detail_query_osquery_flags": [{"name": "config_refresh", "value": "60"},
            {"name": "distributed_interval", "value": "10"}, {"name": "logger_tls_period", "value": "99999"}],
        "fleet_detail_query_osquery_info": [{"version": "5.5.1"}],
        "fleet_detail_query_system_info": [{"hostname": "5JvjV7v86cl9", "computer_name": "5JvjV7v86cl9",
            "cpu_brand": "Intel(R) Core(TM) i7", "cpu_logical_cores": "8", "cpu_physical_cores": "4",
            "cpu_subtype": "Haswell", "cpu_type": "x86_64h", "hardware_serial": "9U63QS0D3FXW",
            "physical_memory": "17179869184", "uuid": "36F76FB3-4E7B-4429-AB1D-D6E966C0F71A"}],
        "fleet_detail_query_uptime": [{"days": "0", "total_seconds": "16691"}],
        "fleet_detail_query_disk_space_unix": [{"gigs_disk_space_available": "20.5",
            "percent_disk_space_available": "40", "gigs_total_disk_space": "51.2"}],
        "fleet_detail_query_users": [
            {"groupname": "staff", "shell": "/bin/zsh", "type": "", "uid": "0", "username": "Common_0"},
            {"groupname": "ann", "shell": "/bin/bash", "type": "", "uid": "1000", "username": "ann"}],
        "fleet_detail_query_software_linux": [
            {"name": "bash", "version": "5.1", "source": "deb_packages", "arch": "amd64"},
            {"name": "kernel", "version": "6.1", "release": "2.fc39", "vendor": "Fedora", "source": "rpm_packages"}],
        "fleet_detail_query_software_python_packages": [{"name": "pip", "version": "23.0", "source": "python_packages"}]
    })
}

async fn software(server: &TestServer, key: &str) -> Vec<String> {
    let host = server.host_of(key).await;
    let found = server.software.of_host(host).await.unwrap();
    found
        .iter()
        .map(|version| format!("{} {}", version.name, version.version))
        .collect()
}

on_both_databases! {
    async fn what_a_host_answers_is_what_is_known_of_it(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("36F76FB3-4E7B-4429-AB1D-D6E966C0F71A").await;
        server.report(&key, simulated()).await;
        let record = server.record(&key).await;
        let facts = &record.facts;
        assert_eq!(facts.hostname, "5JvjV7v86cl9");
        assert_eq!(facts.os_version, "Ubuntu 22.04.1 LTS");
        assert_eq!((facts.platform.as_str(), facts.code_name.as_str()), ("ubuntu", "jammy"));
        assert_eq!(facts.kernel_version, "5.10.76-linuxkit");
        assert_eq!((facts.orbit_version.as_str(), facts.scripts_enabled), ("1.22.0", Some(true)));
        assert_eq!((facts.cpu_physical_cores, facts.cpu_logical_cores), (Some(4), Some(8)));
        assert_eq!(facts.memory_bytes, Some(17_179_869_184));
        assert_eq!(facts.primary_mac, "f8:2d:88:93:56:5c");
        assert_eq!(facts.disk_total_gb, Some(51.2));
        assert_eq!(facts.distributed_interval_seconds, Some(10));
        assert_eq!(facts.last_restarted_at.unwrap().as_seconds(), crate::harness::START.as_seconds() - 16_691);
        assert_eq!(record.detail_updated_at, Some(crate::harness::START));
        assert_eq!(record.software_updated_at, Some(crate::harness::START));
        assert_eq!(record.display_name(), "5JvjV7v86cl9");
        let users = server.agents.users_of(record.id).await.unwrap();
        assert_eq!(users.len(), 2);
        assert_eq!((users[1].username.as_str(), users[1].shell.as_str()), ("ann", "/bin/bash"));
        assert_eq!(software(&server, &key).await, ["bash 5.1", "kernel 6.1", "pip 23.0"]);
    }

    async fn nothing_is_erased_because_it_is_missing(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("36F76FB3-4E7B-4429-AB1D-D6E966C0F71A").await;
        server.report(&key, simulated()).await;
        let facts = server.record(&key).await.facts;
        let names: Vec<String> = simulated().as_object().unwrap().keys().cloned().collect();
        let each = |rows: &Value| -> Value { names.iter().map(|name| (name.clone(), rows.clone())).collect() };
        for rows in [json!([]), json!(""), json!(null), json!([{}]), json!([{"foo": "bar"}]), json!([5, "x", null])] {
            // Software that is reported as none is none; that is another test.
            let mut queries = each(&rows);
            let queries = queries.as_object_mut().unwrap();
            queries.retain(|name, _| !name.contains("software"));
            assert_eq!(server.report(&key, json!(queries)).await.status, 200);
            assert_eq!(server.record(&key).await.facts, facts, "{rows}");
        }
        // A half-filled row does not blank either, and the host is not taken for a new one.
        let half = json!({"fleet_detail_query_os_version": [{"name": "Ubuntu", "version": null, "platform": ""}]});
        server.report(&key, half).await;
        assert_eq!(server.record(&key).await.facts.platform, "ubuntu");
        assert!(server.read(&key).await.json().get("accelerate").is_none());
        let users = server.agents.users_of(server.host_of(&key).await).await.unwrap();
        assert_eq!(users.len(), 2);
    }

    async fn failed_queries_count_for_nothing_but_are_not_asked_for_ever(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let asked = server.read(&key).await.asked();
        let statuses: Value = asked.iter().map(|name| (name.clone(), json!(1))).collect();
        let queries: Value = asked.iter().map(|name| (name.clone(), json!([]))).collect();
        let body = json!({"node_key": key, "queries": queries, "statuses": statuses,
            "messages": {"fleet_detail_query_users": "no such table: users"}});
        let answer = server.post("/api/osquery/distributed/write", body).await;
        assert_eq!(answer.status, 200);
        assert_eq!(server.record(&key).await.facts.hostname, "h-a");
        assert!(server.read(&key).await.asked().is_empty());
    }

    async fn software_is_merged_and_stays_when_its_query_failed(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        server.report(&key, simulated()).await;
        // Without the main query nothing changes.
        server.report(&key, json!({"fleet_detail_query_software_python_packages": []})).await;
        let body = json!({"node_key": key, "queries": {"fleet_detail_query_software_linux": []},
            "statuses": {"fleet_detail_query_software_linux": 1}});
        server.ask_details(&key).await;
        server.post("/api/osquery/distributed/write", body).await;
        assert_eq!(software(&server, &key).await, ["bash 5.1", "kernel 6.1", "pip 23.0"]);
        // Without a further one its part stays.
        let newer = json!([{"name": "bash", "version": "5.2", "source": "deb_packages", "arch": "amd64"}]);
        server.report(&key, json!({"fleet_detail_query_software_linux": newer})).await;
        assert_eq!(software(&server, &key).await, ["bash 5.2", "pip 23.0"]);
        let both = json!({"fleet_detail_query_software_linux": newer, "fleet_detail_query_software_python_packages": []});
        server.report(&key, both).await;
        assert_eq!(software(&server, &key).await, ["bash 5.2"]);
    }

    async fn the_same_answers_again_write_only_their_time(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        server.report(&key, simulated()).await;
        server.report(&key, simulated()).await;
        server.ask_details(&key).await;
        server.read(&key).await;
        let before = server.database.statements();
        server.write(&key, simulated()).await;
        // The host, its accounts, its inventory; then three times when.
        let statements = server.database.statements() - before;
        assert!(statements <= 8, "{statements} statements");
    }

    async fn accounts_follow_the_host(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let report = async |users: Value| {
            server.report(&key, json!({ "fleet_detail_query_users": users })).await;
            let users = server.agents.users_of(server.host_of(&key).await).await.unwrap();
            users.iter().map(|user| format!("{} {}", user.username, user.shell)).collect::<Vec<_>>()
        };
        let ann = json!({"uid": "1000", "username": "ann", "shell": "/bin/bash"});
        let bob = json!({"uid": "1001", "username": "bob", "shell": "/bin/sh"});
        let other_shell = json!({"uid": "1000", "username": "ann", "shell": "/bin/csh"});
        assert_eq!(report(json!([other_shell, bob, ann])).await, ["ann /bin/bash", "bob /bin/sh"]);
        let ann = json!({"uid": "1000", "username": "ann", "shell": "/bin/zsh"});
        assert_eq!(report(json!([ann])).await, ["ann /bin/zsh"]);
    }

    async fn details_that_nobody_asked_for_are_left_out(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        server.read(&key).await;
        assert_eq!(server.write(&key, simulated()).await.status, 200);
        let before = software(&server, &key).await;
        let flood = json!({"fleet_detail_query_software_linux": [{"name": "flood", "version": "1", "source": "deb_packages"}],
            "fleet_detail_query_system_info": [{"hostname": "flood"}]});
        assert_eq!(server.write(&key, flood.clone()).await.status, 200);
        assert_eq!(software(&server, &key).await, before);
        assert_ne!(server.record(&key).await.facts.hostname, "flood");
        let rows = (&server.database).fetch_all("SELECT id FROM software_titles WHERE name = 'flood'", args![]).await;
        assert!(rows.unwrap().is_empty());
        // Another server, which was not asked, takes what is due.
        server.clock.advance(Duration::from_secs(2 * 3_600));
        let other = server.another(server.database.clone()).await;
        other.clock.advance(Duration::from_secs(601));
        other.write(&key, flood).await;
        assert_eq!(server.record(&key).await.facts.hostname, "flood");
    }

    async fn software_that_was_swept_away_on_another_server_is_made_anew(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        server.report(&key, simulated()).await;
        server.report(&key, json!({"fleet_detail_query_software_linux": [],
            "fleet_detail_query_software_python_packages": []})).await;
        let elsewhere = muster_software::Software::new(server.database.clone());
        assert_eq!(elsewhere.sweep(START).await.unwrap(), 0);
        assert_eq!(elsewhere.sweep(START.plus(Duration::from_secs(7 * 3_600))).await.unwrap(), 3);
        // The first server remembers versions that are gone.
        assert_eq!(server.report(&key, simulated()).await.status, 200);
        assert_eq!(software(&server, &key).await, ["bash 5.1", "kernel 6.1", "pip 23.0"]);
    }
}
