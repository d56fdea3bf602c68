//! Teams, users, sessions and API tokens.

use std::collections::{HashMap, HashSet};

use muster_clock::Timestamp;
use muster_store::{Dialect, Executor, Row, StoreError, args, placeholders};

use crate::sessions::Session;
use crate::{ApiToken, Credential, Role, Team, TeamId, TeamRole, User, UserId};

muster_store::statements! {
    INSERT_TEAM = "INSERT INTO identity_teams (name, name_key, description, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $4) RETURNING id";
    UPDATE_TEAM = "UPDATE identity_teams SET name = $2, name_key = $3, description = $4, updated_at = $5 WHERE id = $1";
    DELETE_TEAM = "DELETE FROM identity_teams WHERE id = $1";
    FIND_TEAM = "SELECT id, name, description, created_at, updated_at FROM identity_teams WHERE id = $1";
    FIND_TEAM_BY_NAME = "SELECT id, name, description, created_at, updated_at FROM identity_teams WHERE name_key = $1";
    TEAM_IDS = "SELECT id FROM identity_teams";
    LIST_TEAMS = "SELECT id, name, description, created_at, updated_at FROM identity_teams ORDER BY name_key";

    COUNT_USERS = "SELECT COUNT(*) AS total FROM identity_users";
    COUNT_OTHER_ADMINS = "SELECT COUNT(*) AS total FROM identity_users
        WHERE role = 'admin' AND disabled = 0 AND api_only = 0 AND id <> $1";
    INSERT_USER = "INSERT INTO identity_users (name, email, email_key, password_hash, role, api_only,
        must_reset_password, disabled, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $8)
        RETURNING id";
    UPDATE_USER = "UPDATE identity_users SET name = $2, email = $3, email_key = $4, role = $5,
        must_reset_password = $6, disabled = $7, updated_at = $8 WHERE id = $1";
    DELETE_USER = "DELETE FROM identity_users WHERE id = $1";
    FIND_USER = "SELECT id, name, email, password_hash, role, api_only, must_reset_password, disabled, created_at,
        updated_at, (SELECT COUNT(*) FROM identity_second_factors f WHERE f.user_id = identity_users.id
        AND f.confirmed_at IS NOT NULL) AS second_factor FROM identity_users WHERE id = $1";
    FIND_USER_BY_EMAIL = "SELECT id, name, email, password_hash, role, api_only, must_reset_password, disabled,
        created_at, updated_at, (SELECT COUNT(*) FROM identity_second_factors f WHERE f.user_id = identity_users.id
        AND f.confirmed_at IS NOT NULL) AS second_factor
        FROM identity_users WHERE email_key = $1";
    LIST_USERS = "SELECT id, name, email, password_hash, role, api_only, must_reset_password, disabled, created_at,
        updated_at, (SELECT COUNT(*) FROM identity_second_factors f WHERE f.user_id = identity_users.id
        AND f.confirmed_at IS NOT NULL) AS second_factor FROM identity_users ORDER BY name, id";
    ALL_TEAM_ROLES = "SELECT user_id, team_id, role FROM identity_user_teams ORDER BY team_id";
    TEAM_ROLES = "SELECT user_id, team_id, role FROM identity_user_teams WHERE user_id = $1 ORDER BY team_id";
    DELETE_TEAM_ROLES = "DELETE FROM identity_user_teams WHERE user_id = $1";
    PASSWORD_HASH = "SELECT password_hash FROM identity_users WHERE id = $1";
    SET_PASSWORD = "UPDATE identity_users SET password_hash = $2, updated_at = $3,
        must_reset_password = 1 - api_only WHERE id = $1";
    REPLACE_PASSWORD = "UPDATE identity_users SET password_hash = $2, updated_at = $3, must_reset_password = 0
        WHERE id = $1 AND password_hash = $4";

    INSERT_SESSION = "INSERT INTO identity_sessions (user_id, token_hash, created_at, used_at, address)
        VALUES ($1, $2, $3, $3, $4) RETURNING id";
    FIND_SESSION = "SELECT id, user_id, used_at FROM identity_sessions WHERE token_hash = $1 AND used_at > $2";
    FIND_SESSION_BY_ID = "SELECT id, user_id, created_at, used_at, address FROM identity_sessions WHERE id = $1";
    LIST_SESSIONS = "SELECT id, user_id, created_at, used_at, address FROM identity_sessions
        WHERE user_id = $1 AND used_at > $2 ORDER BY id";
    NOTE_SESSION_USE = "UPDATE identity_sessions SET used_at = $2 WHERE id = $1";
    END_SESSION = "DELETE FROM identity_sessions WHERE id = $1";
    END_SESSIONS_OF = "DELETE FROM identity_sessions WHERE user_id = $1";
    END_OTHER_SESSIONS = "DELETE FROM identity_sessions WHERE user_id = $1 AND id <> $2";
    END_IDLE_SESSIONS = "DELETE FROM identity_sessions WHERE used_at <= $1";

    INSERT_API_TOKEN = "INSERT INTO identity_api_tokens (user_id, name, token_hash, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5) RETURNING id";
    FIND_API_TOKEN = "SELECT id, user_id, used_at FROM identity_api_tokens
        WHERE token_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)";
    FIND_VALID_API_TOKEN = "SELECT COALESCE(used_at, 0) AS used_at FROM identity_api_tokens
        WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)";
    LIST_API_TOKENS = "SELECT id, user_id, name, created_at, expires_at, used_at, revoked_at
        FROM identity_api_tokens WHERE user_id = $1 ORDER BY id DESC";
    NOTE_API_TOKEN_USE = "UPDATE identity_api_tokens SET used_at = $2 WHERE id = $1";
    REVOKE_API_TOKEN = "UPDATE identity_api_tokens SET revoked_at = $2 WHERE id = $1";
}

/// PostgreSQL lets two transactions count the same users; this makes them queue. SQLite's write lock does that already.
const LOCK_USERS: &str = "LOCK TABLE identity_users IN SHARE ROW EXCLUSIVE MODE";

fn id(rows: &[Row]) -> Result<i64, StoreError> {
    rows.first()
        .ok_or_else(|| StoreError::corrupt("insert a row", "no id came back"))?
        .get("id")
}

fn team(row: &Row) -> Result<Team, StoreError> {
    Ok(Team {
        id: row.get("id")?,
        name: row.get("name")?,
        description: row.get("description")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

pub(crate) async fn insert_team(db: &mut impl Executor, team: &Team) -> Result<TeamId, StoreError> {
    let args = args![
        &team.name,
        team.name.to_lowercase(),
        &team.description,
        team.created_at
    ];
    id(&db.execute_returning(INSERT_TEAM, args).await?).map(TeamId)
}

pub(crate) async fn update_team(db: &mut impl Executor, team: &Team) -> Result<(), StoreError> {
    let args = args![
        team.id,
        &team.name,
        team.name.to_lowercase(),
        &team.description,
        team.updated_at
    ];
    db.execute(UPDATE_TEAM, args).await.map(drop)
}

/// False: somebody was first.
pub(crate) async fn delete_team(db: &mut impl Executor, id: TeamId) -> Result<bool, StoreError> {
    Ok(db.execute(DELETE_TEAM, args![id]).await? == 1)
}

pub(crate) async fn team_ids(db: &mut impl Executor) -> Result<HashSet<TeamId>, StoreError> {
    let rows = db.fetch_all(TEAM_IDS, args![]).await?;
    rows.iter().map(|row| row.get("id")).collect()
}

pub(crate) async fn find_team(
    db: &mut impl Executor,
    id: TeamId,
) -> Result<Option<Team>, StoreError> {
    db.fetch_optional(FIND_TEAM, args![id])
        .await?
        .as_ref()
        .map(team)
        .transpose()
}

pub(crate) async fn find_team_by_name(
    db: &mut impl Executor,
    name: &str,
) -> Result<Option<Team>, StoreError> {
    let row = db
        .fetch_optional(FIND_TEAM_BY_NAME, args![name.trim().to_lowercase()])
        .await?;
    row.as_ref().map(team).transpose()
}

pub(crate) async fn list_teams(db: &mut impl Executor) -> Result<Vec<Team>, StoreError> {
    db.fetch_all(LIST_TEAMS, args![])
        .await?
        .iter()
        .map(team)
        .collect()
}

fn user(row: &Row, teams: Vec<TeamRole>) -> Result<User, StoreError> {
    Ok(User {
        id: row.get("id")?,
        name: row.get("name")?,
        email: row.get("email")?,
        global_role: row
            .get::<Option<String>>("role")?
            .as_deref()
            .map(Role::from_text),
        teams,
        api_only: row.get("api_only")?,
        must_reset_password: row.get("must_reset_password")?,
        disabled: row.get("disabled")?,
        second_factor: row.get("second_factor")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

fn team_role(row: &Row) -> Result<TeamRole, StoreError> {
    Ok(TeamRole {
        team_id: row.get("team_id")?,
        role: Role::from_text(&row.get::<String>("role")?),
    })
}

async fn team_roles(db: &mut impl Executor, id: UserId) -> Result<Vec<TeamRole>, StoreError> {
    db.fetch_all(TEAM_ROLES, args![id])
        .await?
        .iter()
        .map(team_role)
        .collect()
}

pub(crate) async fn lock_users(db: &mut impl Executor) -> Result<(), StoreError> {
    match db.dialect() {
        Dialect::Sqlite => Ok(()),
        Dialect::Postgres => db.execute(LOCK_USERS, args![]).await.map(drop),
    }
}

pub(crate) async fn count_users(db: &mut impl Executor) -> Result<i64, StoreError> {
    db.fetch_one(COUNT_USERS, args![]).await?.get("total")
}

pub(crate) async fn count_other_admins(
    db: &mut impl Executor,
    id: UserId,
) -> Result<i64, StoreError> {
    db.fetch_one(COUNT_OTHER_ADMINS, args![id])
        .await?
        .get("total")
}

pub(crate) async fn insert_user(
    db: &mut impl Executor,
    user: &User,
    hash: &str,
) -> Result<UserId, StoreError> {
    let args = args![
        &user.name,
        &user.email,
        user.email.to_lowercase(),
        hash,
        user.global_role.map(Role::name),
        user.api_only,
        user.must_reset_password,
        user.created_at,
    ];
    id(&db.execute_returning(INSERT_USER, args).await?).map(UserId)
}

pub(crate) async fn update_user(db: &mut impl Executor, user: &User) -> Result<(), StoreError> {
    let args = args![
        user.id,
        &user.name,
        &user.email,
        user.email.to_lowercase(),
        user.global_role.map(Role::name),
        user.must_reset_password,
        user.disabled,
        user.updated_at,
    ];
    db.execute(UPDATE_USER, args).await.map(drop)
}

pub(crate) async fn set_team_roles(
    db: &mut impl Executor,
    id: UserId,
    roles: &[TeamRole],
) -> Result<(), StoreError> {
    db.execute(DELETE_TEAM_ROLES, args![id]).await?;
    if roles.is_empty() {
        return Ok(());
    }
    let rows = placeholders(roles.len(), 3);
    let sql = format!("INSERT INTO identity_user_teams (user_id, team_id, role) VALUES {rows}");
    let args = roles
        .iter()
        .flat_map(|role| args![id, role.team_id, role.role.name()]);
    db.execute(&sql, args.collect()).await.map(drop)
}

pub(crate) async fn delete_user(db: &mut impl Executor, id: UserId) -> Result<(), StoreError> {
    db.execute(DELETE_USER, args![id]).await.map(drop)
}

pub(crate) async fn find_user(
    db: &mut impl Executor,
    id: UserId,
) -> Result<Option<User>, StoreError> {
    let Some(row) = db.fetch_optional(FIND_USER, args![id]).await? else {
        return Ok(None);
    };
    let teams = team_roles(db, id).await?;
    user(&row, teams).map(Some)
}

pub(crate) async fn find_user_by_email(
    db: &mut impl Executor,
    email: &str,
) -> Result<Option<(User, String)>, StoreError> {
    let row = db
        .fetch_optional(FIND_USER_BY_EMAIL, args![email.trim().to_lowercase()])
        .await?;
    let Some(row) = row else { return Ok(None) };
    let teams = team_roles(db, row.get("id")?).await?;
    Ok(Some((user(&row, teams)?, row.get("password_hash")?)))
}

pub(crate) async fn list_users(db: &mut impl Executor) -> Result<Vec<User>, StoreError> {
    let mut teams: HashMap<UserId, Vec<TeamRole>> = HashMap::new();
    for row in db.fetch_all(ALL_TEAM_ROLES, args![]).await? {
        teams
            .entry(row.get("user_id")?)
            .or_default()
            .push(team_role(&row)?);
    }
    let rows = db.fetch_all(LIST_USERS, args![]).await?;
    rows.iter()
        .map(|row| user(row, teams.remove(&row.get("id")?).unwrap_or_default()))
        .collect()
}

pub(crate) async fn password_hash(
    db: &mut impl Executor,
    id: UserId,
) -> Result<Option<String>, StoreError> {
    db.fetch_optional(PASSWORD_HASH, args![id])
        .await?
        .map(|row| row.get("password_hash"))
        .transpose()
}

/// Sets a password that replaces another, whose hash is `old`; gives false when that is not the user's any more.
pub(crate) async fn replace_password(
    db: &mut impl Executor,
    id: UserId,
    hash: &str,
    old: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let replaced = db
        .execute(REPLACE_PASSWORD, args![id, hash, now, old])
        .await?;
    Ok(replaced == 1)
}

/// Sets a password that has to be changed at the next login.
pub(crate) async fn set_password(
    db: &mut impl Executor,
    id: UserId,
    hash: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.execute(SET_PASSWORD, args![id, hash, now])
        .await
        .map(drop)
}

fn session(row: &Row) -> Result<Session, StoreError> {
    Ok(Session {
        id: row.get("id")?,
        user_id: row.get("user_id")?,
        created_at: row.get("created_at")?,
        used_at: row.get("used_at")?,
        address: row.get("address")?,
    })
}

pub(crate) async fn insert_session(
    db: &mut impl Executor,
    user: UserId,
    hash: &[u8; 32],
    address: &str,
    now: Timestamp,
) -> Result<i64, StoreError> {
    id(&db
        .execute_returning(INSERT_SESSION, args![user, hash, now, address])
        .await?)
}

pub(crate) async fn find_session(
    db: &mut impl Executor,
    hash: &[u8; 32],
    used_after: Timestamp,
) -> Result<Option<(i64, UserId, Timestamp)>, StoreError> {
    let row = db
        .fetch_optional(FIND_SESSION, args![hash, used_after])
        .await?;
    row.map(|row| Ok((row.get("id")?, row.get("user_id")?, row.get("used_at")?)))
        .transpose()
}

pub(crate) async fn find_session_by_id(
    db: &mut impl Executor,
    id: i64,
) -> Result<Option<Session>, StoreError> {
    db.fetch_optional(FIND_SESSION_BY_ID, args![id])
        .await?
        .as_ref()
        .map(session)
        .transpose()
}

pub(crate) async fn list_sessions(
    db: &mut impl Executor,
    user: UserId,
    used_after: Timestamp,
) -> Result<Vec<Session>, StoreError> {
    db.fetch_all(LIST_SESSIONS, args![user, used_after])
        .await?
        .iter()
        .map(session)
        .collect()
}

pub(crate) async fn note_use(
    db: &mut impl Executor,
    credential: Credential,
    now: Timestamp,
) -> Result<(), StoreError> {
    match credential {
        Credential::Session(id) => db.execute(NOTE_SESSION_USE, args![id, now]).await.map(drop),
        Credential::ApiToken(id) => db
            .execute(NOTE_API_TOKEN_USE, args![id, now])
            .await
            .map(drop),
    }
}

pub(crate) async fn end_session(db: &mut impl Executor, id: i64) -> Result<bool, StoreError> {
    Ok(db.execute(END_SESSION, args![id]).await? == 1)
}

pub(crate) async fn end_sessions_of(
    db: &mut impl Executor,
    user: UserId,
) -> Result<(), StoreError> {
    db.execute(END_SESSIONS_OF, args![user]).await.map(drop)
}

pub(crate) async fn end_other_sessions(
    db: &mut impl Executor,
    user: UserId,
    keep: Option<i64>,
) -> Result<(), StoreError> {
    db.execute(END_OTHER_SESSIONS, args![user, keep.unwrap_or(0)])
        .await
        .map(drop)
}

pub(crate) async fn end_idle_sessions(
    db: &mut impl Executor,
    used_before: Timestamp,
) -> Result<(), StoreError> {
    db.execute(END_IDLE_SESSIONS, args![used_before])
        .await
        .map(drop)
}

fn api_token(row: &Row) -> Result<ApiToken, StoreError> {
    Ok(ApiToken {
        id: row.get("id")?,
        user_id: row.get("user_id")?,
        name: row.get("name")?,
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
        used_at: row.get("used_at")?,
        revoked_at: row.get("revoked_at")?,
    })
}

pub(crate) async fn insert_api_token(
    db: &mut impl Executor,
    token: &ApiToken,
    hash: &[u8; 32],
) -> Result<i64, StoreError> {
    let args = args![
        token.user_id,
        &token.name,
        hash,
        token.created_at,
        token.expires_at
    ];
    id(&db.execute_returning(INSERT_API_TOKEN, args).await?)
}

pub(crate) async fn find_api_token(
    db: &mut impl Executor,
    hash: &[u8; 32],
    now: Timestamp,
) -> Result<Option<(i64, UserId, Option<Timestamp>)>, StoreError> {
    let row = db.fetch_optional(FIND_API_TOKEN, args![hash, now]).await?;
    row.map(|row| Ok((row.get("id")?, row.get("user_id")?, row.get("used_at")?)))
        .transpose()
}

/// When a token that is valid was last used; the epoch when it never was.
pub(crate) async fn find_valid_api_token(
    db: &mut impl Executor,
    id: i64,
    now: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let row = db
        .fetch_optional(FIND_VALID_API_TOKEN, args![id, now])
        .await?;
    row.map(|row| row.get("used_at")).transpose()
}

pub(crate) async fn list_api_tokens(
    db: &mut impl Executor,
    user: UserId,
) -> Result<Vec<ApiToken>, StoreError> {
    db.fetch_all(LIST_API_TOKENS, args![user])
        .await?
        .iter()
        .map(api_token)
        .collect()
}

pub(crate) async fn revoke_api_token(
    db: &mut impl Executor,
    id: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.execute(REVOKE_API_TOKEN, args![id, now]).await.map(drop)
}
