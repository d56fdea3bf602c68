//! Which master key belongs to the database.

use muster_store::{Executor, StoreError, args};

muster_store::statements! {
    // The first key that comes stays.
    CLAIM = "INSERT INTO identity_master_key (id, fingerprint) VALUES (1, $1) ON CONFLICT DO NOTHING";
    FIND = "SELECT fingerprint FROM identity_master_key WHERE id = 1";
}

/// The fingerprint of the key that belongs to the database: this one, when there was none.
pub(crate) async fn claim(
    db: &mut impl Executor,
    fingerprint: &[u8; 32],
) -> Result<[u8; 32], StoreError> {
    db.execute(CLAIM, args![fingerprint]).await?;
    db.fetch_one(FIND, args![]).await?.get("fingerprint")
}

/// The fingerprint of the key that belongs to the database, when there is one.
pub(crate) async fn find(db: &mut impl Executor) -> Result<Option<[u8; 32]>, StoreError> {
    let row = db.fetch_optional(FIND, args![]).await?;
    row.map(|row| row.get("fingerprint")).transpose()
}
