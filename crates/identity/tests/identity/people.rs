//! Users, sessions, API tokens and teams.

use std::time::Duration;

use muster_identity::{
    Action, Actor, AuditFilter, IdentityError, NewApiToken, NewPassword, NewUser, Role, Scope,
    TeamFilter, TeamRole, UserChange,
};
use muster_store::testing::on_both_databases;

use crate::{Fixture, PASSWORD, START, address, new_user};

on_both_databases! {
    async fn the_first_user_is_made_once_even_when_two_try_at_once(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (users, replica) = (&fixture.identity.users, fixture.replica().await);
        assert!(!users.any().await.unwrap());
        let link = fixture.identity.setup.reveal().await.unwrap().unwrap();
        assert_eq!(Some(&link), replica.setup.reveal().await.unwrap().as_ref(), "every replica takes it");
        assert!(replica.setup.is(&link) && !replica.setup.is("mst_setup_nope"));
        let actor = Actor::system();
        let (one, two) = tokio::join!(
            users.create_first(&actor, new_user("ann@example.com", Role::Observer)),
            replica.users.create_first(&actor, new_user("bob@example.com", Role::Observer)),
        );
        let made: Vec<_> = [one.unwrap(), two.unwrap()].into_iter().flatten().collect();
        assert_eq!(made.len(), 1);
        assert_eq!(made[0].global_role, Some(Role::Admin), "the first user is an admin");
        assert!(users.any().await.unwrap() && replica.users.any().await.unwrap());
        assert!(fixture.identity.setup.reveal().await.unwrap().is_none(), "the link is void");
    }

    async fn two_changes_of_a_user_at_once_are_both_kept(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let users = fixture.identity.users.clone();
        let id = users.create(&Actor::system(), new_user("ann@example.com", Role::Admin)).await.unwrap().id;
        for round in 0..10 {
            let changes = [
                UserChange { name: Some(format!("Ann {round}")), ..UserChange::default() },
                UserChange { email: Some(format!("ann{round}@example.com")), ..UserChange::default() },
            ];
            let changing = changes.map(|change| {
                let users = users.clone();
                tokio::spawn(async move { users.change(&Actor::system(), id, change).await.is_ok() })
            });
            for changing in changing {
                assert!(changing.await.unwrap());
            }
            let now = users.find(id).await.unwrap();
            assert_eq!((now.name, now.email), (format!("Ann {round}"), format!("ann{round}@example.com")));
        }
    }

    async fn a_login_begins_a_session_that_ends_when_it_is_not_used(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let identity = &fixture.identity;
        identity.users.create(&Actor::system(), new_user("Ann@Example.com", Role::Admin)).await.unwrap();
        let login = identity.sessions.log_in(" ann@example.com ", PASSWORD, None, address(1)).await.unwrap();
        assert!(login.token.starts_with("mst_session_"));
        let principal = identity.sessions.authenticate(&login.token, address(2)).await.unwrap().unwrap();
        assert_eq!((principal.email.as_str(), principal.global_role), ("Ann@Example.com", Some(Role::Admin)));
        for wrong in ["", "nope", "mst_api_nope", &"x".repeat(10_000)] {
            assert!(identity.sessions.authenticate(wrong, address(1)).await.unwrap().is_none());
        }
        fixture.clock.advance(Duration::from_secs(4 * 24 * 3600));
        assert!(identity.sessions.authenticate(&login.token, address(1)).await.unwrap().is_some());
        fixture.clock.advance(Duration::from_secs(4 * 24 * 3600));
        assert!(identity.sessions.authenticate(&login.token, address(1)).await.unwrap().is_some(), "use keeps it");
        fixture.clock.advance(Duration::from_secs(6 * 24 * 3600));
        assert!(identity.sessions.authenticate(&login.token, address(1)).await.unwrap().is_none());
    }

    async fn a_wrong_password_and_an_unknown_or_disabled_account_look_the_same(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (identity, actor) = (&fixture.identity, Actor::system());
        identity.users.create(&actor, new_user("ann@example.com", Role::Admin)).await.unwrap();
        let bob = identity.users.create(&actor, new_user("bob@example.com", Role::Observer)).await.unwrap();
        let bobs = identity.sessions.log_in("bob@example.com", PASSWORD, None, address(1)).await.unwrap();
        let disable = UserChange { disabled: Some(true), ..UserChange::default() };
        identity.users.change(&actor, bob.id, disable).await.unwrap();
        assert!(identity.sessions.authenticate(&bobs.token, address(1)).await.unwrap().is_none());
        for (email, password) in
            [("ann@example.com", "wrong"), ("bob@example.com", PASSWORD), ("eve@example.com", PASSWORD), ("", "")]
        {
            let refused = identity.sessions.log_in(email, password, None, address(1)).await.err().unwrap();
            assert!(matches!(refused, IdentityError::AuthenticationFailed), "{email}: {refused}");
        }
        let listing = muster_http::ListingQuery::default().check(&["id"]).unwrap();
        let failed = AuditFilter { action: Some("failed_login".into()), ..AuditFilter::default() };
        assert_eq!(identity.audit.list(&listing, &failed).await.unwrap().total, 4);
        let all = identity.audit.list(&listing, &AuditFilter::default()).await.unwrap().total;
        fixture.clock.advance(Duration::from_secs(89 * 24 * 3600));
        assert_eq!(identity.audit.forget_denials().await.unwrap(), 0);
        fixture.clock.advance(Duration::from_secs(2 * 24 * 3600));
        assert_eq!(identity.audit.forget_denials().await.unwrap(), 4);
        assert_eq!(identity.audit.list(&listing, &AuditFilter::default()).await.unwrap().total, all - 4, "changes stay");

        fixture.clock.advance(Duration::from_secs(24 * 3600));
        identity.teams.create(&actor, "Late", "").await.unwrap();
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(identity.audit.expire(93 * day).await.unwrap(), 0);
        assert_eq!(identity.audit.expire(91 * day).await.unwrap(), all - 4);
        let left = identity.audit.list(&listing, &AuditFilter::default()).await.unwrap().items;
        assert_eq!(left.iter().map(|entry| &*entry.action).collect::<Vec<_>>(), ["created_team"]);
    }

    async fn logins_are_limited_per_account_and_per_address(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let identity = &fixture.identity;
        identity.users.create(&Actor::system(), new_user("ann@example.com", Role::Admin)).await.unwrap();
        for _ in 0..10 {
            let refused = identity.sessions.log_in("ann@example.com", "wrong", None, address(1)).await.err().unwrap();
            assert!(matches!(refused, IdentityError::AuthenticationFailed));
        }
        let refused = identity.sessions.log_in("ann@example.com", PASSWORD, None, address(2)).await.err().unwrap();
        assert!(matches!(refused, IdentityError::TooMany { seconds } if seconds > 0), "{refused}");
        fixture.clock.advance(Duration::from_secs(10));
        assert!(identity.sessions.log_in("ann@example.com", PASSWORD, None, address(2)).await.is_ok());
    }

    async fn accounts_of_programs_log_in_by_fleets_api_only(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (identity, actor) = (&fixture.identity, Actor::system());
        let program = NewUser { api_only: true, ..new_user("ci@example.com", Role::Maintainer) };
        let program = identity.users.create(&actor, program).await.unwrap();
        let sessions = &identity.sessions;
        let refused = sessions.log_in("ci@example.com", PASSWORD, None, address(1)).await.err().unwrap();
        assert!(matches!(refused, IdentityError::AuthenticationFailed), "{refused}");
        let login = sessions.log_in_as_in_fleet("ci@example.com", PASSWORD, address(1)).await.unwrap();
        let principal = sessions.authenticate(&login.token, address(1)).await.unwrap().unwrap();
        assert_eq!(principal.user_id, program.id);
        assert!(sessions.log_in_as_in_fleet("ci@example.com", "wrong", address(1)).await.is_err());
        let made_up = identity.users.reset_password(&actor, program.id, None).await.unwrap();
        assert!(sessions.authenticate(&login.token, address(1)).await.unwrap().is_none(), "sessions end with the password");
        let login = sessions.log_in_as_in_fleet("ci@example.com", &made_up, address(1)).await.unwrap();
        let principal = sessions.authenticate(&login.token, address(1)).await.unwrap().unwrap();
        assert!(!principal.must_reset_password, "a program cannot set a new one");
    }

    async fn api_tokens_act_for_their_user_until_they_end(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (identity, actor) = (&fixture.identity, Actor::system());
        identity.users.create(&actor, new_user("ann@example.com", Role::Admin)).await.unwrap();
        let program = NewUser { api_only: true, ..new_user("ci@example.com", Role::Maintainer) };
        let program = identity.users.create(&actor, program).await.unwrap();
        assert!(identity.sessions.log_in("ci@example.com", PASSWORD, None, address(1)).await.is_err());
        let end = START.plus(Duration::from_secs(3600));
        let new = NewApiToken { name: "pipeline".into(), expires_at: Some(end) };
        let (token, secret) = identity.api_tokens.create(&actor, program.id, new).await.unwrap();
        assert!(secret.starts_with("mst_api_"));
        let principal = identity.sessions.authenticate(&secret, address(1)).await.unwrap().unwrap();
        assert_eq!(principal.user_id, program.id);
        assert_eq!(identity.api_tokens.list(program.id).await.unwrap()[0].used_at, Some(START));
        identity.api_tokens.revoke(&actor, program.id, token.id).await.unwrap();
        assert!(identity.sessions.authenticate(&secret, address(1)).await.unwrap().is_none());
        let new = NewApiToken { name: "pipeline".into(), expires_at: Some(end) };
        let (_, secret) = identity.api_tokens.create(&actor, program.id, new).await.unwrap();
        fixture.clock.set(end);
        assert!(identity.sessions.authenticate(&secret, address(1)).await.unwrap().is_none());
    }

    async fn users_are_checked_and_an_admin_always_stays(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (users, actor) = (&fixture.identity.users, Actor::system());
        let ann = users.create(&actor, new_user("ann@example.com", Role::Admin)).await.unwrap();
        let team = fixture.identity.teams.create(&actor, "Laptops", "").await.unwrap();
        let member = TeamRole { team_id: team.id, role: Role::Observer };
        let cases = [
            NewUser { name: " ".into(), ..new_user("x@example.com", Role::Observer) },
            NewUser { email: "nobody".into(), ..new_user("x@example.com", Role::Observer) },
            NewUser { password: "short".into(), ..new_user("x@example.com", Role::Observer) },
            NewUser { global_role: None, ..new_user("x@example.com", Role::Observer) },
            NewUser { teams: vec![member], ..new_user("x@example.com", Role::Observer) },
            NewUser { global_role: None, teams: vec![member; 2], ..new_user("x@example.com", Role::Observer) },
        ];
        for (number, case) in cases.into_iter().enumerate() {
            let refused = users.create(&actor, case).await;
            assert!(matches!(refused, Err(IdentityError::Invalid { .. })), "case {number}");
        }
        let doubled = users.create(&actor, new_user("ANN@example.com", Role::Observer)).await;
        assert!(matches!(doubled, Err(IdentityError::Duplicate { .. })));
        let bob = NewUser { global_role: None, teams: vec![member], ..new_user("bob@example.com", Role::Observer) };
        let bob = users.create(&actor, bob).await.unwrap();
        assert_eq!(users.find(bob.id).await.unwrap().teams, [member]);
        assert_eq!(users.list(Some(team.id)).await.unwrap().len(), 1);
        assert!(users.delete(&actor, ann.id).await.is_err(), "the last admin stays");
        let demote = UserChange { roles: Some((Some(Role::Observer), vec![])), ..UserChange::default() };
        assert!(users.change(&actor, ann.id, demote.clone()).await.is_err());
        let promote = UserChange { roles: Some((Some(Role::Admin), vec![])), ..UserChange::default() };
        users.change(&actor, bob.id, promote).await.unwrap();
        users.change(&actor, ann.id, demote).await.unwrap();
        users.delete(&actor, ann.id).await.unwrap();
        assert!(matches!(users.find(ann.id).await, Err(IdentityError::NotFound { .. })));
    }

    async fn a_change_that_is_refused_leaves_the_password_as_it_was(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (identity, actor) = (&fixture.identity, Actor::system());
        identity.users.create(&actor, new_user("ann@example.com", Role::Admin)).await.unwrap();
        let bob = identity.users.create(&actor, new_user("bob@example.com", Role::Observer)).await.unwrap();
        let change = |email: &str| UserChange {
            email: Some(email.to_owned()),
            password: Some(NewPassword { text: "another password 1#".to_owned(), old: None, keep_session: None }),
            ..UserChange::default()
        };
        assert!(identity.users.change(&actor, bob.id, change("ann@example.com")).await.is_err());
        assert!(identity.users.knows_password(bob.id, PASSWORD).await.unwrap());
        identity.users.change(&actor, bob.id, change("rob@example.com")).await.unwrap();
        assert!(identity.sessions.log_in("rob@example.com", "another password 1#", None, address(1)).await.is_ok());
    }

    async fn a_password_is_changed_by_who_knows_it_and_other_sessions_end(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (identity, actor) = (&fixture.identity, Actor::system());
        let new = NewUser { must_reset_password: true, ..new_user("ann@example.com", Role::Admin) };
        let ann = identity.users.create(&actor, new).await.unwrap();
        let one = identity.sessions.log_in("ann@example.com", PASSWORD, None, address(1)).await.unwrap();
        let two = identity.sessions.log_in("ann@example.com", PASSWORD, None, address(1)).await.unwrap();
        let principal = identity.sessions.authenticate(&one.token, address(1)).await.unwrap().unwrap();
        assert!(principal.must_reset_password);
        let sessions = identity.sessions.list(ann.id).await.unwrap();
        let change = |old: &'static str, new: &'static str| {
            identity.users.change_password(&actor, ann.id, old, new, Some(sessions[0].id))
        };
        assert!(matches!(change("wrong", "other-password-1").await, Err(IdentityError::Invalid { field: "old_password", .. })));
        assert!(matches!(change(PASSWORD, PASSWORD).await, Err(IdentityError::Invalid { field: "new_password", .. })));
        assert!(!change(PASSWORD, "other-password-1").await.unwrap().must_reset_password);
        assert!(identity.sessions.authenticate(&one.token, address(1)).await.unwrap().is_some());
        assert!(identity.sessions.authenticate(&two.token, address(1)).await.unwrap().is_none());
        assert!(identity.sessions.log_in("ann@example.com", "other-password-1", None, address(1)).await.is_ok());
    }

    async fn of_two_changes_of_a_password_at_once_one_holds_and_a_reset_always_does(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (identity, actor) = (&fixture.identity, Actor::system());
        let ann = identity.users.create(&actor, new_user("ann@example.com", Role::Admin)).await.unwrap();
        let change = |old: &'static str, new: &'static str| identity.users.change_password(&actor, ann.id, old, new, None);
        let (one, two) = tokio::join!(change(PASSWORD, "the first one 11"), change(PASSWORD, "the second one 22"));
        assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
        let lost = one.err().or(two.err()).unwrap();
        assert!(matches!(lost, IdentityError::Invalid { field: "old_password", .. }), "{lost}");

        let known = "known to a thief 1";
        identity.users.reset_password(&actor, ann.id, Some(known.to_owned())).await.unwrap();
        let (reset, _) = tokio::join!(
            identity.users.reset_password(&actor, ann.id, Some("of the admin 22".to_owned())),
            change(known, "of the thief 33"),
        );
        reset.unwrap();
        assert!(identity.users.knows_password(ann.id, "of the admin 22").await.unwrap());
        assert!(identity.users.find(ann.id).await.unwrap().must_reset_password);
    }

    async fn team_names_are_unique_and_members_see_their_teams(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (identity, actor) = (&fixture.identity, Actor::system());
        let laptops = identity.teams.create(&actor, "Laptops", "carried around").await.unwrap();
        let servers = identity.teams.create(&actor, "Servers", "").await.unwrap();
        assert!(matches!(identity.teams.create(&actor, " LAPTOPS", "").await, Err(IdentityError::Duplicate { .. })));
        for name in [" ", "No team", "all TEAMS "] {
            assert!(matches!(identity.teams.create(&actor, name, "").await, Err(IdentityError::Invalid { .. })), "{name}");
            let renamed = identity.teams.change(&actor, laptops.id, Some(name), None).await;
            assert!(matches!(renamed, Err(IdentityError::Invalid { .. })), "{name}");
        }
        let renamed = identity.teams.change(&actor, laptops.id, Some("Notebooks"), None).await.unwrap();
        assert_eq!((renamed.name.as_str(), renamed.description.as_str()), ("Notebooks", "carried around"));
        assert_eq!(identity.teams.find_by_name("notebooks").await.unwrap().unwrap().id, laptops.id);
        let role = TeamRole { team_id: laptops.id, role: Role::Maintainer };
        let ann = NewUser { global_role: None, teams: vec![role], ..new_user("ann@example.com", Role::Observer) };
        identity.users.create(&actor, ann).await.unwrap();
        let login = identity.sessions.log_in("ann@example.com", PASSWORD, None, address(1)).await.unwrap();
        let ann = identity.sessions.authenticate(&login.token, address(1)).await.unwrap().unwrap();
        assert_eq!(identity.teams.list(&ann.visible_teams()).await.unwrap().len(), 1);
        assert!(ann.authorize(Action::WriteHosts, Scope::Team(Some(laptops.id))).is_ok());
        assert_eq!(ann.authorize(Action::WriteHosts, Scope::Team(Some(servers.id))).unwrap_err().status(), 403);
        assert_eq!(identity.teams.list(&TeamFilter::All).await.unwrap().len(), 2);
        identity.teams.delete(&actor, laptops.id).await.unwrap();
        let ann = identity.sessions.authenticate(&login.token, address(1)).await.unwrap().unwrap();
        assert!(ann.teams.is_empty(), "roles go with the team");
    }
}
