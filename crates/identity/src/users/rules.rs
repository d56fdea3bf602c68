//! What a user may look like.

use std::collections::HashSet;

use muster_store::ErrorKind;
use serde_json::json;

use super::{TeamRole, User};
use crate::{IdentityError, Role, TeamId};

/// The longest name or address, in characters.
const MAX_TEXT_CHARACTERS: usize = 255;

pub(super) fn shown(user: &User) -> serde_json::Value {
    json!({
        "name": user.name, "email": user.email, "global_role": user.global_role, "teams": user.teams,
        "api_only": user.api_only, "disabled": user.disabled,
    })
}

pub(super) fn duplicate(error: muster_store::StoreError, email: &str) -> IdentityError {
    match error.kind() {
        ErrorKind::Duplicate => IdentityError::Duplicate {
            what: format!("a user with the address {email:?}"),
        },
        _ => error.into(),
    }
}

pub(super) fn check_text<'a>(field: &'static str, text: &'a str) -> Result<&'a str, IdentityError> {
    let text = text.trim();
    let characters = text.chars().count();
    if characters == 0 || characters > MAX_TEXT_CHARACTERS || text.chars().any(char::is_control) {
        let reason = format!("must have from 1 to {MAX_TEXT_CHARACTERS} printable characters");
        return Err(IdentityError::invalid(field, reason));
    }
    Ok(text)
}

pub(super) fn check_email(email: &str) -> Result<&str, IdentityError> {
    let email = check_text("email", email)?;
    match email.split_once('@') {
        Some((user, host))
            if !user.is_empty() && !host.is_empty() && !email.contains(char::is_whitespace) =>
        {
            Ok(email)
        }
        _ => Err(IdentityError::invalid(
            "email",
            "must be an address such as ann@example.com",
        )),
    }
}

/// A program can never set a new password, and its tokens would be refused for ever.
pub(super) fn check_reset(must_reset: bool, api_only: bool) -> Result<(), IdentityError> {
    if must_reset && api_only {
        let reason = "an account for programs cannot be made to set a new password";
        return Err(IdentityError::invalid("must_reset_password", reason));
    }
    Ok(())
}

pub(super) fn check_roles(
    global_role: Option<Role>,
    teams: &[TeamRole],
) -> Result<(), IdentityError> {
    let distinct: HashSet<TeamId> = teams.iter().map(|role| role.team_id).collect();
    if distinct.len() != teams.len() {
        return Err(IdentityError::invalid("teams", "names a team twice"));
    }
    match (global_role, teams.is_empty()) {
        (None, true) => Err(IdentityError::invalid(
            "global_role",
            "either global role or team role needs to be defined",
        )),
        (Some(_), false) => Err(IdentityError::invalid(
            "global_role",
            "Cannot specify both Global Role and Team Roles",
        )),
        _ => Ok(()),
    }
}
