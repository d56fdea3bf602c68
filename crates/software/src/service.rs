//! Keeping inventories, and looking through them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use muster_clock::Timestamp;
use muster_http::{Listing, Page};
use muster_identity::{HostId, TeamId};
use muster_store::{Database, ErrorKind, Executor, StoreError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{MAX_ENTRIES_PER_HOST, SoftwareEntry, store};

/// How many versions are remembered by their checksum, so that the hosts of a fleet, which have much the same software,
/// need not look each one up. Some 60 bytes each; forgotten all at once when there are more.
const MAX_REMEMBERED_VERSIONS: usize = 200_000;

/// How long no host has a version before it is swept away: long enough for a host that comes back with it.
const UNUSED_FOR: Duration = Duration::from_secs(6 * 60 * 60);

/// A version of a piece of software, and how many hosts have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SoftwareVersion {
    /// Its id.
    pub id: i64,
    /// The title that it is a version of.
    pub title_id: i64,
    /// What it is called.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Which inventory it comes from: `deb_packages`, `rpm_packages`, …
    pub source: String,
    /// The browser that an extension belongs to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub browser: String,
    /// The id of an extension.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub extension_id: String,
    /// The identifier of a macOS bundle.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bundle_identifier: String,
    /// The release of a package.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub release: String,
    /// Who made it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    /// Its architecture.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub arch: String,
    /// How many of the hosts that the reader may see have it; 0 in the inventory of one host.
    pub hosts_count: i64,
}

/// A title with its versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SoftwareTitle {
    /// Its id.
    pub id: i64,
    /// What it is called.
    pub name: String,
    /// Which inventory it comes from.
    pub source: String,
    /// The browser that an extension belongs to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub browser: String,
    /// How many hosts have any version of it.
    pub hosts_count: i64,
    /// Its versions.
    pub versions: Vec<TitleVersion>,
}

/// A version within a title.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TitleVersion {
    /// Its id.
    pub id: i64,
    /// The version.
    pub version: String,
    /// How many hosts have it.
    pub hosts_count: i64,
}

/// Whose software is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// Every host's.
    All,
    /// That of the hosts in these teams.
    Teams(Vec<TeamId>),
    /// That of the hosts without a team.
    NoTeam,
}

/// A host's inventory whose entries all exist in the database: what [`Software::replace_for_host`] takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    versions: BTreeSet<i64>,
}

impl Inventory {
    /// How many pieces of software it has.
    pub fn len(&self) -> usize {
        self.versions.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// What it amounts to: the same for the same versions.
    fn checksum(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        for version in &self.versions {
            context.update(&version.to_le_bytes());
        }
        let digest = context.finish();
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// The inventories of all hosts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Software {
    database: Database,
    remembered: Arc<Mutex<HashMap<[u8; 32], i64>>>,
}

impl Software {
    /// Inventories in a database.
    pub fn new(database: Database) -> Self {
        Self {
            database,
            remembered: Arc::default(),
        }
    }

    /// Looks up what a host reports, and makes what no host had before.
    ///
    /// It works outside of any unit of work, since what it makes is right whether or not the host's inventory is kept;
    /// so call it before one is begun: on SQLite only one can write.
    pub async fn prepare(&self, entries: Vec<SoftwareEntry>) -> Result<Inventory, StoreError> {
        let reported = entries.len();
        let entries: BTreeSet<SoftwareEntry> = entries
            .into_iter()
            .filter_map(SoftwareEntry::normalized)
            .take(MAX_ENTRIES_PER_HOST)
            .collect();
        if reported > MAX_ENTRIES_PER_HOST {
            tracing::warn!(
                reported,
                kept = MAX_ENTRIES_PER_HOST,
                "a host reports more software than is kept"
            );
        }
        let mut versions = BTreeSet::new();
        let mut unknown = Vec::new();
        {
            let remembered = self
                .remembered
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for entry in &entries {
                let checksum = entry.checksum();
                match remembered.get(&checksum) {
                    Some(id) => drop(versions.insert(*id)),
                    None => unknown.push((entry, checksum)),
                }
            }
        }
        if !unknown.is_empty() {
            let mut db = &self.database;
            let checksums: Vec<_> = unknown.iter().map(|(_, checksum)| *checksum).collect();
            let mut found = store::find_versions(&mut db, &checksums).await?;
            let missing: Vec<_> = unknown
                .iter()
                .filter(|(_, checksum)| !found.contains_key(checksum))
                .copied()
                .collect();
            if !missing.is_empty() {
                store::insert_versions(&mut db, &missing).await?;
                let checksums: Vec<_> = missing.iter().map(|(_, checksum)| *checksum).collect();
                found.extend(store::find_versions(&mut db, &checksums).await?);
            }
            versions.extend(found.values().copied());
            let mut remembered = self
                .remembered
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if remembered.len() + found.len() > MAX_REMEMBERED_VERSIONS {
                remembered.clear();
            }
            remembered.extend(found);
        }
        Ok(Inventory { versions })
    }

    /// Forgets which versions are known: some of them may be gone.
    pub fn forget_versions(&self) {
        let remembered = self.remembered.lock();
        remembered.unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Sweeps versions away that no host had for some hours, with titles that are left without one; so many at a time
    /// that nobody waits for it. Gives how many versions there were. A host that reports one of them at this very moment
    /// gets an error that names a missing reference: then [`forget_versions`](Self::forget_versions), prepare again.
    pub async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut db = &self.database;
        store::mark_unused(&mut db, now).await?;
        let unused = store::unused(&mut db, now.minus(UNUSED_FOR)).await?;
        let mut swept = 0;
        for batch in unused.chunks(store::SWEPT_AT_ONCE) {
            match store::delete_unused(&mut db, batch).await {
                Ok(count) => swept += count,
                // A host got one of them meanwhile.
                Err(error) if error.kind() == ErrorKind::Reference => {}
                Err(error) => return Err(error),
            }
        }
        if swept > 0 {
            self.forget_versions();
            tracing::info!(swept, "swept away software that no host has");
        }
        Ok(swept)
    }

    /// Makes a host's inventory what it reported: writes only what differs. Software of `kept_sources` stays even when
    /// it was not reported, since it could not be. Gives whether anything changed.
    pub async fn replace_for_host(
        &self,
        db: &mut impl Executor,
        host: HostId,
        team: Option<TeamId>,
        inventory: &Inventory,
        kept_sources: &[&str],
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let checksum = inventory.checksum();
        if kept_sources.is_empty() && store::checksum(db, host).await? == Some(checksum) {
            store::touch(db, host, team, &checksum, now).await?;
            return Ok(false);
        }
        let current = store::current(db, host).await?;
        let mut wanted = inventory.clone();
        if !kept_sources.is_empty() {
            wanted
                .versions
                .extend(store::current_from(db, host, kept_sources).await?);
        }
        let gone: Vec<i64> = current.difference(&wanted.versions).copied().collect();
        let new: Vec<i64> = wanted.versions.difference(&current).copied().collect();
        store::touch(db, host, team, &wanted.checksum(), now).await?;
        store::remove(db, host, &gone).await?;
        store::add(db, host, &new).await?;
        Ok(!gone.is_empty() || !new.is_empty())
    }

    /// Forgets the inventories of hosts that are deleted.
    pub async fn forget(&self, db: &mut impl Executor, hosts: &[HostId]) -> Result<(), StoreError> {
        store::forget(db, hosts).await
    }

    /// Follows hosts into another team.
    pub async fn transfer(
        &self,
        db: &mut impl Executor,
        hosts: &[HostId],
        team: Option<TeamId>,
    ) -> Result<(), StoreError> {
        store::transfer(db, hosts, team).await
    }

    /// Follows all hosts of a team out of it.
    pub async fn leave_team(&self, db: &mut impl Executor, team: TeamId) -> Result<(), StoreError> {
        store::leave_team(db, team).await
    }

    /// The software of one host.
    pub async fn of_host(&self, host: HostId) -> Result<Vec<SoftwareVersion>, StoreError> {
        store::of_host(&mut &self.database, host).await
    }

    /// A page of the versions that hosts have. Sortable by [`VERSION_SORTS`].
    pub async fn versions(
        &self,
        visible: &Visible,
        listing: &Listing,
    ) -> Result<Page<SoftwareVersion>, StoreError> {
        self.page_of_versions(visible, None, listing).await
    }

    /// A page of the versions that one host has, if it is among those visible. Sortable by [`VERSION_SORTS`].
    pub async fn versions_of_host(
        &self,
        visible: &Visible,
        host: HostId,
        listing: &Listing,
    ) -> Result<Page<SoftwareVersion>, StoreError> {
        self.page_of_versions(visible, Some(host), listing).await
    }

    async fn page_of_versions(
        &self,
        visible: &Visible,
        host: Option<HostId>,
        listing: &Listing,
    ) -> Result<Page<SoftwareVersion>, StoreError> {
        let listing = with_column(listing, "v");
        let mut db = &self.database;
        let (items, total) = store::list_versions(&mut db, visible, host, &listing).await?;
        Ok(listing.page(items, total))
    }

    /// One version, when a visible host has it.
    pub async fn version(
        &self,
        visible: &Visible,
        id: i64,
    ) -> Result<Option<SoftwareVersion>, StoreError> {
        store::find_version(&mut &self.database, visible, id).await
    }

    /// A page of the titles that hosts have. Sortable by [`TITLE_SORTS`].
    pub async fn titles(
        &self,
        visible: &Visible,
        listing: &Listing,
    ) -> Result<Page<SoftwareTitle>, StoreError> {
        let listing = with_column(listing, "t");
        let (items, total) =
            store::list_titles(&mut &self.database, visible, &listing, None).await?;
        Ok(listing.page(items, total))
    }

    /// One title, when a visible host has it.
    pub async fn title(
        &self,
        visible: &Visible,
        id: i64,
    ) -> Result<Option<SoftwareTitle>, StoreError> {
        let listing = Listing {
            limit: 1,
            offset: 0,
            sort: "t.name",
            direction: muster_http::OrderDirection::Ascending,
            search: None,
        };
        let (items, _) =
            store::list_titles(&mut &self.database, visible, &listing, Some(id)).await?;
        Ok(items.into_iter().next())
    }

    /// When an inventory of a visible host last arrived.
    pub async fn counted_at(&self, visible: &Visible) -> Result<Option<Timestamp>, StoreError> {
        store::newest(&mut &self.database, visible).await
    }
}

/// What versions can be sorted by; the first is the default.
pub const VERSION_SORTS: &[&str] = &["name", "version", "source", "hosts_count", "id"];
/// What titles can be sorted by; the first is the default.
pub const TITLE_SORTS: &[&str] = &["name", "source", "hosts_count", "id"];

/// Turns the field that people name into the column that SQL means.
fn with_column(listing: &Listing, table: &str) -> Listing {
    let sort = match (table, listing.sort) {
        (_, "hosts_count") => "c.hosts_count",
        ("v", "version") => "v.version",
        ("v", "source") => "v.source",
        ("v", "id") => "v.id",
        ("v", _) => "v.name",
        (_, "source") => "t.source",
        (_, "id") => "t.id",
        _ => "t.name",
    };
    Listing {
        sort,
        ..listing.clone()
    }
}
