//! Campaigns from the question to the last answer.

use std::time::Duration;

use muster_http::ListingQuery;
use muster_identity::{Actor, Credential, HostId, NewUser, Principal, Role, TeamId, UserChange};
use muster_queries::{
    CampaignStatus, Event, HostState, NewCampaign, Queries, QueriesError, SavedQueryChange, Stream,
};
use muster_store::testing::on_both_databases;

use crate::{Fixture, START, admin, all, answered, asked, failed, only, person, sql, write};

/// Ends what is done and marks who was asked, as the background task does every second.
async fn look_after(queries: &Queries) {
    let stop = tokio_util::sync::CancellationToken::new();
    stop.cancel();
    queries.run(&muster_replicas::Lease::always(), stop).await;
}

async fn states(fixture: &Fixture, id: i64) -> Vec<(i64, HostState, String)> {
    let listing = ListingQuery::default().check(&["host_id"]).unwrap();
    let page = fixture
        .queries
        .campaigns
        .hosts(&admin(), id, &listing, &[])
        .await
        .unwrap();
    page.items
        .into_iter()
        .map(|host| (host.host_id.0, host.state, host.reason))
        .collect()
}

/// Everything that a stream gives until the end: positions of results, and the final status.
async fn drain(stream: &mut Stream) -> (Vec<i64>, CampaignStatus) {
    let mut positions = Vec::new();
    loop {
        match stream.next().await.unwrap() {
            Some(Event::Result(result)) => positions.push(result.position),
            Some(Event::Progress(_)) => {}
            Some(Event::End(campaign)) => return (positions, campaign.status),
            None => panic!("the end is said before the stream closes"),
        }
    }
}

on_both_databases! {
    async fn a_campaign_is_asked_answered_and_finished(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let queries = &fixture.queries;
        let campaign = fixture.ask(sql("SELECT 1", only(&[1, 2, 5]))).await;
        assert_eq!((campaign.hosts.targeted, campaign.hosts.online, campaign.hosts.awaited), (3, 2, 2));
        let name = format!("fleet_distributed_query_{}", campaign.id);
        assert_eq!(asked(queries, 1, START), [(name, "SELECT 1".to_owned())]);
        assert!(asked(queries, 1, START).is_empty(), "a host is asked once");
        assert!(asked(queries, 3, START).is_empty(), "others are not asked");
        look_after(queries).await;
        assert_eq!(fixture.campaign(campaign.id).await.hosts.sent, 1);
        write(queries, 1, vec![answered(campaign.id, 2)], START).await.unwrap();
        asked(queries, 2, START);
        write(queries, 2, vec![failed(campaign.id, "no such table: x")], START).await.unwrap();
        look_after(queries).await;
        let campaign = fixture.campaign(campaign.id).await;
        assert_eq!(campaign.status, CampaignStatus::Finished);
        assert_eq!((campaign.hosts.answered, campaign.hosts.failed, campaign.hosts.offline), (1, 1, 1));
        assert_eq!(campaign.result_rows, 2);
        let states = states(&fixture, campaign.id).await;
        assert_eq!(states[0].1, HostState::Answered);
        assert_eq!((states[1].1, states[1].2.as_str()), (HostState::Failed, "no such table: x"));
        assert_eq!(states[2].1, HostState::Offline);
        assert!(states[2].2.contains("not heard of since 2026-11-23"), "{}", states[2].2);
        let results = queries.campaigns.results(&admin(), campaign.id, 0, 100).await.unwrap();
        assert_eq!(results[0].rows.get(), "[{\"n\":\"0\"},{\"n\":\"1\"}]");
        assert_eq!(results[1].error.as_deref(), Some("no such table: x"));
        assert!(asked(queries, 5, START).is_empty(), "it is over");
    }

    async fn a_restart_forgets_nothing(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let campaign = fixture.ask(sql("SELECT 1", only(&[1, 2]))).await;
        asked(&fixture.queries, 1, START);
        look_after(&fixture.queries).await;
        write(&fixture.queries, 1, vec![answered(campaign.id, 1)], START).await.unwrap();
        let restarted = fixture.restarted().await;
        assert!(asked(&restarted, 1, START).is_empty(), "it answered");
        assert_eq!(asked(&restarted, 2, START).len(), 1);
        write(&restarted, 2, vec![answered(campaign.id, 1)], START).await.unwrap();
        let mut stream = restarted.campaigns.stream(&admin(), campaign.id, 0).await.unwrap();
        assert_eq!(drain(&mut stream).await, (vec![1, 2], CampaignStatus::Finished));
    }

    async fn a_host_whose_answer_was_lost_is_asked_again_after_a_while(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        fixture.ask(sql("SELECT 1", only(&[1]))).await;
        assert_eq!(asked(&fixture.queries, 1, START).len(), 1);
        let soon = START.plus(Duration::from_secs(119));
        assert!(asked(&fixture.queries, 1, soon).is_empty());
        let later = START.plus(Duration::from_secs(121));
        assert_eq!(asked(&fixture.queries, 1, later).len(), 1);
    }

    async fn hosts_that_were_away_are_waited_for_when_asked_to(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let queries = &fixture.queries;
        let wait = NewCampaign {
            wait_for_offline: true,
            expiry: Some(Duration::from_secs(3_600)),
            ..sql("SELECT 1", only(&[1, 5, 6]))
        };
        let campaign = fixture.ask(wait).await;
        write(queries, 1, vec![answered(campaign.id, 1)], START).await.unwrap();
        look_after(queries).await;
        assert_eq!(fixture.campaign(campaign.id).await.status, CampaignStatus::Running);
        fixture.clock.advance(Duration::from_secs(1_800));
        let back = START.plus(Duration::from_secs(1_800));
        assert_eq!(asked(queries, 5, back).len(), 1, "it came back");
        write(queries, 5, vec![answered(campaign.id, 1)], back).await.unwrap();
        fixture.clock.advance(Duration::from_secs(1_800));
        look_after(queries).await;
        let campaign = fixture.campaign(campaign.id).await;
        assert_eq!((campaign.status, campaign.hosts.expired), (CampaignStatus::Expired, 1));
        let states = states(&fixture, campaign.id).await;
        assert_eq!((states[2].1, states[2].2.as_str()), (HostState::Expired, "was away the whole time"));
        assert!(asked(queries, 6, START.plus(Duration::from_secs(3_601))).is_empty());
    }

    async fn what_nobody_asked_and_what_is_said_twice_is_not_kept(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let queries = &fixture.queries;
        let campaign = fixture.ask(sql("SELECT 1", only(&[1, 2]))).await;
        write(queries, 3, vec![answered(campaign.id, 1)], START).await.unwrap();
        write(queries, 1, vec![answered(campaign.id + 7, 1), answered(0, 1)], START).await.unwrap();
        let strange = ["fleet_distributed_query_", "fleet_distributed_query_x", "fleet_distributed_query_-1"];
        let strange = strange.map(|name| muster_hosts::QueryResult { name: name.to_owned(), ..answered(1, 1) });
        write(queries, 1, strange.to_vec(), START).await.unwrap();
        assert_eq!(fixture.campaign(campaign.id).await.hosts.answered, 0);
        write(queries, 1, vec![answered(campaign.id, 2)], START).await.unwrap();
        write(queries, 1, vec![answered(campaign.id, 5)], START).await.unwrap();
        let restarted = fixture.restarted().await;
        write(&restarted, 1, vec![answered(campaign.id, 5)], START).await.unwrap();
        assert_eq!(fixture.campaign(campaign.id).await.result_rows, 2);
    }

    async fn a_database_that_is_away_lets_the_agent_send_again(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let campaign = fixture.ask(sql("SELECT 1", only(&[1]))).await;
        let other = fixture.restarted().await;
        fixture.db.close().await;
        let refused = write(&fixture.queries, 1, vec![answered(campaign.id, 1)], START).await;
        assert!(matches!(refused, Err(muster_hosts::SourceError::Unavailable(_))), "{refused:?}");
        write(&other, 1, vec![answered(campaign.id, 1)], START).await.unwrap();
        let kept = other.campaigns.find(&admin(), campaign.id).await.unwrap();
        assert_eq!((kept.hosts.answered, kept.result_rows), (1, 1));
    }

    async fn many_hosts_answer_at_once_and_none_is_lost_or_doubled(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let first = fixture.ask(sql("SELECT 1", all())).await;
        let second = fixture.ask(sql("SELECT 2", all())).await;
        let mut tasks = tokio::task::JoinSet::new();
        for host in 1..=6 {
            for _ in 0..5 {
                let queries = fixture.queries.clone();
                tasks.spawn(async move {
                    let results = vec![answered(first.id, 1), answered(second.id, 1)];
                    write(&queries, host, results, START).await.unwrap();
                });
            }
        }
        tasks.join_all().await;
        for id in [first.id, second.id] {
            let campaign = fixture.campaign(id).await;
            assert_eq!((campaign.hosts.answered, campaign.result_rows), (6, 6));
            let results = fixture.queries.campaigns.results(&admin(), id, 0, 100).await.unwrap();
            let positions: Vec<_> = results.iter().map(|result| result.position).collect();
            assert!(positions.is_sorted() && positions.len() == 6, "{positions:?}");
        }
    }

    async fn a_stream_gives_everything_once_however_often_it_is_left(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let queries = &fixture.queries;
        let campaign = fixture.ask(sql("SELECT 1", only(&[1, 2, 3, 4]))).await;
        let whole = tokio::spawn({
            let queries = queries.clone();
            let id = campaign.id;
            async move { drain(&mut queries.campaigns.stream(&admin(), id, 0).await.unwrap()).await }
        });
        let mut seen = Vec::new();
        let mut position = 0;
        for host in 1..=4 {
            write(queries, host, vec![answered(campaign.id, 1)], START).await.unwrap();
            // A new listener from the last position, which leaves after one result.
            let mut stream = queries.campaigns.stream(&admin(), campaign.id, position).await.unwrap();
            loop {
                if let Some(Event::Result(result)) = stream.next().await.unwrap() {
                    seen.push(result.host_id.0);
                    position = stream.position();
                    break;
                }
            }
        }
        assert_eq!(seen, [1, 2, 3, 4]);
        let (positions, status) = whole.await.unwrap();
        assert_eq!((positions.len(), status), (4, CampaignStatus::Finished));
        let mut late = queries.campaigns.stream(&admin(), campaign.id, 0).await.unwrap();
        assert_eq!(drain(&mut late).await.0, positions, "a late listener gets the same");
        let mut end = queries.campaigns.stream(&admin(), campaign.id, position).await.unwrap();
        assert_eq!(drain(&mut end).await.0, Vec::<i64>::new());
    }

    async fn a_stopped_campaign_asks_nobody_and_keeps_what_it_has(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let queries = &fixture.queries;
        let campaign = fixture.ask(sql("SELECT 1", only(&[1, 2]))).await;
        write(queries, 1, vec![answered(campaign.id, 1)], START).await.unwrap();
        let stopped = queries.campaigns.cancel(&admin(), campaign.id).await.unwrap();
        assert_eq!((stopped.status, stopped.hosts.cancelled), (CampaignStatus::Cancelled, 1));
        assert!(asked(queries, 2, START).is_empty());
        write(queries, 2, vec![answered(campaign.id, 1)], START).await.unwrap();
        assert_eq!(fixture.campaign(campaign.id).await.hosts.answered, 1);
        let again = queries.campaigns.cancel(&admin(), campaign.id).await.unwrap();
        assert_eq!(again.status, CampaignStatus::Cancelled);
    }

    async fn observers_run_only_queries_marked_so(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let queries = &fixture.queries;
        let save = |name: &str, observer_can_run: bool| {
            let change = SavedQueryChange {
                name: Some(name.to_owned()),
                query: Some("SELECT 1".to_owned()),
                observer_can_run: Some(observer_can_run),
                ..SavedQueryChange::default()
            };
            let queries = queries.clone();
            async move { queries.saved.create(&admin(), None, change).await.unwrap().id }
        };
        let (open, closed) = (save("open", true).await, save("closed", false).await);
        let observer = person(2, Some(Role::Observer), &[]);
        let run = |query_id| NewCampaign { query_id: Some(query_id), target: all(), ..NewCampaign::default() };
        let refused = queries.campaigns.create(&observer, sql("SELECT 1", all())).await.unwrap_err();
        assert_eq!(refused.status(), 403);
        assert_eq!(queries.campaigns.create(&observer, run(closed)).await.unwrap_err().status(), 403);
        let (campaign, hosts) = queries.campaigns.create(&observer, run(open)).await.unwrap();
        assert_eq!(hosts.len(), 6);
        assert!(queries.campaigns.find(&observer, campaign.id).await.is_ok());
        let stranger = person(3, Some(Role::Observer), &[]);
        assert!(queries.campaigns.find(&stranger, campaign.id).await.is_err(), "somebody else's is not seen");
        assert!(queries.campaigns.find(&admin(), campaign.id).await.is_ok());
        let member = person(4, None, &[(1, Role::Maintainer)]);
        let (_, hosts) = queries.campaigns.create(&member, sql("SELECT 1", all())).await.unwrap();
        assert!(hosts.iter().all(|host| host.id.0 % 2 == 0), "a member asks its team's hosts: {hosts:?}");
    }

    async fn a_teams_query_for_observers_runs_on_that_team_and_where_any_sql_may_run(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let queries = &fixture.queries;
        // Hosts with even numbers are in team 1, the others in none.
        let save = |team: Option<i64>, by: Principal| {
            let change = SavedQueryChange {
                name: Some(format!("of {team:?}")),
                query: Some("SELECT 1".to_owned()),
                observer_can_run: Some(true),
                ..SavedQueryChange::default()
            };
            let queries = queries.clone();
            async move { queries.saved.create(&by, team.map(TeamId), change).await.unwrap().id }
        };
        let mixed = person(4, None, &[(2, Role::Maintainer), (1, Role::Observer)]);
        let (own, global) = (save(Some(2), mixed.clone()).await, save(None, admin()).await);
        let run = |query_id| NewCampaign { query_id: Some(query_id), target: all(), ..NewCampaign::default() };
        let refused = queries.campaigns.create(&mixed, run(own)).await.unwrap_err();
        assert_eq!(refused.status(), 400, "what one team's maintainer wrote does not run on another's hosts: {refused:?}");
        let (_, hosts) = queries.campaigns.create(&mixed, run(global)).await.unwrap();
        assert!(hosts.iter().all(|host| host.id.0 % 2 == 0) && !hosts.is_empty(), "{hosts:?}");
        let (_, hosts) = queries.campaigns.create(&admin(), run(own)).await.unwrap();
        assert_eq!(hosts.len(), 6, "an admin runs anything anywhere");
    }

    async fn whoever_may_ask_nothing_any_more_sees_nothing_of_what_was_asked(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let campaigns = &fixture.queries.campaigns;
        let member = person(4, None, &[(1, Role::Maintainer)]);
        let (campaign, _) = campaigns.create(&member, sql("SELECT 1", all())).await.unwrap();
        assert!(campaigns.results(&member, campaign.id, 0, 10).await.is_ok());
        let without = person(4, None, &[]);
        assert!(campaigns.results(&without, campaign.id, 0, 10).await.is_err());
        assert!(campaigns.stream(&without, campaign.id, 0).await.is_err());
    }

    async fn a_host_that_is_deleted_is_not_waited_for(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let campaign = fixture.ask(sql("SELECT 1", only(&[1, 2]))).await;
        fixture.switch.deleted.lock().unwrap().insert(HostId(2));
        write(&fixture.queries, 1, vec![answered(campaign.id, 1)], START).await.unwrap();
        look_after(&fixture.queries).await;
        fixture.queries.start().await.unwrap();
        look_after(&fixture.queries).await;
        let now = fixture.campaign(campaign.id).await;
        assert_eq!((now.status, now.hosts.answered, now.hosts.failed), (CampaignStatus::Finished, 1, 1));
        let (_, state, reason) = states(&fixture, campaign.id).await.remove(1);
        assert_eq!((state, reason.as_str()), (HostState::Failed, "the host was deleted or banned"));
    }

    async fn a_stream_ends_with_the_login_of_its_listener(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (campaigns, identity) = (&fixture.queries.campaigns, &fixture.identity);
        let user = NewUser {
            name: "Ann".to_owned(),
            email: "ann@example.com".to_owned(),
            password: "password123#".to_owned(),
            global_role: Some(Role::Maintainer),
            ..NewUser::default()
        };
        let user = identity.users.create(&Actor::system(), user).await.unwrap();
        let address = admin().address;
        let long = Duration::from_secs(11);
        for way in ["nothing", "logout", "disabled"] {
            let token = identity.sessions.begin(&user, address).await.unwrap();
            let ann = identity.sessions.authenticate(&token, address).await.unwrap().unwrap();
            let (campaign, _) = campaigns.create(&ann, sql("SELECT 1", only(&[1]))).await.unwrap();
            let mut stream = campaigns.stream(&ann, campaign.id, 0).await.unwrap();
            assert!(matches!(stream.next().await, Ok(Some(Event::Progress(_)))));
            let Credential::Session(session) = ann.credential else { panic!("a session") };
            match way {
                "logout" => identity.sessions.end(&Actor::system(), session).await.unwrap(),
                "disabled" => {
                    let change = UserChange { disabled: Some(true), ..UserChange::default() };
                    identity.users.change(&Actor::system(), user.id, change).await.map(drop).unwrap();
                }
                _ => {}
            }
            fixture.clock.advance(long);
            if way == "nothing" {
                write(&fixture.queries, 1, vec![answered(campaign.id, 1)], START).await.unwrap();
                assert!(matches!(stream.next().await, Ok(Some(Event::Result(_)))), "it goes on");
            } else {
                assert!(matches!(stream.next().await, Err(QueriesError::NoLonger)), "{way}");
            }
        }
    }

    async fn a_host_that_sends_what_a_database_refuses_spoils_nobodys_answer(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let queries = &fixture.queries;
        let campaign = fixture.ask(sql("SELECT 1", only(&[1, 2]))).await;
        let mut bad = answered(campaign.id, 0);
        (bad.status, bad.message, bad.rows) = (1, Some("no such\0table".to_owned()), Vec::new());
        let (bad, good) = tokio::join!(
            write(queries, 1, vec![bad], START),
            write(queries, 2, vec![answered(campaign.id, 1)], START),
        );
        assert!(bad.is_ok() && good.is_ok());
        let results = queries.campaigns.results(&admin(), campaign.id, 0, 10).await.unwrap();
        let failed = results.iter().find_map(|result| result.error.as_deref());
        assert_eq!((results.len(), failed), (2, Some("no suchtable")));
    }

    async fn large_answers_come_in_pages_that_fit_into_memory(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let queries = &fixture.queries;
        let campaign = fixture.ask(sql("SELECT 1", all())).await;
        for host in 1..=6 {
            let mut large = answered(campaign.id, 0);
            large.rows = vec![[("column", "x".repeat(1_500_000))].into_iter().collect()];
            write(queries, host, vec![large], START).await.unwrap();
        }
        let page = queries.campaigns.results(&admin(), campaign.id, 0, 500).await.unwrap();
        assert_eq!(page.len(), 2, "4 MiB hold two of them");
        let mut stream = queries.campaigns.stream(&admin(), campaign.id, 0).await.unwrap();
        assert_eq!(drain(&mut stream).await.0, [1, 2, 3, 4, 5, 6]);
    }

    async fn there_is_an_end_to_what_one_user_has_running(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let campaigns = &fixture.queries.campaigns;
        let mut first = None;
        let refused = loop {
            match campaigns.create(&admin(), sql("SELECT 1", only(&[1]))).await {
                Ok((campaign, _)) => first = first.or(Some(campaign.id)),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.status(), 429, "{refused:?}");
        let other = person(9, Some(Role::Maintainer), &[]);
        assert!(campaigns.create(&other, sql("SELECT 1", only(&[1]))).await.is_ok(), "others are not held up");
        campaigns.cancel(&admin(), first.unwrap()).await.unwrap();
        assert!(campaigns.create(&admin(), sql("SELECT 1", only(&[1]))).await.is_ok());
    }

    async fn what_makes_no_sense_is_refused_with_a_reason(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let campaigns = &fixture.queries.campaigns;
        let label = muster_queries::Target { labels: vec!["nope".to_owned()], ..Default::default() };
        let cases = [
            (sql(" ", all()), 422, "give SQL or a saved query"),
            (NewCampaign { query_id: Some(1), ..sql("SELECT 1", all()) }, 422, "not both"),
            (NewCampaign { query_id: Some(99), target: all(), ..Default::default() }, 404, "query 99"),
            (sql(&"x".repeat(300_000), all()), 422, "at most"),
            (sql("SELECT 1", only(&[99])), 400, "no hosts targeted"),
            (sql("SELECT 1", label), 400, "Invalid label name(s): nope"),
            (NewCampaign { expiry: Some(Duration::from_secs(604_801)), ..sql("SELECT 1", all()) }, 422, "604800"),
            (NewCampaign { expiry: Some(Duration::ZERO), ..sql("SELECT 1", all()) }, 422, "from 1"),
        ];
        for (new, status, reason) in cases {
            let refused = campaigns.create(&admin(), new).await.unwrap_err();
            assert_eq!(refused.status(), status, "{}", refused.message());
            assert!(refused.message().contains(reason), "{}", refused.message());
        }
        fixture.switch.disabled.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(campaigns.create(&admin(), sql("SELECT 1", all())).await.unwrap_err().status(), 403);
    }

    async fn a_check_in_costs_no_statement(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        fixture.ask(sql("SELECT 1", only(&[1]))).await;
        let before = fixture.db.statements();
        for host in 1..1_000 {
            asked(&fixture.queries, host, START);
        }
        assert_eq!(fixture.db.statements(), before);
    }

    async fn results_are_forgotten_a_day_after_the_end(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let queries = &fixture.queries;
        let campaign = fixture.ask(sql("SELECT 1", only(&[1]))).await;
        write(queries, 1, vec![answered(campaign.id, 1)], START).await.unwrap();
        look_after(queries).await;
        fixture.clock.advance(Duration::from_secs(25 * 3_600));
        // The task's first look at what is old comes at once.
        let stop = tokio_util::sync::CancellationToken::new();
        let task = tokio::spawn({
            let (queries, stop) = (queries.clone(), stop.clone());
            async move { queries.run(&muster_replicas::Lease::always(), stop).await }
        });
        loop {
            let results = queries.campaigns.results(&admin(), campaign.id, 0, 100).await.unwrap();
            if results[0].rows.get() == "[]" {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(fixture.campaign(campaign.id).await.hosts.answered, 1, "the account stays");
        stop.cancel();
        task.await.unwrap();
    }
}
