//! Second factors, with the codes that `oathtool` computes.

use std::process::Command;
use std::time::Duration;

use muster_clock::Clock as _;
use muster_identity::{Actor, AuditFilter, Enrolment, IdentityError, NewUser, Role, UserId};
use muster_store::testing::on_both_databases;

use crate::{Fixture, PASSWORD, address, new_user};

const EMAIL: &str = "ann@example.com";

/// What an app with that secret shows now.
fn code(fixture: &Fixture, secret: &str) -> String {
    let now = format!("@{}", fixture.clock.now().as_seconds());
    let output = Command::new("oathtool")
        .args(["--totp", "--base32", "--now", &now, secret])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn log_in(fixture: &Fixture, code: Option<&str>) -> Result<String, IdentityError> {
    let sessions = &fixture.identity.sessions;
    let login = sessions.log_in(EMAIL, PASSWORD, code, address(1)).await?;
    Ok(login.token)
}

/// A user with a second factor, and its recovery codes.
async fn enabled(fixture: &Fixture) -> (UserId, Enrolment, Vec<String>) {
    let users = &fixture.identity.users;
    let ann = users
        .create(&Actor::system(), new_user(EMAIL, Role::Admin))
        .await
        .unwrap()
        .id;
    let second = &fixture.identity.second_factor;
    let begun = second.begin(ann, PASSWORD).await.unwrap();
    let shown = code(fixture, &begun.secret);
    let codes = second
        .confirm(&Actor::system(), ann, &shown, None)
        .await
        .unwrap();
    fixture.clock.advance(Duration::from_secs(30));
    (ann, begun, codes)
}

async fn reasons(fixture: &Fixture, action: &str) -> Vec<String> {
    let listing = muster_http::ListingQuery::default().check(&["id"]).unwrap();
    let filter = AuditFilter {
        action: Some(action.to_owned()),
        ..AuditFilter::default()
    };
    let page = fixture
        .identity
        .audit
        .list(&listing, &filter)
        .await
        .unwrap();
    let reason = |record: &muster_identity::AuditRecord| {
        record.after.as_ref().unwrap()["reason"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    page.items.iter().map(reason).collect()
}

on_both_databases! {
    async fn a_login_with_a_second_factor_needs_a_code_that_counts_once(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (ann, begun, codes) = enabled(&fixture).await;
        assert_eq!(codes.len(), 10);
        assert!(matches!(log_in(&fixture, None).await, Err(IdentityError::SecondFactorRequired)));
        assert!(matches!(log_in(&fixture, Some("000000")).await, Err(IdentityError::SecondFactorWrong)));
        let shown = code(&fixture, &begun.secret);
        log_in(&fixture, Some(&shown)).await.unwrap();
        assert!(matches!(log_in(&fixture, Some(&shown)).await, Err(IdentityError::SecondFactorWrong)), "used");
        let replica = fixture.replica().await;
        let again = replica.sessions.log_in(EMAIL, PASSWORD, Some(&shown), address(1)).await;
        assert!(matches!(again.err(), Some(IdentityError::SecondFactorWrong)), "used at another replica");
        fixture.clock.advance(Duration::from_secs(30));
        let next = code(&fixture, &begun.secret);
        log_in(&fixture, Some(&format!(" {next} "))).await.unwrap();
        assert!(fixture.identity.users.find(ann).await.unwrap().second_factor);
        assert_eq!(reasons(&fixture, "failed_login").await, ["wrong_code", "wrong_code", "wrong_code"]);
    }

    async fn a_wrong_password_is_not_told_that_a_code_is_needed(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (_, begun, _) = enabled(&fixture).await;
        let shown = code(&fixture, &begun.secret);
        for typed in [None, Some(shown.as_str())] {
            let refused = fixture.identity.sessions.log_in(EMAIL, "wrong", typed, address(1)).await;
            assert!(matches!(refused.err(), Some(IdentityError::AuthenticationFailed)));
        }
        log_in(&fixture, Some(&shown)).await.unwrap();
    }

    async fn a_recovery_code_is_good_for_one_login(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (ann, _, codes) = enabled(&fixture).await;
        let typed = codes[3].to_uppercase().replace('-', " ");
        log_in(&fixture, Some(&typed)).await.unwrap();
        assert!(matches!(log_in(&fixture, Some(&codes[3])).await, Err(IdentityError::SecondFactorWrong)));
        assert_eq!(fixture.identity.second_factor.state(ann).await.unwrap().recovery_codes, 9);
        let second = &fixture.identity.second_factor;
        // Codes are limited, these too.
        fixture.clock.advance(Duration::from_secs(600));
        let new = second.renew_codes(&Actor::system(), ann, PASSWORD, &codes[0]).await.unwrap();
        assert!(matches!(log_in(&fixture, Some(&codes[1])).await, Err(IdentityError::SecondFactorWrong)), "void");
        log_in(&fixture, Some(&new[0])).await.unwrap();
    }

    async fn who_guesses_codes_has_to_wait(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (_, begun, _) = enabled(&fixture).await;
        fixture.clock.advance(Duration::from_secs(3600));
        for guess in 0..5 {
            let refused = log_in(&fixture, Some(&format!("{guess:06}"))).await;
            assert!(matches!(refused, Err(IdentityError::SecondFactorWrong)));
        }
        let shown = code(&fixture, &begun.secret);
        let refused = log_in(&fixture, Some(&shown)).await;
        assert!(matches!(refused, Err(IdentityError::TooMany { seconds: 1..=60 })), "the right one, too");
        assert_eq!(reasons(&fixture, "failed_login").await.last().unwrap(), "too_many_codes");
        fixture.clock.advance(Duration::from_secs(60));
        log_in(&fixture, Some(&code(&fixture, &begun.secret))).await.unwrap();
    }

    async fn nothing_changes_before_a_code_was_shown(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (users, second) = (&fixture.identity.users, &fixture.identity.second_factor);
        let actor = Actor::system();
        let ann = users.create(&actor, new_user(EMAIL, Role::Admin)).await.unwrap().id;
        assert!(matches!(second.confirm(&actor, ann, "000000", None).await, Err(IdentityError::Conflict { .. })));
        let wrong = second.begin(ann, "wrong").await;
        assert!(matches!(wrong, Err(IdentityError::Invalid { field: "password", .. })));
        let first = second.begin(ann, PASSWORD).await.unwrap();
        log_in(&fixture, None).await.unwrap();
        let begun = second.begin(ann, PASSWORD).await.unwrap();
        let stale = second.confirm(&actor, ann, &code(&fixture, &first.secret), None).await;
        assert!(matches!(stale, Err(IdentityError::Invalid { field: "code", .. })), "it was replaced");
        let kept = fixture.identity.sessions.list(ann).await.unwrap();
        log_in(&fixture, None).await.unwrap();
        second.confirm(&actor, ann, &code(&fixture, &begun.secret), Some(kept[0].id)).await.unwrap();
        let left = fixture.identity.sessions.list(ann).await.unwrap();
        assert_eq!((left.len(), left[0].id), (1, kept[0].id), "the others began without a code");
        assert!(matches!(second.begin(ann, PASSWORD).await, Err(IdentityError::Conflict { .. })));
        let program = NewUser { api_only: true, ..new_user("ci@example.com", Role::Admin) };
        let program = users.create(&actor, program).await.unwrap().id;
        assert!(matches!(second.begin(program, PASSWORD).await, Err(IdentityError::Invalid { field: "user", .. })));
    }

    async fn a_second_factor_goes_by_proof_or_by_an_admin(db: TestDatabase) {
        let fixture = Fixture::new(db).await;
        let (ann, begun, codes) = enabled(&fixture).await;
        let (second, actor) = (&fixture.identity.second_factor, Actor::system());
        let wrong = second.disable(&actor, ann, PASSWORD, "000000").await;
        assert!(matches!(wrong, Err(IdentityError::Invalid { field: "code", .. })));
        second.disable(&actor, ann, PASSWORD, &codes[0]).await.unwrap();
        log_in(&fixture, None).await.unwrap();
        fixture.clock.advance(Duration::from_secs(600));
        let anew = second.begin(ann, PASSWORD).await.unwrap();
        assert_ne!(anew.secret, begun.secret);
        second.confirm(&actor, ann, &code(&fixture, &anew.secret), None).await.unwrap();
        assert!(log_in(&fixture, None).await.is_err());
        second.remove(&actor, ann).await.unwrap();
        second.remove(&actor, ann).await.unwrap();
        log_in(&fixture, None).await.unwrap();
        assert_eq!(second.state(ann).await.unwrap().recovery_codes, 0);
    }
}
