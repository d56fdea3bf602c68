//! Enrollment tokens and agents that speak OpAMP.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use muster_identity::{
    Actor, CollectorId, EnrollError, EnrollmentTokenId, Family, HostId, IdentityError, KnownAgents,
    NewEnrollmentToken, Readmission, RefusalReason, Successor, TokenCollectors,
};
use muster_store::testing::on_both_databases;
use muster_store::{Database, Executor as _, StoreError, args};

use crate::{Fixture, HERE, START, address};

fn opamp(name: &str) -> NewEnrollmentToken {
    NewEnrollmentToken {
        name: name.to_owned(),
        families: vec![Family::Opamp],
        ..NewEnrollmentToken::default()
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, EnrollError>) -> RefusalReason {
    match result {
        Err(EnrollError::Refused(reason)) => reason,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// Three collectors live on a token.
struct Three(EnrollmentTokenId);

#[async_trait::async_trait]
impl TokenCollectors for Three {
    async fn without_key(
        &self,
        _: &Database,
        one: Option<EnrollmentTokenId>,
    ) -> Result<HashMap<EnrollmentTokenId, u64>, StoreError> {
        let is_asked = one.is_none_or(|one| one == self.0);
        Ok(is_asked.then_some((self.0, 3)).into_iter().collect())
    }
}

on_both_databases! {
    async fn a_token_says_what_is_done_with_known_agents(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (tokens, actor) = (&fixture.identity.enrollment_tokens, Actor::system());
        for known_agents in KnownAgents::ALL {
            let new = NewEnrollmentToken { known_agents: Some(known_agents), ephemeral: Some(true), ..opamp("t") };
            let (token, secret) = tokens.create(&actor, new).await.unwrap();
            assert_eq!((token.known_agents, token.ephemeral), (Some(known_agents), Some(true)));
            let admission = tokens.admit_collector(&secret, HERE, START).await.unwrap();
            assert_eq!((admission.token_id, admission.known_agents), (token.id, known_agents));
            assert!(admission.ephemeral && !admission.is_used_up);
            let later = tokens.check_collector(admission.secret, HERE, START).await.unwrap();
            assert_eq!(later, admission);
            let day = Duration::from_secs(86_400);
            let rotated = tokens.rotate(&actor, token.id, day, Successor::default()).await.unwrap();
            assert_eq!((rotated.token.known_agents, rotated.token.ephemeral), (Some(known_agents), Some(true)));
            assert_eq!(tokens.find(token.id).await.unwrap().known_agents, Some(known_agents));
        }
        let (plain, secret) = tokens.create(&actor, NewEnrollmentToken { name: "all".into(), ..NewEnrollmentToken::default() })
            .await.unwrap();
        assert_eq!((plain.known_agents, plain.ephemeral), (Some(KnownAgents::Adopt), Some(false)));
        assert_eq!(tokens.admit_collector(&secret, HERE, START).await.unwrap().known_agents, KnownAgents::Adopt);
        let hosts = NewEnrollmentToken { families: vec![Family::Osquery], ..opamp("hosts") };
        let (token, secret) = tokens.create(&actor, hosts.clone()).await.unwrap();
        assert_eq!((token.known_agents, token.ephemeral), (None, None));
        assert_eq!(refused(tokens.admit_collector(&secret, HERE, START).await), RefusalReason::OtherFamily);
        for (wrong, field) in [
            (NewEnrollmentToken { known_agents: Some(KnownAgents::Adopt), ..hosts.clone() }, "known_agents"),
            (NewEnrollmentToken { ephemeral: Some(true), ..hosts }, "ephemeral"),
        ] {
            let error = tokens.create(&actor, wrong).await.unwrap_err();
            assert!(matches!(error, IdentityError::Invalid { field: at, .. } if at == field), "{error}");
            assert!(error.to_string().contains("name opamp among the families"), "{error}");
        }
    }

    async fn a_secret_that_fleets_api_sets_is_for_hosts_alone(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (tokens, actor) = (&fixture.identity.enrollment_tokens, Actor::system());
        let (_, collectors) = tokens.create(&actor, opamp("collectors")).await.unwrap();
        let all = NewEnrollmentToken { name: "all".into(), ..NewEnrollmentToken::default() };
        let (all, everybodys) = tokens.create(&actor, all).await.unwrap();
        assert_eq!(all.families, Family::ALL);
        tokens.replace_secrets(&actor, None, &["fleets".to_owned(), everybodys.clone()]).await.unwrap();
        for family in [Family::Osquery, Family::Orbit] {
            assert!(tokens.admit("fleets", family, HERE, START).await.is_ok());
        }
        assert_eq!(refused(tokens.admit_collector("fleets", HERE, START).await), RefusalReason::OtherFamily);
        assert!(tokens.admit_collector(&everybodys, HERE, START).await.is_ok(), "it was made for all, and is the same");
        let shown: Vec<String> = tokens.secrets(&actor, None).await.unwrap().into_iter().map(|one| one.secret).collect();
        assert_eq!(shown, [everybodys.as_str(), "fleets"], "no host comes by what is for collectors");
        tokens.replace_secrets(&actor, None, &[]).await.unwrap();
        assert_eq!(refused(tokens.admit_collector(&everybodys, HERE, START).await), RefusalReason::Revoked);
        assert!(tokens.admit_collector(&collectors, HERE, START).await.is_ok(), "Fleet's API takes nothing from collectors");
        let theirs = tokens.replace_secrets(&actor, None, &[collectors]).await.unwrap_err();
        assert!(matches!(theirs, IdentityError::Duplicate { .. }), "{theirs}");
    }

    async fn a_token_for_all_of_a_release_before_opamp_admits_hosts_and_one_that_names_it_admits_collectors(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (tokens, actor) = (&fixture.identity.enrollment_tokens, Actor::system());
        let mut db = &*fixture.db;
        // What 0.1.0 to 0.3.0 write, whatever runs beside them: for all, and for families that were named.
        for (families, admits) in [("osquery,orbit,opamp,keylime", false), ("opamp", true), ("orbit,opamp", true)] {
            let (made, secret) = tokens.create(&actor, opamp("model")).await.unwrap();
            tokens.revoke(&actor, made.id).await.unwrap();
            let rows = db.execute_returning("INSERT INTO identity_enrollment_tokens (name, team_id, families, token_hash, sealed,
                created_at, expires_at, max_uses, networks) SELECT 'old', team_id, $2, token_hash, sealed, created_at, expires_at,
                max_uses, networks FROM identity_enrollment_tokens WHERE id = $1 RETURNING id", args![made.id, families])
                .await.unwrap();
            let id: EnrollmentTokenId = rows[0].get("id").unwrap();
            let replica = fixture.replica().await.enrollment_tokens;
            let admitted = replica.admit_collector(&secret, HERE, START).await;
            if admits {
                assert_eq!(admitted.unwrap().known_agents, KnownAgents::Adopt, "{families}");
                continue;
            }
            assert_eq!(refused(admitted), RefusalReason::OtherFamily);
            assert!(replica.admit(&secret, Family::Orbit, HERE, START).await.is_ok());
            let old = tokens.find(id).await.unwrap();
            let hosts = vec![Family::Osquery, Family::Orbit, Family::Keylime];
            assert_eq!((&old.families, old.known_agents, old.ephemeral), (&hosts, None, None), "and people see it");
            let rotated = tokens.rotate(&actor, id, Duration::from_secs(60), Successor::default()).await.unwrap();
            assert_eq!(rotated.token.families, hosts);
        }
    }

    async fn a_collectors_token_is_refused_for_the_same_reasons_as_a_hosts(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (tokens, actor) = (&fixture.identity.enrollment_tokens, Actor::system());
        let end = START.plus(Duration::from_secs(60));
        let networks = vec!["192.0.2.0/25".parse().unwrap()];
        let new = NewEnrollmentToken { expires_at: Some(end), networks, ..opamp("office") };
        let (token, secret) = tokens.create(&actor, new).await.unwrap();
        let admission = tokens.admit_collector(&secret, HERE, START).await.unwrap();
        assert_eq!(refused(tokens.admit_collector(&secret, address(128), START).await), RefusalReason::OtherNetwork);
        assert_eq!(refused(tokens.check_collector(admission.secret, address(128), START).await), RefusalReason::OtherNetwork);
        assert_eq!(refused(tokens.admit_collector(&secret, HERE, end).await), RefusalReason::Expired);
        let mut db = &*fixture.db;
        let one = CollectorId(1);
        assert_eq!(refused(tokens.record_collector_use(&mut db, token.id, one, end).await), RefusalReason::Expired);
        assert_eq!(refused(tokens.record_collector_again(&mut db, token.id, one, end).await), RefusalReason::Expired);
        for wrong in ["", "nope", &"x".repeat(10_000)] {
            assert_eq!(refused(tokens.admit_collector(wrong, HERE, START).await), RefusalReason::Unknown);
        }
        let before = fixture.db.statements();
        for _ in 0..100 {
            tokens.check_collector(admission.secret, HERE, START).await.unwrap();
            tokens.admit_collector("nope", HERE, START).await.unwrap_err();
        }
        assert_eq!(fixture.db.statements(), before, "neither the right secret nor a wrong one costs a statement");
        tokens.revoke(&actor, token.id).await.unwrap();
        assert_eq!(refused(tokens.check_collector(admission.secret, HERE, START).await), RefusalReason::Revoked);
    }

    async fn the_last_use_of_a_token_raced_by_two_goes_to_exactly_one(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let tokens = fixture.identity.enrollment_tokens.clone();
        for round in 0..10 {
            let replica = fixture.replica().await.enrollment_tokens;
            let new = NewEnrollmentToken { max_uses: Some(1), ..opamp("one") };
            let (token, secret) = tokens.create(&Actor::system(), new).await.unwrap();
            let enroll = async |tokens: &muster_identity::EnrollmentTokens, collector: i64| {
                let admitted = tokens.admit_collector(&secret, HERE, START).await.unwrap();
                assert_eq!(admitted.token_id, token.id);
                let mut db = fixture.db.database().begin().await.unwrap();
                let counted = tokens.record_collector_use(&mut db, token.id, CollectorId(collector), START).await;
                if counted.is_ok() {
                    db.commit().await.unwrap();
                }
                counted
            };
            let (one, other) = tokio::join!(enroll(&tokens, 2 * round + 1), enroll(&replica, 2 * round + 2));
            assert_eq!([&one, &other].iter().filter(|counted| counted.is_ok()).count(), 1, "{one:?} {other:?}");
            let loser = if one.is_ok() { other } else { one };
            assert_eq!(refused(loser), RefusalReason::UsedUp);
            let token = tokens.find(token.id).await.unwrap();
            assert_eq!((token.uses, token.reenrollments, token.used_by), (1, 0, None));
            let collector = token.used_by_collector.unwrap();

            // Whoever came by it goes on, though nobody else may come.
            let again = tokens.record_collector_again(&mut &*fixture.db, token.id, collector, START).await.unwrap();
            assert_eq!(again, Readmission::UsedUp);
            let later = fixture.replica().await.enrollment_tokens.admit_collector(&secret, HERE, START).await.unwrap();
            assert!(later.is_used_up, "it is admitted, and known to be used up");
            assert_eq!(tokens.find(token.id).await.unwrap().reenrollments, 1);
        }
    }

    async fn a_token_tells_whether_a_host_or_a_collector_came_by_it_last(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let tokens = &fixture.identity.enrollment_tokens;
        let new = NewEnrollmentToken { name: "all".into(), ..NewEnrollmentToken::default() };
        let (token, _) = tokens.create(&Actor::system(), new).await.unwrap();
        let db = &mut &*fixture.db;
        let last = async || {
            let token = tokens.find(token.id).await.unwrap();
            (token.used_by, token.used_by_collector)
        };
        tokens.record_collector_use(db, token.id, CollectorId(3), START).await.unwrap();
        assert_eq!(last().await, (None, Some(CollectorId(3))));
        tokens.record_use(db, token.id, HostId(4), START).await.unwrap();
        assert_eq!(last().await, (Some(HostId(4)), None));
        tokens.record_collector_again(db, token.id, CollectorId(3), START).await.unwrap();
        assert_eq!(last().await, (None, Some(CollectorId(3))));
        tokens.record_again(db, token.id, HostId(4), START).await.unwrap();
        assert_eq!(last().await, (Some(HostId(4)), None));
    }

    async fn a_token_tells_how_many_collectors_its_end_cuts_off(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (tokens, actor) = (&fixture.identity.enrollment_tokens, Actor::system());
        let (token, _) = tokens.create(&actor, opamp("used")).await.unwrap();
        let (other, _) = tokens.create(&actor, opamp("unused")).await.unwrap();
        tokens.attach_collectors(Arc::new(Three(token.id)));
        assert_eq!(tokens.find(token.id).await.unwrap().collectors_without_key, Some(3));
        assert_eq!(tokens.find(other.id).await.unwrap().collectors_without_key, None);
        let day = Duration::from_secs(86_400);
        let rotated = tokens.rotate(&actor, token.id, day, Successor::default()).await.unwrap();
        let warning = rotated.old.rotation.unwrap().warning.unwrap();
        assert!(warning.ends_with("3 collector(s) have no key of their own and live on it"), "{warning}");
    }

    async fn of_many_that_find_the_tokens_old_one_reads_them(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let tokens = fixture.identity.enrollment_tokens.clone();
        let (_, secret) = tokens.create(&Actor::system(), opamp("storm")).await.unwrap();
        let before = fixture.db.statements();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let (tokens, secret) = (tokens.clone(), secret.clone());
            tasks.spawn(async move { tokens.admit_collector(&secret, HERE, START).await.unwrap() });
        }
        tasks.join_all().await;
        assert_eq!(fixture.db.statements(), before + 2, "one statement for the good ones, one for the revoked ones");
    }
}
