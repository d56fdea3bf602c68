//! Users, sessions, setup and passwords.

use std::collections::BTreeMap;

use muster_clock::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::OrgInfo;
use crate::reading::{or_default, present, respelled};
use crate::team::TeamSummary;
use crate::{Empty, Secret};

/// A user. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// When the account was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Its number.
    pub id: i64,
    /// The person's name.
    pub name: String,
    /// The address to log in with.
    pub email: String,
    /// The password must be changed before anything else is allowed.
    pub force_password_reset: bool,
    /// A picture's address; empty here.
    pub gravatar_url: String,
    /// Logs in elsewhere.
    pub sso_enabled: bool,
    /// Confirms each login by mail.
    pub mfa_enabled: bool,
    /// The role everywhere; `null` when roles are per team.
    pub global_role: Option<String>,
    /// A program's account.
    pub api_only: bool,
    /// The roles per team; empty when there is a role everywhere.
    #[serde(deserialize_with = "or_default")]
    pub teams: Vec<UserTeam>,
    /// What the console remembers, in lists of users only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<UserSettings>,
}

/// What Fleet's console remembers of a user. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserSettings {
    /// Columns that the user does not want to see.
    pub hidden_host_columns: Option<Vec<String>>,
}

/// A user's role in a team. Written by servers and clients, read by both; fleetctl wraps it in a whole empty team.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserTeam {
    /// The team's number.
    pub id: i64,
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Its description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// The role there.
    #[serde(deserialize_with = "or_default")]
    pub role: String,
}

/// `POST …/login`. Written by clients, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LoginRequest {
    /// The address.
    #[serde(deserialize_with = "or_default")]
    pub email: String,
    /// The password.
    pub password: Secret,
    /// The client could show that a mail was sent; fleetctl of 2025 says that it cannot.
    #[serde(deserialize_with = "or_default")]
    pub supports_email_verification: bool,
}

/// The answer to a login. Written by servers, read by clients.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LoginAnswer {
    /// Who logged in.
    pub user: User,
    /// The teams that the user can choose from.
    #[serde(deserialize_with = "or_default")]
    pub available_teams: Vec<TeamSummary>,
    /// What stands in `Authorization: Bearer` from now on.
    pub token: Secret,
}

/// The answer to `GET …/me` and `GET …/users/{id}`. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeAnswer {
    /// The user.
    pub user: User,
    /// The teams that the user can choose from.
    #[serde(deserialize_with = "or_default")]
    pub available_teams: Vec<TeamSummary>,
}

/// `GET …/users`. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsersAnswer {
    /// The users.
    pub users: Vec<User>,
}

/// One user after a change; a new program's account comes with its token, which is never shown again. Written by
/// servers, read by clients.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UserAnswer {
    /// The user.
    pub user: User,
    /// The token of a new program's account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
}

/// `POST /api/v1/setup`. Written by fleetctl and the console, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SetupRequest {
    /// The first user, who becomes an admin.
    #[serde(deserialize_with = "or_default")]
    pub admin: SetupAdmin,
    /// The organisation.
    #[serde(deserialize_with = "or_default")]
    pub org_info: OrgInfo,
    /// Under which address agents and people reach the server.
    #[serde(deserialize_with = "or_default")]
    pub server_url: String,
}

/// The first user. Written by clients, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SetupAdmin {
    /// The person's name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The address to log in with.
    #[serde(deserialize_with = "or_default")]
    pub email: String,
    /// The password.
    pub password: Secret,
}

/// The answer to the setup. Written by servers, read by clients.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SetupAnswer {
    /// The first user.
    pub admin: User,
    /// The organisation.
    pub org_info: OrgInfo,
    /// The address as it was given.
    pub server_url: String,
    /// Always `null`: enrollment tokens are made on their own.
    pub osquery_enroll_secret: Option<Empty>,
    /// The first user's session.
    pub token: Secret,
}

/// `POST …/change_password`. Written by clients, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ChangePasswordRequest {
    /// The password until now.
    pub old_password: Secret,
    /// The password from now on.
    pub new_password: Secret,
}

/// `POST …/perform_required_password_reset`. Written by clients, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RequiredResetRequest {
    /// The password from now on.
    pub new_password: Secret,
}

/// `POST …/users/admin`. Written by clients, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, remote = "Self")]
pub struct CreateUserRequest {
    /// The person's name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The address to log in with.
    #[serde(deserialize_with = "or_default")]
    pub email: String,
    /// The first password.
    pub password: Secret,
    /// Logs in elsewhere.
    #[serde(deserialize_with = "or_default")]
    pub sso_enabled: bool,
    /// Confirms each login by mail.
    #[serde(deserialize_with = "or_default")]
    pub mfa_enabled: bool,
    /// The role everywhere.
    #[serde(deserialize_with = "crate::reading::filled")]
    pub global_role: Option<String>,
    /// A program's account.
    #[serde(deserialize_with = "or_default")]
    pub api_only: bool,
    /// Whether the password must be changed at the first login; Fleet's answer to absence is yes.
    pub admin_forced_password_reset: Option<bool>,
    /// The roles per team.
    #[serde(deserialize_with = "or_default")]
    pub teams: Vec<UserTeam>,
}
respelled!(CreateUserRequest: "fleets" => "teams");

/// `PATCH …/users/{id}`; absent members stay as they are. Written by clients, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, remote = "Self")]
pub struct ModifyUserRequest {
    /// The person's name.
    pub name: Option<String>,
    /// The address to log in with.
    pub email: Option<String>,
    /// The user's present password, needed to change the own address.
    pub password: Option<Secret>,
    /// A new password, set by an admin.
    pub new_password: Option<Secret>,
    /// The role everywhere; `null` takes it away.
    #[serde(deserialize_with = "present")]
    pub global_role: Option<Option<String>>,
    /// The roles per team.
    pub teams: Option<Vec<UserTeam>>,
}
respelled!(ModifyUserRequest: "fleets" => "teams");

/// `POST …/users/roles/spec`: `{"spec": {"roles": {"<address>": …}}}`. Written by fleetctl, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RolesRequest {
    /// The document.
    #[serde(deserialize_with = "or_default")]
    pub spec: RolesSpec,
}

/// Roles by address. Written by fleetctl, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RolesSpec {
    /// The roles of each user who is named.
    #[serde(deserialize_with = "or_default")]
    pub roles: BTreeMap<String, RoleSpec>,
}

/// The roles of one user. Written by fleetctl, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, remote = "Self")]
pub struct RoleSpec {
    /// The role everywhere.
    #[serde(deserialize_with = "crate::reading::filled")]
    pub global_role: Option<String>,
    /// The roles per team.
    #[serde(deserialize_with = "or_default")]
    pub teams: Vec<TeamRoleSpec>,
}
respelled!(RoleSpec: "fleets" => "teams");

/// A role in a team by its name. Written by fleetctl, read by servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, remote = "Self")]
pub struct TeamRoleSpec {
    /// The team's name.
    #[serde(deserialize_with = "or_default")]
    pub team: String,
    /// The role there.
    #[serde(deserialize_with = "or_default")]
    pub role: String,
}
respelled!(TeamRoleSpec: "fleet" => "team");

/// A session. Written by servers, read by clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// Its number.
    pub session_id: i64,
    /// Whose it is.
    pub user_id: i64,
    /// When it began.
    pub created_at: Timestamp,
}

/// `GET …/users/{id}/sessions`; `null` when there is none. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionsAnswer {
    /// The sessions.
    pub sessions: Option<Vec<Session>>,
}

/// `POST …/translate`: numbers for names. Written by fleetctl, and with the numbers filled in by servers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Translate {
    /// What to translate, in the order of the answer.
    #[serde(deserialize_with = "or_default")]
    pub list: Vec<TranslateItem>,
}

/// One name to translate. Written by fleetctl and servers, read by both.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TranslateItem {
    /// `user`, `label`, `team` or `host`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// Name and number.
    #[serde(deserialize_with = "or_default")]
    pub payload: TranslatePayload,
}

/// A name and the number of what bears it. Written by fleetctl and servers, read by both.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TranslatePayload {
    /// The name, address, or what identifies a host.
    #[serde(deserialize_with = "or_default")]
    pub identifier: String,
    /// The number; 0 in requests.
    #[serde(deserialize_with = "or_default")]
    pub id: i64,
}

/// `GET /api/v1/fleet/sso`: how people log in elsewhere. Written by servers, read by the console.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SsoSettingsAnswer {
    /// The identity provider; `null` when there is none.
    pub settings: Option<Value>,
}
