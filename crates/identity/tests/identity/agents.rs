//! Enrollment tokens and agent keys.

use std::time::Duration;

use muster_http::{ClientAddress, Network};
use muster_identity::{
    Actor, AgentAuthError, AuditFilter, EnrollError, EnrollmentTokenId, Family, HostId,
    IdentityError, NewEnrollmentToken, Readmission, RefusalReason, TeamFilter,
};
use muster_store::testing::on_both_databases;

use crate::{Fixture, HERE, START, address};

fn named(name: &str) -> NewEnrollmentToken {
    NewEnrollmentToken {
        name: name.to_owned(),
        ..NewEnrollmentToken::default()
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, EnrollError>) -> RefusalReason {
    match result {
        Err(EnrollError::Refused(reason)) => reason,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

impl Fixture {
    pub(crate) async fn key(&self, host: i64, family: Family) -> String {
        let keys = &self.identity.agent_keys;
        let token = Some(EnrollmentTokenId(1));
        keys.issue(&mut &*self.db, HostId(host), family, token, "", START)
            .await
            .unwrap()
            .text
    }

    pub(crate) async fn whose(&self, key: &str, family: Family) -> Result<i64, AgentAuthError> {
        self.identity
            .agent_keys
            .authenticate(key, family)
            .await
            .map(|identity| identity.host_id.0)
    }
}

on_both_databases! {
    async fn a_token_admits_until_it_is_revoked(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let tokens = &fixture.identity.enrollment_tokens;
        let (token, secret) = tokens.create(&Actor::system(), named("laptops")).await.unwrap();
        assert!(secret.starts_with("mst_enroll_"), "scanners find it by its prefix");
        let admission = tokens.admit(&secret, Family::Osquery, HERE, START).await.unwrap();
        assert_eq!((admission.token_id, admission.team_id), (token.id, None));
        for wrong in ["", "nope", &secret[1..], &"x".repeat(10_000)] {
            assert_eq!(refused(tokens.admit(wrong, Family::Osquery, HERE, START).await), RefusalReason::Unknown);
        }
        tokens.revoke(&Actor::system(), token.id).await.unwrap();
        assert_eq!(refused(tokens.admit(&secret, Family::Osquery, HERE, START).await), RefusalReason::Revoked);
        tokens.revoke(&Actor::system(), token.id).await.unwrap();
    }

    async fn a_token_runs_out_and_is_only_for_its_families(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let tokens = &fixture.identity.enrollment_tokens;
        let end = START.plus(Duration::from_secs(60));
        let new = NewEnrollmentToken { expires_at: Some(end), families: vec![Family::Orbit], ..named("t") };
        let (_, secret) = tokens.create(&Actor::system(), new).await.unwrap();
        assert!(tokens.admit(&secret, Family::Orbit, HERE, START).await.is_ok());
        assert_eq!(refused(tokens.admit(&secret, Family::Osquery, HERE, START).await), RefusalReason::OtherFamily);
        assert_eq!(refused(tokens.admit(&secret, Family::Orbit, HERE, end).await), RefusalReason::Expired);
        let past = NewEnrollmentToken { expires_at: Some(START), ..named("t") };
        assert!(matches!(tokens.create(&Actor::system(), past).await, Err(IdentityError::Invalid { .. })));
    }

    async fn of_fifty_enrollments_at_once_exactly_the_allowed_ten_pass(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let tokens = fixture.identity.enrollment_tokens.clone();
        let new = NewEnrollmentToken { max_uses: Some(10), ..named("ten") };
        let (token, _) = tokens.create(&Actor::system(), new).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for host in 0..50 {
            let (tokens, database) = (tokens.clone(), fixture.db.database());
            tasks.spawn(async move {
                tokens.record_use(&mut &database, token.id, HostId(host), START).await
            });
        }
        let mut passed = 0;
        for counted in tasks.join_all().await {
            match counted {
                Ok(()) => passed += 1,
                other => assert_eq!(refused(other), RefusalReason::UsedUp),
            }
        }
        assert_eq!(passed, 10);
        let token = tokens.find(token.id).await.unwrap();
        assert_eq!((token.uses, token.used_at), (10, Some(START)));
        assert!(token.used_by.is_some());
        let again = tokens.record_again(&mut &*fixture.db, token.id, HostId(7), START).await.unwrap();
        assert_eq!(again, Readmission::UsedUp);
        let token = tokens.find(token.id).await.unwrap();
        assert_eq!((token.uses, token.reenrollments), (10, 1), "coming back does not use it up");
    }

    async fn a_token_that_ends_between_the_look_and_the_count_says_why(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (tokens, actor, host) = (&fixture.identity.enrollment_tokens, Actor::system(), HostId(7));
        let end = START.plus(Duration::from_secs(60));
        let new = NewEnrollmentToken { expires_at: Some(end), ..named("short") };
        let (token, _) = tokens.create(&actor, new).await.unwrap();
        let db = &mut &*fixture.db;
        tokens.record_use(db, token.id, host, START).await.unwrap();
        assert_eq!(refused(tokens.record_use(db, token.id, host, end).await), RefusalReason::Expired);
        assert_eq!(refused(tokens.record_again(db, token.id, host, end).await), RefusalReason::Expired);
        tokens.revoke(&actor, token.id).await.unwrap();
        assert_eq!(refused(tokens.record_use(db, token.id, host, START).await), RefusalReason::Revoked);
        assert_eq!(refused(tokens.record_again(db, token.id, host, START).await), RefusalReason::Revoked);
        let gone = EnrollmentTokenId(999);
        assert_eq!(refused(tokens.record_use(db, gone, host, START).await), RefusalReason::Unknown);
    }

    async fn a_token_that_is_bound_to_networks_admits_only_from_there(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (tokens, actor) = (&fixture.identity.enrollment_tokens, Actor::system());
        let networks = |texts: &[&str]| -> Vec<Network> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let bound = |texts: &[&str]| NewEnrollmentToken { networks: networks(texts), ..named("office") };
        let (token, secret) = tokens.create(&actor, bound(&["192.0.2.0/25", "2001:db8::/32"])).await.unwrap();
        assert_eq!(tokens.find(token.id).await.unwrap(), token);
        let day = Duration::from_secs(86_400);
        let rotated = tokens.rotate(&actor, token.id, day, muster_identity::Successor::default()).await.unwrap();
        assert_eq!(rotated.token.networks, token.networks);
        for secret in [&secret, &rotated.secret] {
            for inside in [address(1), ClientAddress("::ffff:192.0.2.127".parse().unwrap()),
                ClientAddress("2001:db8::1".parse().unwrap())] {
                assert!(tokens.admit(secret, Family::Osquery, inside, START).await.is_ok(), "{inside}");
            }
            for outside in [address(128), ClientAddress("2001:db9::1".parse().unwrap())] {
                let admitted = tokens.admit(secret, Family::Osquery, outside, START).await;
                assert_eq!(refused(admitted), RefusalReason::OtherNetwork, "{outside}");
            }
        }
        let many: Vec<String> = (0..65).map(|number| format!("10.0.{number}.0/24")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (wrong, advice) in [
            (&["10.1.2.3/8"][..], "write 10.0.0.0/8 for the network, or 10.1.2.3 for one address"),
            (&["::ffff:10.0.0.0/104"], "write 10.0.0.0, with its own prefix length"),
            (&["10.0.0.0/8", "10.0.0.0/8"], "leave one out"),
            (&many, "at most 64 networks"),
        ] {
            let error = tokens.create(&actor, bound(wrong)).await.unwrap_err();
            assert!(matches!(error, IdentityError::Invalid { field: "networks", .. }), "{error}");
            assert!(error.to_string().contains(advice), "{error}");
        }
        let labelled = NewEnrollmentToken { label_ids: vec![1], ..named("labelled") };
        let error = tokens.create(&actor, labelled).await.unwrap_err();
        assert!(matches!(error, IdentityError::Invalid { field: "label_ids", .. }), "nobody keeps labels here");
    }

    async fn a_secret_can_be_seen_again_and_that_is_kept(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let tokens = &fixture.identity.enrollment_tokens;
        let (token, secret) = tokens.create(&Actor::system(), named("laptops")).await.unwrap();
        assert_eq!(tokens.reveal(&Actor::system(), token.id).await.unwrap(), secret);
        let listing = muster_http::ListingQuery::default().check(&["id"]).unwrap();
        let filter = AuditFilter { subject_kind: Some("enrollment_token".into()), ..AuditFilter::default() };
        let log = fixture.identity.audit.list(&listing, &filter).await.unwrap();
        let actions: Vec<_> = log.items.iter().map(|record| record.action.as_str()).collect();
        assert_eq!(actions, ["created_enrollment_token", "revealed_enrollment_token"]);
        assert!(!serde_json::to_string(&log).unwrap().contains(&secret), "the log holds no secret");
        assert!(matches!(
            tokens.reveal(&Actor::system(), EnrollmentTokenId(999)).await,
            Err(IdentityError::NotFound { .. })
        ));
    }

    async fn secrets_that_end_are_listed_last_and_those_that_ended_not_at_all(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (tokens, actor) = (&fixture.identity.enrollment_tokens, Actor::system());
        let mut made = Vec::new();
        for (name, expires_at) in [("old", None), ("short", Some(START.plus(Duration::from_secs(60)))), ("long", None)] {
            let new = NewEnrollmentToken { name: name.to_owned(), expires_at, ..NewEnrollmentToken::default() };
            made.push(tokens.create(&actor, new).await.unwrap());
        }
        let listed = async || -> Vec<String> {
            let secrets = tokens.secrets(&actor, None).await.unwrap();
            secrets.into_iter().map(|secret| secret.secret).collect()
        };
        let [old, short, long] = [0, 1, 2].map(|index: usize| made[index].1.clone());
        assert_eq!(listed().await, [&*old, &*long, &*short]);
        let day = Duration::from_secs(24 * 3_600);
        let rotated = tokens.rotate(&actor, made[0].0.id, day, muster_identity::Successor::default()).await.unwrap();
        assert_eq!(listed().await, [&*long, &*rotated.secret, &*old, &*short]);
        fixture.clock.advance(day * 2);
        assert_eq!(listed().await, [&*long, &*rotated.secret]);
    }

    async fn replacing_secrets_keeps_revokes_and_adds(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (tokens, actor) = (&fixture.identity.enrollment_tokens, Actor::system());
        let team = fixture.identity.teams.create(&actor, "Laptops", "").await.unwrap();
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        tokens.replace_secrets(&actor, None, &texts(&["a", "b"])).await.unwrap();
        tokens.replace_secrets(&actor, Some(team.id), &texts(&["t"])).await.unwrap();
        let first = tokens.admit("b", Family::Osquery, HERE, START).await.unwrap();
        tokens.replace_secrets(&actor, None, &texts(&["b", "c"])).await.unwrap();
        assert_eq!(tokens.admit("b", Family::Osquery, HERE, START).await.unwrap(), first, "what stays is the same token");
        assert!(tokens.admit("a", Family::Osquery, HERE, START).await.is_err());
        assert_eq!(tokens.admit("t", Family::Orbit, HERE, START).await.unwrap().team_id, Some(team.id));
        let secrets = tokens.secrets(&actor, None).await.unwrap();
        assert_eq!(secrets.iter().map(|secret| secret.secret.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        for doubled in [texts(&["d", "d"]), texts(&["t"])] {
            let error = tokens.replace_secrets(&actor, None, &doubled).await.unwrap_err();
            assert!(matches!(error, IdentityError::Duplicate { .. }), "{error}");
        }
        let many: Vec<String> = (0..51).map(|number| format!("s{number}")).collect();
        assert!(tokens.replace_secrets(&actor, None, &many).await.is_err());
        assert_eq!(tokens.secrets(&actor, None).await.unwrap().len(), 2, "a refused list changes nothing");
        tokens.replace_secrets(&actor, None, &[]).await.unwrap();
        assert!(tokens.admit("b", Family::Osquery, HERE, START).await.is_err());
        assert_eq!(tokens.list(&TeamFilter::Only(vec![team.id]), true).await.unwrap().len(), 1);
        fixture.identity.teams.delete(&actor, team.id).await.unwrap();
        assert!(tokens.list(&TeamFilter::All, false).await.unwrap().is_empty());
    }

    async fn a_key_tells_its_host_from_memory(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let key = fixture.key(7, Family::Osquery).await;
        assert_eq!(key.len(), 32);
        assert_eq!(fixture.whose(&key, Family::Osquery).await.unwrap(), 7);
        assert!(matches!(fixture.whose("zzz", Family::Osquery).await, Err(AgentAuthError::Unknown)));
        assert!(matches!(fixture.whose(&key, Family::Orbit).await, Err(AgentAuthError::Unknown)));
        let before = fixture.db.statements();
        for _ in 0..100 {
            fixture.whose(&key, Family::Osquery).await.unwrap();
            fixture.whose("zzz", Family::Osquery).await.unwrap_err();
        }
        assert_eq!(fixture.db.statements(), before);
    }

    async fn an_older_key_stays_valid_until_the_new_one_is_used(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let first = fixture.key(7, Family::Osquery).await;
        let orbit = fixture.key(7, Family::Orbit).await;
        assert!(fixture.whose(&first, Family::Osquery).await.is_ok());
        let second = fixture.key(7, Family::Osquery).await;
        assert!(fixture.whose(&first, Family::Osquery).await.is_ok(), "the agent may never have got the new key");
        assert!(fixture.whose(&second, Family::Osquery).await.is_ok());
        assert!(matches!(fixture.whose(&first, Family::Osquery).await, Err(AgentAuthError::Unknown)));
        assert!(fixture.whose(&orbit, Family::Orbit).await.is_ok(), "another family's key is not touched");
        let keys = fixture.identity.agent_keys.list(HostId(7)).await.unwrap();
        assert_eq!(keys.iter().filter(|key| key.superseded_at.is_some()).count(), 1);
    }

    async fn revoked_keys_are_refused_on_every_replica(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let replica = fixture.replica().await;
        let stop = tokio_util::sync::CancellationToken::new();
        let maintenance = tokio::spawn({
            let (replica, stop) = (replica.clone(), stop.clone());
            async move { replica.run_maintenance(&muster_replicas::Lease::always(), stop).await }
        });
        let key = fixture.key(7, Family::Osquery).await;
        assert!(replica.agent_keys.authenticate(&key, Family::Osquery).await.is_ok());
        let keys = &fixture.identity.agent_keys;
        // The replica's task may not have subscribed yet: hints are repeated until it has heard one.
        keys.revoke_host(&mut &*fixture.db, HostId(7), muster_identity::RefusedKey::Deleted, START).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), async {
            while replica.agent_keys.authenticate(&key, Family::Osquery).await.is_ok() {
                keys.revoked(HostId(7)).await;
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the hint reaches the replica");
        assert!(matches!(fixture.whose(&key, Family::Osquery).await, Err(AgentAuthError::Unknown)));
        stop.cancel();
        maintenance.await.unwrap();
    }

    async fn a_database_that_is_away_is_never_a_refusal(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let known = fixture.key(7, Family::Osquery).await;
        let unseen = fixture.key(8, Family::Osquery).await;
        fixture.whose(&known, Family::Osquery).await.unwrap();
        fixture.db.close().await;
        assert_eq!(fixture.whose(&known, Family::Osquery).await.unwrap(), 7);
        assert!(matches!(fixture.whose(&unseen, Family::Osquery).await, Err(AgentAuthError::Unavailable(_))));
        let admitted = fixture.identity.enrollment_tokens.admit("s", Family::Osquery, HERE, START).await;
        assert!(matches!(admitted, Err(EnrollError::Unavailable(_))), "{admitted:?}");
    }

    async fn last_uses_are_written_by_the_last_maintenance(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let key = fixture.key(7, Family::Osquery).await;
        fixture.whose(&key, Family::Osquery).await.unwrap();
        fixture.clock.advance(Duration::from_secs(600));
        fixture.whose(&key, Family::Osquery).await.unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        stop.cancel();
        fixture.identity.run_maintenance(&muster_replicas::Lease::always(), stop).await;
        let keys = fixture.identity.agent_keys.list(HostId(7)).await.unwrap();
        assert_eq!(keys[0].used_at, Some(START.plus(Duration::from_secs(600))));
    }

    async fn keys_that_ended_a_month_ago_are_purged(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let keys = &fixture.identity.agent_keys;
        let first = fixture.key(7, Family::Osquery).await;
        fixture.whose(&first, Family::Osquery).await.unwrap();
        let second = fixture.key(7, Family::Osquery).await;
        fixture.clock.advance(Duration::from_secs(31 * 86_400));
        assert_eq!(keys.purge().await.unwrap(), 0, "the successor was never used");
        fixture.whose(&second, Family::Osquery).await.unwrap();
        fixture.clock.advance(Duration::from_secs(29 * 86_400));
        assert_eq!(keys.purge().await.unwrap(), 0);
        fixture.clock.advance(Duration::from_secs(86_400));
        assert_eq!(keys.purge().await.unwrap(), 1);
        assert_eq!(keys.list(HostId(7)).await.unwrap().len(), 1);
        assert!(fixture.whose(&second, Family::Osquery).await.is_ok());
    }
}
