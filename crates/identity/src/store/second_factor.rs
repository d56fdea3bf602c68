//! Second factors and their recovery codes.

use muster_clock::Timestamp;
use muster_store::{Executor, StoreError, args, placeholders};

use crate::UserId;

muster_store::statements! {
    FIND = "SELECT sealed, confirmed_at FROM identity_second_factors WHERE user_id = $1";
    BEGIN = "INSERT INTO identity_second_factors (user_id, sealed, created_at) VALUES ($1, $2, $3)
        ON CONFLICT (user_id) DO UPDATE SET sealed = excluded.sealed, created_at = excluded.created_at
        WHERE identity_second_factors.confirmed_at IS NULL";
    CONFIRM = "UPDATE identity_second_factors SET confirmed_at = $4, last_step = $3
        WHERE user_id = $1 AND sealed = $2 AND confirmed_at IS NULL";
    USE_STEP = "UPDATE identity_second_factors SET last_step = $2 WHERE user_id = $1 AND last_step < $2
        AND confirmed_at IS NOT NULL";
    DELETE = "DELETE FROM identity_second_factors WHERE user_id = $1";
    COUNT_RECOVERY_CODES = "SELECT COUNT(*) AS total FROM identity_recovery_codes WHERE user_id = $1";
    USE_RECOVERY_CODE = "DELETE FROM identity_recovery_codes WHERE user_id = $1 AND code_hash = $2";
    DELETE_RECOVERY_CODES = "DELETE FROM identity_recovery_codes WHERE user_id = $1";
}

/// A second factor.
pub(crate) struct Kept {
    /// The shared secret, sealed.
    pub(crate) sealed: Vec<u8>,
    /// Since when logins need a code; none while the user sets it up.
    pub(crate) confirmed_at: Option<Timestamp>,
}

pub(crate) async fn find(db: &mut impl Executor, user: UserId) -> Result<Option<Kept>, StoreError> {
    let row = db.fetch_optional(FIND, args![user]).await?;
    row.map(|row| {
        Ok(Kept {
            sealed: row.get("sealed")?,
            confirmed_at: row.get("confirmed_at")?,
        })
    })
    .transpose()
}

/// False: there is one that counts.
pub(crate) async fn begin(
    db: &mut impl Executor,
    user: UserId,
    sealed: &[u8],
    now: Timestamp,
) -> Result<bool, StoreError> {
    Ok(db.execute(BEGIN, args![user, sealed, now]).await? == 1)
}

/// False: it counts already, or another was begun meanwhile.
pub(crate) async fn confirm(
    db: &mut impl Executor,
    user: UserId,
    sealed: &[u8],
    step: i64,
    now: Timestamp,
) -> Result<bool, StoreError> {
    Ok(db.execute(CONFIRM, args![user, sealed, step, now]).await? == 1)
}

/// False: the code of this step, or of a later one, was used.
pub(crate) async fn use_step(
    db: &mut impl Executor,
    user: UserId,
    step: i64,
) -> Result<bool, StoreError> {
    Ok(db.execute(USE_STEP, args![user, step]).await? == 1)
}

/// False: there was none.
pub(crate) async fn delete(db: &mut impl Executor, user: UserId) -> Result<bool, StoreError> {
    Ok(db.execute(DELETE, args![user]).await? == 1)
}

pub(crate) async fn count_recovery_codes(
    db: &mut impl Executor,
    user: UserId,
) -> Result<i64, StoreError> {
    db.fetch_one(COUNT_RECOVERY_CODES, args![user])
        .await?
        .get("total")
}

/// False: it is none of them, or was used.
pub(crate) async fn use_recovery_code(
    db: &mut impl Executor,
    user: UserId,
    hash: &[u8; 32],
) -> Result<bool, StoreError> {
    Ok(db.execute(USE_RECOVERY_CODE, args![user, hash]).await? == 1)
}

pub(crate) async fn delete_recovery_codes(
    db: &mut impl Executor,
    user: UserId,
) -> Result<(), StoreError> {
    db.execute(DELETE_RECOVERY_CODES, args![user])
        .await
        .map(drop)
}

pub(crate) async fn insert_recovery_codes(
    db: &mut impl Executor,
    user: UserId,
    hashes: &[[u8; 32]],
) -> Result<(), StoreError> {
    let rows = placeholders(hashes.len(), 2);
    let sql = format!("INSERT INTO identity_recovery_codes (user_id, code_hash) VALUES {rows}");
    let args = hashes.iter().flat_map(|hash| args![user, hash]).collect();
    db.execute(&sql, args).await.map(drop)
}
