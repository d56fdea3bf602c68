//! Inventories on both databases.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod http;

use muster_clock::Timestamp;
use muster_http::ListingQuery;
use muster_identity::{HostId, TeamId};
use muster_software::{
    MIGRATIONS, Software, SoftwareEntry, TITLE_SORTS, VERSION_SORTS, Visible, hosts_with_title,
    hosts_with_version,
};
use muster_store::testing::{TestDatabase, on_both_databases};
use muster_store::{Executor, Schema, args};

fn deb(name: &str, version: &str) -> SoftwareEntry {
    SoftwareEntry {
        name: name.to_owned(),
        version: version.to_owned(),
        source: "deb_packages".to_owned(),
        arch: "amd64".to_owned(),
        ..SoftwareEntry::default()
    }
}

async fn software(db: &TestDatabase) -> Software {
    db.migrate(&Schema::default().with("software", MIGRATIONS))
        .await;
    Software::new(db.database())
}

async fn report(
    software: &Software,
    db: &TestDatabase,
    host: i64,
    team: Option<i64>,
    entries: Vec<SoftwareEntry>,
) -> bool {
    report_keeping(software, db, host, team, entries, &[]).await
}

async fn report_keeping(
    software: &Software,
    db: &TestDatabase,
    host: i64,
    team: Option<i64>,
    entries: Vec<SoftwareEntry>,
    kept_sources: &[&str],
) -> bool {
    let inventory = software.prepare(entries).await.unwrap();
    let mut transaction = db.begin().await.unwrap();
    let now = Timestamp::from_seconds(1_000 + host);
    let changed = software
        .replace_for_host(
            &mut transaction,
            HostId(host),
            team.map(TeamId),
            &inventory,
            kept_sources,
            now,
        )
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    changed
}

async fn names(software: &Software, host: i64) -> Vec<String> {
    let found = software.of_host(HostId(host)).await.unwrap();
    found
        .iter()
        .map(|version| format!("{} {}", version.name, version.version))
        .collect()
}

/// How many hosts a query for an `IN` gives.
async fn hosts(db: &TestDatabase, query: &str, id: i64) -> i64 {
    let sql = format!("SELECT COUNT(DISTINCT host_id) AS total FROM ({query}) found");
    let row = (&**db).fetch_one(&sql, args![id]).await.unwrap();
    row.get("total").unwrap()
}

fn listing(search: Option<&str>, sort: Option<&str>, limit: u32) -> ListingQuery {
    ListingQuery {
        limit: Some(limit),
        sort: sort.map(str::to_owned),
        search: search.map(str::to_owned),
        ..ListingQuery::default()
    }
}

on_both_databases! {
    async fn a_report_replaces_the_one_before_and_writes_only_what_differs(db: TestDatabase) {
        let software = software(&db).await;
        assert!(report(&software, &db, 1, None, vec![deb("bash", "5.1"), deb("vim", "9.0")]).await);
        assert!(report(&software, &db, 1, None, vec![deb("bash", "5.2"), deb("vim", "9.0")]).await);
        assert_eq!(names(&software, 1).await, ["bash 5.2", "vim 9.0"]);
        let before = db.statements();
        assert!(!report(&software, &db, 1, None, vec![deb("vim", "9.0"), deb("bash", "5.2")]).await);
        // Known software is remembered: only the stamp and the comparison are left.
        assert_eq!(db.statements() - before, 2);
        assert!(report(&software, &db, 1, None, vec![]).await);
        assert_eq!(names(&software, 1).await, Vec::<String>::new());
    }

    async fn software_that_could_not_be_reported_stays(db: TestDatabase) {
        let software = software(&db).await;
        let pip = SoftwareEntry { source: "python_packages".to_owned(), ..deb("pip", "1") };
        report(&software, &db, 1, None, vec![deb("bash", "5.1"), pip]).await;
        report_keeping(&software, &db, 1, None, vec![deb("bash", "5.2")], &["python_packages"]).await;
        assert_eq!(names(&software, 1).await, ["bash 5.2", "pip 1"]);
        report(&software, &db, 1, None, vec![deb("bash", "5.2")]).await;
        assert_eq!(names(&software, 1).await, ["bash 5.2"]);
    }

    async fn the_same_software_on_many_hosts_is_one_row_that_counts_them(db: TestDatabase) {
        let software = software(&db).await;
        for host in 1..=3 {
            report(&software, &db, host, None, vec![deb("bash", "5.1"), deb("only", &host.to_string())]).await;
        }
        // Another replica, which remembers nothing, finds the same rows.
        let other = Software::new(db.reopen().await);
        report(&other, &db, 4, None, vec![deb("bash", "5.1"), deb("bash", "5.1")]).await;
        let page = listing(None, Some("-hosts_count"), 1).check(VERSION_SORTS).unwrap();
        let page = software.versions(&Visible::All, &page).await.unwrap();
        assert_eq!(page.total, 4);
        assert_eq!((page.items[0].name.as_str(), page.items[0].hosts_count), ("bash", 4));
        let bash = page.items[0].id;
        assert_eq!(hosts(&db, &hosts_with_version("$1"), bash).await, 4);
        assert_eq!(software.version(&Visible::All, bash).await.unwrap().unwrap().hosts_count, 4);
        let newest = software.counted_at(&Visible::All).await.unwrap();
        assert_eq!(newest, Some(Timestamp::from_seconds(1_004)));
    }

    async fn titles_gather_versions_and_are_found_by_text(db: TestDatabase) {
        let software = software(&db).await;
        report(&software, &db, 1, None, vec![deb("bash", "5.1"), deb("libfoo%bar", "1")]).await;
        report(&software, &db, 2, None, vec![deb("bash", "5.2"), deb("libfooXbar", "1")]).await;
        let page = listing(Some("BASH"), None, 10).check(TITLE_SORTS).unwrap();
        let page = software.titles(&Visible::All, &page).await.unwrap();
        assert_eq!((page.total, page.items.len()), (1, 1));
        assert_eq!(page.items[0].hosts_count, 2);
        let versions: Vec<_> = page.items[0].versions.iter().map(|version| version.version.as_str()).collect();
        assert_eq!(versions, ["5.1", "5.2"]);
        let found = listing(Some("foo%"), None, 10).check(VERSION_SORTS).unwrap();
        assert_eq!(software.versions(&Visible::All, &found).await.unwrap().total, 1);
        assert_eq!(software.title(&Visible::All, page.items[0].id).await.unwrap().as_ref(), page.items.first());
        assert_eq!(software.title(&Visible::All, 999).await.unwrap(), None);
        assert_eq!(hosts(&db, &hosts_with_title("$1"), page.items[0].id).await, 2);
    }

    async fn who_may_see_one_team_sees_its_software_only(db: TestDatabase) {
        let software = software(&db).await;
        report(&software, &db, 1, Some(7), vec![deb("bash", "5.1"), deb("secret", "1")]).await;
        report(&software, &db, 2, Some(8), vec![deb("bash", "5.1")]).await;
        report(&software, &db, 3, None, vec![deb("bash", "5.1"), deb("open", "1")]).await;
        let all = listing(None, None, 10).check(VERSION_SORTS).unwrap();
        let seen = async |visible: Visible| {
            let page = software.versions(&visible, &all).await.unwrap();
            page.items.iter().map(|v| format!("{} {}", v.name, v.hosts_count)).collect::<Vec<_>>()
        };
        assert_eq!(seen(Visible::Teams(vec![TeamId(8)])).await, ["bash 1"]);
        assert_eq!(seen(Visible::Teams(vec![TeamId(7), TeamId(8)])).await, ["bash 2", "secret 1"]);
        assert_eq!(seen(Visible::NoTeam).await, ["bash 1", "open 1"]);
        assert!(seen(Visible::Teams(vec![])).await.is_empty());
        let mut transaction = db.begin().await.unwrap();
        software.transfer(&mut transaction, &[HostId(1)], Some(TeamId(8))).await.unwrap();
        software.forget(&mut transaction, &[HostId(2)]).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(seen(Visible::Teams(vec![TeamId(8)])).await, ["bash 1", "secret 1"]);
        let left = (&*db).fetch_all("SELECT 1 AS one FROM software_hosts WHERE host_id = 2", vec![]).await.unwrap();
        assert!(left.is_empty());
    }

    async fn a_large_inventory_is_kept_in_few_statements(db: TestDatabase) {
        let software = software(&db).await;
        let entries: Vec<_> = (0..2_500).map(|number| deb(&format!("package-{number}"), "1")).collect();
        let before = db.statements();
        report(&software, &db, 1, None, entries).await;
        assert!(db.statements() - before < 25, "{}", db.statements() - before);
        assert_eq!(names(&software, 1).await.len(), 2_500);
    }

    async fn what_no_host_has_for_hours_is_swept_away(db: TestDatabase) {
        let software = software(&db).await;
        let hours = |hours: u64| Timestamp::from_seconds(1_000_000).plus(std::time::Duration::from_secs(hours * 3_600));
        report(&software, &db, 1, None, vec![deb("bash", "5.1"), deb("bash", "5.2"), deb("flood", "1")]).await;
        report(&software, &db, 1, None, vec![deb("bash", "5.2")]).await;
        let rows = async |table: &str| {
            let sql = format!("SELECT COUNT(*) AS total FROM {table}");
            (&*db).fetch_one(&sql, vec![]).await.unwrap().get::<i64>("total").unwrap()
        };
        assert_eq!(software.sweep(hours(0)).await.unwrap(), 0);
        assert_eq!(software.sweep(hours(5)).await.unwrap(), 0);
        // One comes back before its time is over.
        report(&software, &db, 1, None, vec![deb("bash", "5.1"), deb("bash", "5.2")]).await;
        assert_eq!(software.sweep(hours(6)).await.unwrap(), 1);
        assert_eq!((rows("software_versions").await, rows("software_titles").await), (2, 1));
        report(&software, &db, 1, None, vec![]).await;
        assert_eq!(software.sweep(hours(7)).await.unwrap(), 0);
        assert_eq!(software.sweep(hours(13)).await.unwrap(), 2);
        assert_eq!((rows("software_versions").await, rows("software_titles").await), (0, 0));
        // What was forgotten is made anew.
        report(&software, &db, 1, None, vec![deb("flood", "1")]).await;
        assert_eq!(names(&software, 1).await, ["flood 1"]);
    }

    async fn software_beyond_ascii_is_found_in_any_case(db: TestDatabase) {
        let software = software(&db).await;
        report(&software, &db, 1, None, vec![deb("Überwachung", "1"), deb("bash", "1")]).await;
        for search in ["überWACHUNG", "ÜBER"] {
            let wish = listing(Some(search), None, 10);
            let versions = software.versions(&Visible::All, &wish.check(VERSION_SORTS).unwrap()).await.unwrap();
            let titles = software.titles(&Visible::All, &wish.check(TITLE_SORTS).unwrap()).await.unwrap();
            assert_eq!((versions.total, titles.total), (1, 1), "{search}");
        }
    }
}
