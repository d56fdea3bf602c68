//! Operators' lists, compared with a naive model, and who sees what.

use std::time::Duration;

use muster_clock::{Randomness as _, SeededRandomness, Timestamp};
use muster_hosts::{
    HOST_SORTS, HostPresence, HostQuery, LabelChange, NewLabel, Selection, presence_of,
};
use muster_http::{Listing, OrderDirection};
use muster_identity::{HostId, Role, TeamFilter, TeamId};
use muster_store::testing::on_both_databases;
use muster_store::{Executor, args};
use serde_json::{Value, json};

use crate::fleet::{Operators, admin, member};
use crate::harness::{START, TestServer};

/// A host of the model.
#[derive(Debug, Clone)]
struct Made {
    id: i64,
    hostname: String,
    computer_name: String,
    serial: String,
    ip: String,
    platform: &'static str,
    team: Option<TeamId>,
    seen: Option<Timestamp>,
    created: Timestamp,
    distributed: Option<i64>,
    config: Option<i64>,
}

impl Made {
    fn contains(&self, text: &str) -> bool {
        let texts = [&self.hostname, &self.computer_name, &self.serial, &self.ip];
        let identifier = format!("id{}", self.hostname);
        texts
            .into_iter()
            .chain([&identifier])
            .any(|own| own.to_lowercase().contains(text))
    }

    fn is(&self, status: &str) -> bool {
        let shortest = [self.distributed, self.config]
            .into_iter()
            .flatten()
            .filter(|seconds| *seconds > 0)
            .min()
            .unwrap_or(10);
        let allowed = Duration::from_secs(shortest as u64 + 60);
        let online = self.seen.is_some_and(|seen| seen.plus(allowed) >= START);
        let month = Duration::from_secs(30 * 24 * 3_600);
        match status {
            "online" => online,
            "offline" => !online,
            "missing" => self.seen.is_some_and(|seen| seen.plus(month) < START),
            _ => self.created >= START.minus(Duration::from_secs(24 * 3_600)),
        }
    }

    fn display_name(&self) -> String {
        let own = [&self.computer_name, &self.hostname];
        let first = own.into_iter().find(|name| !name.is_empty());
        first
            .cloned()
            .unwrap_or_else(|| format!("id{}", self.hostname))
    }

    fn is_linux(&self) -> bool {
        ["ubuntu", "rhel"].contains(&self.platform)
    }
}

/// Hosts with random facts. Names have letters and digits only, which every collation sorts alike.
async fn make(server: &TestServer, count: i64, teams: &[TeamId], seed: u64) -> Vec<Made> {
    let random = SeededRandomness::new(seed);
    let mut made = Vec::new();
    let mut transaction = server.database.begin().await.unwrap();
    for number in 0..count {
        let ago = [5, 65, 75, 3_600, 29 * 86_400, 31 * 86_400][random.below(6) as usize];
        let interval = |random: &SeededRandomness| match random.below(4) {
            0 => None,
            1 => Some(0),
            2 => Some(10),
            _ => Some(60),
        };
        let name = format!("h{:03}x{number}", random.below(500));
        let host = Made {
            id: 0,
            computer_name: match random.below(3) {
                0 => String::new(),
                _ => format!("c{:03}", random.below(500)),
            },
            serial: format!("S{:04}", random.below(10_000)),
            ip: format!("10.0.{}.{}", random.below(9), random.below(200)),
            platform: ["ubuntu", "rhel", "darwin", "windows", ""][random.below(5) as usize],
            team: teams
                .get(random.below(teams.len() as u64 + 1) as usize)
                .copied(),
            seen: (random.below(8) > 0).then(|| START.minus(Duration::from_secs(ago))),
            created: START.minus(Duration::from_secs(3_600 * (1 + random.below(60)))),
            distributed: interval(&random),
            config: interval(&random),
            hostname: name,
        };
        let sql = "INSERT INTO hosts_hosts (identifier, identifier_from, created_at, updated_at, enrolled_at, hostname,
            computer_name, hardware_serial, primary_ip, platform, team_id, distributed_interval_seconds,
            config_interval_seconds) VALUES ($1, 'osquery', $2, $2, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id";
        let values = args![
            format!("id{}", host.hostname),
            host.created,
            &host.hostname,
            &host.computer_name,
            &host.serial,
            &host.ip,
            host.platform,
            host.team.map(|team| team.0),
            host.distributed,
            host.config
        ];
        let rows = transaction.execute_returning(sql, values).await.unwrap();
        let id: i64 = rows[0].get("id").unwrap();
        if let Some(seen) = host.seen {
            let sql = "INSERT INTO hosts_presence (host_id, seen_at) VALUES ($1, $2)";
            transaction.execute(sql, args![id, seen]).await.unwrap();
        }
        made.push(Made { id, ..host });
    }
    transaction.commit().await.unwrap();
    made
}

fn listing(limit: u32, offset: u64, sort: &'static str, direction: OrderDirection) -> Listing {
    Listing {
        limit,
        offset,
        sort,
        direction,
        search: None,
    }
}

on_both_databases! {
    async fn lists_agree_with_a_naive_model_in_filters_search_order_and_pages(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let teams = [server.team("a").await, server.team("b").await];
        let made = make(&server, 120, &teams, 11).await;
        let operators = Operators::new(&server);
        let random = SeededRandomness::new(12);
        let who = [admin(), member(teams[0], Role::Observer)];
        for round in 0..150 {
            let person = &who[random.below(2) as usize];
            let sees = person.visible_teams();
            let statuses = [None, Some("online"), Some("offline"), Some("missing"), Some("new")];
            let status = statuses[random.below(5) as usize];
            let team = [None, Some(0), Some(teams[0].0), Some(teams[1].0)][random.below(4) as usize];
            let platform = [None, Some("linux"), Some("darwin"), Some("ubuntu")][random.below(4) as usize];
            let search = [None, Some("h1"), Some("C2"), Some("s00"), Some("10.0.3."), Some("100%"), Some("_")]
                [random.below(7) as usize];
            let sort = ["display_name", "hostname", "id", "seen_at", "created_at", "team_id"][random.below(6) as usize];
            let descends = random.below(2) == 1;
            let mut expected: Vec<&Made> = made
                .iter()
                .filter(|host| sees.admits(host.team))
                .filter(|host| status.is_none_or(|status| host.is(status)))
                .filter(|host| team.is_none_or(|team| host.team.map_or(0, |own| own.0) == team))
                .filter(|host| platform.is_none_or(|platform| {
                    host.platform == platform || (platform == "linux" && host.is_linux())
                }))
                .filter(|host| search.is_none_or(|text| host.contains(&text.to_lowercase())))
                .collect();
            expected.sort_by(|a, b| {
                let order = match sort {
                    "display_name" => a.display_name().cmp(&b.display_name()),
                    "hostname" => a.hostname.cmp(&b.hostname),
                    "seen_at" => a.seen.cmp(&b.seen),
                    "created_at" => a.created.cmp(&b.created),
                    "team_id" => a.team.cmp(&b.team),
                    _ => std::cmp::Ordering::Equal,
                };
                let order = order.then(a.id.cmp(&b.id));
                if descends { order.reverse() } else { order }
            });
            let direction = if descends { OrderDirection::Descending } else { OrderDirection::Ascending };
            let query = HostQuery {
                status: status.map(str::to_owned),
                team_id: team,
                platform: platform.map(str::to_owned),
                ..HostQuery::default()
            };
            let mut found = Vec::new();
            loop {
                let wish = Listing {
                    search: search.map(str::to_owned),
                    ..listing(17, found.len() as u64, sort, direction)
                };
                let page = operators.hosts.list(person, &wish, &query).await.unwrap();
                assert_eq!(page.total, expected.len() as u64, "round {round}: {query:?} {search:?}");
                found.extend(page.items.iter().map(|host| host.id.0));
                if page.next_cursor.is_none() {
                    break;
                }
            }
            let expected: Vec<i64> = expected.iter().map(|host| host.id).collect();
            assert_eq!(found, expected, "round {round}: {query:?} {search:?} by {sort} {direction:?}");
            let count = operators.hosts.count(person, search, &query).await.unwrap();
            assert_eq!(count, expected.len() as u64, "round {round}");
        }
    }

    async fn the_status_that_is_shown_is_the_one_that_is_filtered_by(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let made = make(&server, 80, &[], 13).await;
        let operators = Operators::new(&server);
        let wish = listing(1_000, 0, "id", OrderDirection::Ascending);
        let page = operators.hosts.list(&admin(), &wish, &HostQuery::default()).await.unwrap();
        for (host, made) in page.items.iter().zip(&made) {
            let shown = presence_of(host, START);
            assert_eq!(shown == HostPresence::Online, made.is("online"), "{made:?}");
            assert_eq!(shown == HostPresence::Missing, made.is("missing"), "{made:?}");
        }
    }

    async fn every_sort_key_is_understood(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        make(&server, 5, &[], 14).await;
        let operators = Operators::new(&server);
        for sort in HOST_SORTS {
            let wish = listing(10, 0, sort, OrderDirection::Descending);
            let page = operators.hosts.list(&admin(), &wish, &HostQuery::default()).await;
            assert_eq!(page.unwrap().items.len(), 5, "{sort}");
        }
    }

    async fn a_list_takes_as_many_statements_for_ten_thousand_hosts_as_for_ten(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let operators = Operators::new(&server);
        let mut counts = Vec::new();
        for number in [10, 9_990] {
            make(&server, number, &[], 15 + number as u64).await;
            let before = server.database.statements();
            let (status, answer) = operators.as_admin("GET", "/hosts", Value::Null).await;
            counts.push((status, answer["hosts"].as_array().unwrap().len(), server.database.statements() - before));
        }
        assert_eq!((counts[0].1, counts[1].1), (10, 10_000));
        assert_eq!(counts[0].2, counts[1].2, "{counts:?}");
        assert!(counts[0].2 <= 3, "rows, count and teams: {counts:?}");
    }

    async fn a_member_of_one_team_sees_nothing_of_another(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let (mine, theirs) = (server.team("mine").await, server.team("theirs").await);
        let made = make(&server, 30, &[mine, theirs], 16).await;
        let operators = Operators::new(&server);
        let person = member(mine, Role::Observer);
        let foreign: Vec<&Made> = made.iter().filter(|host| host.team != Some(mine)).collect();
        assert!(foreign.iter().any(|host| host.team.is_none()));
        for host in foreign {
            for path in [format!("/hosts/{}", host.id), format!("/hosts/identifier/{}", host.hostname)] {
                let (status, _) = operators.call(&person, "GET", &path, Value::Null).await;
                assert_eq!(status, 404, "{path}");
            }
            let (status, _) = operators.call(&person, "DELETE", &format!("/hosts/{}", host.id), Value::Null).await;
            assert_eq!(status, 404);
        }
        let all = Selection { all: true, ..Selection::default() };
        let everybody = Selection { labels: vec!["All Hosts".to_owned()], ..Selection::default() };
        let by_id = Selection { host_ids: made.iter().map(|host| host.id).collect(), ..Selection::default() };
        let by_team = Selection { team_ids: vec![mine.0, theirs.0, 0], ..Selection::default() };
        for selection in [all, everybody, by_id, by_team] {
            let found = operators.hosts.select(&selection, &person.visible_teams()).await.unwrap();
            assert!(found.iter().all(|host| host.team_id == Some(mine)), "{selection:?}");
        }
        let by_name = Selection {
            hosts: made.iter().map(|host| host.hostname.clone()).collect(),
            ..Selection::default()
        };
        assert!(operators.hosts.select(&by_name, &person.visible_teams()).await.is_err());
        let (status, _) = operators.call(&person, "GET", &format!("/hosts?team_id={theirs}"), Value::Null).await;
        assert_eq!(status, 400);
        let (_, summary) = operators.call(&person, "GET", "/host_summary", Value::Null).await;
        let own = made.iter().filter(|host| host.team == Some(mine)).count();
        assert_eq!(summary["totals_hosts_count"], own);
        let (_, labels) = operators.call(&person, "GET", "/labels", Value::Null).await;
        for label in labels["labels"].as_array().unwrap() {
            assert!(label["count"].as_u64().unwrap() <= own as u64, "{label}");
        }
        // An observer changes nothing, a maintainer nothing outside of the team.
        let mine_id = made.iter().find(|host| host.team == Some(mine)).unwrap().id;
        let body = json!({"team_id": null, "hosts": [mine_id]});
        for role in [Role::Observer, Role::Maintainer] {
            let (status, _) = operators.call(&member(mine, role), "POST", "/hosts/transfer", body.clone()).await;
            assert_eq!(status, 403, "{role:?}: no team is a matter of global roles");
        }
        let path = format!("/hosts/{mine_id}");
        let (status, _) = operators.call(&person, "DELETE", &path, Value::Null).await;
        assert_eq!(status, 403);
        let (status, _) = operators.call(&member(mine, Role::Maintainer), "DELETE", &path, Value::Null).await;
        assert_eq!(status, 200);
    }

    async fn targets_follow_the_rules_that_existing_clients_know(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let team = server.team("a").await;
        let made = make(&server, 20, &[team], 17).await;
        let operators = Operators::new(&server);
        let label = async |name: &str, members: Vec<i64>| {
            let body = json!({"name": name, "host_ids": members});
            let (status, answer) = operators.as_admin("POST", "/labels", body).await;
            assert_eq!(status, 200, "{answer}");
            answer["label"]["id"].as_i64().unwrap()
        };
        let ids: Vec<i64> = made.iter().map(|host| host.id).collect();
        let red = label("red", ids[0..6].to_vec()).await;
        let blue = label("blue", ids[4..9].to_vec()).await;
        let builtin = operators.hosts.find_label_by_name("Ubuntu Linux").await.unwrap().unwrap().id.0;
        for id in &ids[2..8] {
            let sql = "INSERT INTO hosts_label_members (label_id, host_id) VALUES ($1, $2)";
            (&server.database).execute(sql, args![builtin, *id]).await.unwrap();
        }
        let all_hosts = operators.hosts.find_label_by_name("All Hosts").await.unwrap().unwrap().id.0;
        let in_team: Vec<i64> = made.iter().filter(|host| host.team.is_some()).map(|host| host.id).collect();
        let cases = [
            (Selection { label_ids: vec![red], ..Selection::default() }, ids[0..6].to_vec()),
            (Selection { label_ids: vec![red, blue], ..Selection::default() }, ids[0..9].to_vec()),
            (Selection { label_ids: vec![builtin, red], ..Selection::default() }, ids[2..6].to_vec()),
            (Selection { label_ids: vec![all_hosts, red], ..Selection::default() }, ids.clone()),
            (Selection { host_ids: vec![ids[19]], label_ids: vec![builtin, red], ..Selection::default() },
                [&ids[2..6], &ids[19..]].concat()),
            (Selection { team_ids: vec![team.0], ..Selection::default() }, in_team.clone()),
            (Selection { team_ids: vec![team.0], label_ids: vec![red], ..Selection::default() },
                ids[0..6].iter().copied().filter(|id| in_team.contains(id)).collect()),
            (Selection { platforms: vec!["linux".into()], ..Selection::default() },
                made.iter().filter(|host| host.is_linux()).map(|host| host.id).collect()),
            (Selection { all: true, ..Selection::default() }, ids.clone()),
            (Selection::default(), Vec::new()),
        ];
        for (selection, expected) in cases {
            let found = operators.hosts.select(&selection, &TeamFilter::All).await.unwrap();
            let found: Vec<i64> = found.iter().map(|host| host.id.0).collect();
            assert_eq!(found, expected, "{selection:?}");
        }
        let unknown = Selection { labels: vec!["red".into(), "nope".into(), "nada".into()], ..Selection::default() };
        let error = operators.hosts.select(&unknown, &TeamFilter::All).await.unwrap_err();
        assert_eq!(error.to_string(), "Invalid label name(s): nope, nada");
        let unknown = Selection { hosts: vec![made[0].hostname.clone(), "nobody".into()], ..Selection::default() };
        let error = operators.hosts.select(&unknown, &TeamFilter::All).await.unwrap_err();
        assert_eq!(error.to_string(), "no such host: nobody");
    }

    async fn a_deleted_host_has_no_key_and_nothing_is_left_of_it(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        let host = server.host_of(&key).await;
        let operators = Operators::new(&server);
        let (status, _) = operators.as_admin("DELETE", &format!("/hosts/{host}"), Value::Null).await;
        assert_eq!(status, 200);
        let answer = server.read(&key).await;
        assert_eq!((answer.status, &answer.json()["node_invalid"]), (401, &json!(true)));
        let (status, _) = operators.as_admin("GET", &format!("/hosts/{host}"), Value::Null).await;
        assert_eq!(status, 404);
        let again = server.enroll("a").await;
        assert_ne!(server.host_of(&again).await, host, "an id is never used twice");
    }

    async fn a_transfer_sticks_when_the_host_enrolls_again_with_the_same_token(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let team = server.team("a").await;
        let key = server.enroll("a").await;
        let host = server.host_of(&key).await;
        let operators = Operators::new(&server);
        let body = json!({"team_id": team, "hosts": [host]});
        let (status, _) = operators.as_admin("POST", "/hosts/transfer", body).await;
        assert_eq!(status, 200);
        let again = server.enroll("a").await;
        assert_eq!(server.record(&again).await.team_id, Some(team));
        let body = json!({"team_id": null, "hosts": [host]});
        operators.as_admin("POST", "/hosts/transfer", body).await;
        assert_eq!(server.record(&again).await.team_id, None);
    }

    async fn hosts_are_moved_and_deleted_by_what_they_have_in_common(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let team = server.team("a").await;
        let made = make(&server, 40, &[], 18).await;
        let operators = Operators::new(&server);
        // Old clients always send an empty search text.
        let body = json!({"fleet_id": team, "filters": {"query": "", "status": "online"}});
        let (status, answer) = operators.as_admin("POST", "/hosts/transfer/filter", body).await;
        assert_eq!(status, 200, "{answer}");
        let mut moved = 0;
        for host in &made {
            let found = operators.hosts.find(&admin(), HostId(host.id)).await.unwrap();
            assert_eq!(found.team_id, host.is("online").then_some(team), "{host:?}");
            moved += usize::from(host.is("online"));
        }
        let (status, _) = operators.as_admin("POST", "/hosts/transfer/filter", json!({"team_id": null})).await;
        assert_eq!(status, 400, "no filters are not all hosts");
        let body = json!({"filters": {"team_id": team}});
        let (status, _) = operators.as_admin("POST", "/hosts/delete", body).await;
        assert_eq!(status, 200);
        let left = operators.hosts.count(&admin(), None, &HostQuery::default()).await.unwrap();
        assert_eq!(left as usize, made.len() - moved);
        let (status, _) = operators.as_admin("POST", "/hosts/delete", json!({})).await;
        assert_eq!(status, 400);
    }

    async fn a_host_that_is_wanted_anew_is_asked_its_details_at_the_next_check_in(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let key = server.enroll("a").await;
        server.settle(&key).await;
        assert!(server.read(&key).await.asked().is_empty());
        let host = server.host_of(&key).await;
        let operators = Operators::new(&server);
        let stop = tokio_util::sync::CancellationToken::new();
        let running = tokio::spawn({
            let (agents, stop) = (server.agents.clone(), stop.clone());
            async move { agents.run(&muster_replicas::Lease::always(), stop).await }
        });
        // The running server follows the hint; one that came before it listened is given again.
        let mut asked = Vec::new();
        while asked.is_empty() {
            let (status, _) = operators.as_admin("POST", &format!("/hosts/{host}/refetch"), Value::Null).await;
            assert_eq!(status, 200);
            tokio::task::yield_now().await;
            asked = server.read(&key).await.asked();
        }
        assert!(asked.iter().any(|name| name == "fleet_detail_query_os_version"), "{asked:?}");
        stop.cancel();
        running.await.unwrap();
    }

    async fn lists_of_a_large_fleet_are_narrowed_to_software_that_every_host_has(db: TestDatabase) {
        const HOSTS: i64 = 70_000;
        let server = TestServer::new(&db).await;
        let operators = Operators::new(&server);
        let numbers = format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {HOSTS})");
        let mut transaction = server.database.begin().await.unwrap();
        for sql in [
            format!("INSERT INTO hosts_hosts (identifier, identifier_from, created_at, updated_at, enrolled_at)
                {numbers} SELECT 'h' || i, 'osquery', 0, 0, 0 FROM n"),
            "INSERT INTO software_titles (name, source, browser) VALUES ('bash', 'deb_packages', '')".to_owned(),
            "INSERT INTO software_inventories (host_id, checksum, updated_at) SELECT h.id, $1, 0 FROM hosts_hosts h"
                .to_owned(),
            "INSERT INTO software_versions (checksum, title_id, name, version, source, browser, extension_id,
                bundle_identifier, release, vendor, arch)
                SELECT $1, t.id, 'bash', '5', '', '', '', '', '', '', '' FROM software_titles t".to_owned(),
            "INSERT INTO software_hosts (host_id, version_id) SELECT h.id, v.id FROM hosts_hosts h, software_versions v"
                .to_owned(),
        ] {
            let values = if sql.contains("$1") { args![[0_u8; 32]] } else { args![] };
            transaction.execute(&sql, values).await.unwrap();
        }
        transaction.commit().await.unwrap();
        let id = async |table: &str| -> i64 {
            let row = (&server.database).fetch_one(&format!("SELECT id FROM {table}"), args![]).await.unwrap();
            row.get("id").unwrap()
        };
        let (version, title) = (id("software_versions").await, id("software_titles").await);
        let wish = listing(5, 0, "id", OrderDirection::Ascending);
        for query in [
            HostQuery { software_version_id: Some(version), ..HostQuery::default() },
            HostQuery { software_title_id: Some(title), ..HostQuery::default() },
        ] {
            let page = operators.hosts.list(&admin(), &wish, &query).await.unwrap();
            assert_eq!((page.items.len(), page.total), (5, HOSTS as u64));
        }
        let none = HostQuery { software_version_id: Some(version + 1), ..HostQuery::default() };
        assert_eq!(operators.hosts.count(&admin(), None, &none).await.unwrap(), 0);
    }

    async fn a_request_names_a_bounded_number_of_hosts(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let operators = Operators::new(&server);
        let of = async |selection: Selection| operators.hosts.select(&selection, &TeamFilter::All).await;
        let ids: Vec<i64> = (1..=10_000).collect();
        assert!(of(Selection { host_ids: ids.clone(), ..Selection::default() }).await.unwrap().is_empty());
        let names: Vec<String> = (0..10_001).map(|number| number.to_string()).collect();
        for selection in [
            Selection { host_ids: (1..=10_001).collect(), ..Selection::default() },
            Selection { hosts: names.clone(), ..Selection::default() },
            Selection { platforms: names, ..Selection::default() },
        ] {
            let refused = of(selection).await.unwrap_err().to_string();
            assert!(refused.contains("at most 10000"), "{refused}");
        }
    }

    async fn names_beyond_ascii_are_found_in_any_case(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let operators = Operators::new(&server);
        for (identifier, name) in [("a", "MÜLLER-PC"), ("b", "müller-pc-2"), ("c", "ЖАННА"), ("d", "mueller")] {
            let mut body = crate::harness::ubuntu(&server.secret, identifier);
            body["host_details"]["system_info"]["hostname"] = json!(name);
            body["host_details"]["system_info"]["computer_name"] = json!(name);
            server.enroll_with(&body).await;
        }
        let query = HostQuery::default();
        for (search, found) in [
            ("MÜLLER-PC", 2), ("müller-pc", 2), ("Müller", 2), ("ü", 2), ("Ü", 2), ("жанна", 1), ("Жан", 1), ("é", 0),
        ] {
            assert_eq!(operators.hosts.count(&admin(), Some(search), &query).await.unwrap(), found, "{search}");
        }
        for name in ["MÜLLER-PC", "müller-pc", "Müller-Pc"] {
            let host = operators.hosts.find_by_identifier(&admin(), name).await.unwrap();
            assert_eq!(host.facts.hostname, "MÜLLER-PC");
        }
        let selection = Selection {
            hosts: vec!["müller-PC".to_owned(), "Жанна".to_owned()],
            ..Selection::default()
        };
        assert_eq!(operators.hosts.select(&selection, &TeamFilter::All).await.unwrap().len(), 2);
    }

    async fn members_that_are_deleted_while_they_are_named_are_left_out(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let operators = Operators::new(&server);
        let new = NewLabel { name: "chosen".to_owned(), host_ids: Some(Vec::new()), ..NewLabel::default() };
        let label = operators.hosts.create_label(&admin(), new).await.unwrap();
        for round in 0..10 {
            let mut ids = Vec::new();
            for host in 0..4 {
                let identifier = format!("r{round}h{host}");
                let key = server.enroll_with(&crate::harness::ubuntu(&server.secret, &identifier)).await;
                ids.push(server.record(&key).await.id);
            }
            let change = LabelChange {
                host_ids: Some(ids.iter().map(|id| id.0).collect()),
                ..LabelChange::default()
            };
            let hosts = operators.hosts.clone();
            let gone = vec![ids[1], ids[2]];
            let deleting = tokio::spawn(async move { hosts.delete(&admin(), &gone).await.map(drop) });
            let hosts = operators.hosts.clone();
            let changing = tokio::spawn(async move { hosts.change_label(&admin(), label.id, change).await.map(drop) });
            deleting.await.unwrap().unwrap();
            if let Err(refused) = changing.await.unwrap() {
                assert!(refused.message().contains("no such host"), "they were gone before: {}", refused.message());
            }
        }
    }

    async fn two_changes_of_a_label_at_once_are_both_kept_and_none_of_a_label_that_is_gone(db: TestDatabase) {
        let server = TestServer::new(&db).await;
        let operators = Operators::new(&server);
        let new = NewLabel {
            name: "tools".to_owned(),
            query: "SELECT 1".to_owned(),
            ..NewLabel::default()
        };
        let label = operators.hosts.create_label(&admin(), new).await.unwrap();
        for round in 0..10 {
            let changes = [
                LabelChange { description: Some(format!("d{round}")), ..LabelChange::default() },
                LabelChange { query: Some(format!("SELECT {round}")), ..LabelChange::default() },
            ];
            let changing = changes.map(|change| {
                let hosts = operators.hosts.clone();
                tokio::spawn(async move { hosts.change_label(&admin(), label.id, change).await.is_ok() })
            });
            for changing in changing {
                assert!(changing.await.unwrap());
            }
            let (now, _) = operators.hosts.find_label(&TeamFilter::All, label.id).await.unwrap();
            assert_eq!((now.description, now.query), (format!("d{round}"), format!("SELECT {round}")));
        }
        // It is deleted while a change waits for it.
        let mut lock = server.database.begin().await.unwrap();
        lock.execute("DELETE FROM hosts_labels WHERE name = 'tools'", args![]).await.unwrap();
        let hosts = operators.hosts.clone();
        let changing = tokio::spawn(async move {
            let change = LabelChange { description: Some("late".to_owned()), ..LabelChange::default() };
            hosts.change_label(&admin(), label.id, change).await
        });
        tokio::task::yield_now().await;
        lock.commit().await.unwrap();
        assert_eq!(changing.await.unwrap().unwrap_err().status().as_u16(), 404);
    }
}
