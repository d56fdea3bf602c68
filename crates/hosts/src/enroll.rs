//! Enrollment: an agent shows a token and gets a key for its host.
//!
//! One unit of work finds or makes the host, counts the token's use, decides about the team and makes the key. A host
//! comes into the team and the labels of its token. When it enrolls again with the token that it last used, it stays where
//! operators moved it since; a different token moves it.
//!
//! A token whose uses are used up still admits the hosts that came by it, and only them: an agent that lost its key could
//! not come back otherwise. Whoever has such a token and knows what identifies the host can do so as well, so each time
//! is counted and stands in the host's timeline.

use muster_http::ClientAddress;
use muster_identity::{
    Actor, Admission, DENIED_ENROLLMENT, Denial, EnrollError, EnrollmentTokenId, Family, HostId,
    IssuedKey, Readmission, RefusalReason,
};
use muster_store::{ErrorKind, StoreError, Transaction};
use muster_wire_fleet::orbit;
use muster_wire_osquery::EnrollRequest;
use serde_json::json;

use crate::agents::Agents;
use crate::clones;
use crate::detail::facts;
use crate::error::HostsError;
use crate::matching::{self, identifier_key};
use crate::record::{HostFacts, HostRecord, IdentifierSource};
use crate::store;

/// The longest identifier in bytes.
const MAX_IDENTIFIER_BYTES: usize = 255;
/// How often an enrollment is tried when another one made the same host at the same moment.
const MAX_TRIES: u32 = 3;

/// What an agent says of its hardware, when it can be looked for: no database keeps a NUL, so that nothing has one.
fn said(text: &str) -> &str {
    if text.contains('\0') { "" } else { text }
}

/// The address of a peer, as it is kept with a host; none when it is not known.
pub(crate) fn kept_address(address: ClientAddress) -> Option<String> {
    (!address.0.is_unspecified()).then(|| address.to_string())
}

/// Who enrolls, as far as the two protocols differ.
enum Who<'a> {
    Osquery(&'a EnrollRequest),
    Orbit(&'a orbit::EnrollRequest),
}

impl Who<'_> {
    fn family(&self) -> Family {
        match self {
            Self::Osquery(_) => Family::Osquery,
            Self::Orbit(_) => Family::Orbit,
        }
    }

    fn identifier(&self) -> (&str, IdentifierSource) {
        match self {
            Self::Osquery(request) => (&request.host_identifier, IdentifierSource::Osquery),
            Self::Orbit(request) if request.osquery_identifier.trim().is_empty() => {
                (&request.hardware_uuid, IdentifierSource::HardwareUuid)
            }
            Self::Orbit(request) => (&request.osquery_identifier, IdentifierSource::Orbit),
        }
    }

    /// The hardware's UUID and serial number; empty where it is not told.
    fn hardware(&self) -> (&str, &str) {
        match self {
            Self::Osquery(request) => {
                let system = &request.host_details.system_info;
                let text = |name| said(system.filled(name).unwrap_or_default());
                (text("uuid"), text("hardware_serial"))
            }
            Self::Orbit(request) => (said(&request.hardware_uuid), said(&request.hardware_serial)),
        }
    }

    /// What tells this installation of the agent from others on machines that look the same; empty when it says nothing.
    fn instance(&self) -> String {
        let told = match self {
            Self::Osquery(request) => {
                let info = &request.host_details.osquery_info;
                info.filled("instance_id").unwrap_or_default().to_owned()
            }
            Self::Orbit(request) => {
                let names = [&request.hostname, &request.computer_name];
                let told = names.iter().any(|name| !name.trim().is_empty());
                let names = names.map(String::as_str).join("\0");
                if told { names } else { String::new() }
            }
        };
        if told.trim().is_empty() {
            return String::new();
        }
        let hash = muster_identity::hash_secret(&told);
        hash[..8].iter().fold(String::new(), |mut text, byte| {
            use std::fmt::Write as _;
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    async fn find(&self, db: &mut Transaction) -> Result<Option<HostRecord>, StoreError> {
        let (uuid, serial) = self.hardware();
        let identifiers = [
            identifier_key(self.identifier().0),
            matching::uuid_key(uuid),
        ];
        let [identifier, hardware] = identifiers.each_ref().map(String::as_str);
        if let Some(id) = clones::find(db, [identifier, hardware], &self.instance()).await?
            && let Some(host) = store::host::find(db, id).await?
        {
            return Ok(Some(host));
        }
        match self {
            Self::Osquery(request) => {
                matching::find_for_osquery(db, &request.host_identifier, uuid, serial).await
            }
            Self::Orbit(request) => {
                let announced = Some(request.osquery_identifier.as_str())
                    .filter(|identifier| !identifier.trim().is_empty());
                matching::find_for_orbit(db, announced, uuid, serial).await
            }
        }
    }

    /// Takes what the agent tells into what is known.
    fn tell(&self, facts: &mut HostFacts, knows_osquery: bool) {
        match self {
            Self::Osquery(request) => {
                let details = &request.host_details;
                facts::os_version(&details.os_version, facts);
                facts::osquery_info(&details.osquery_info, facts);
                facts::system_info(&details.system_info, facts);
            }
            Self::Orbit(request) => {
                let told = [
                    (&request.hardware_uuid, &mut facts.uuid),
                    (&request.hardware_serial, &mut facts.hardware_serial),
                    (&request.hostname, &mut facts.hostname),
                    (&request.platform, &mut facts.platform),
                    (&request.platform_like, &mut facts.platform_like),
                    (&request.computer_name, &mut facts.computer_name),
                    (&request.hardware_model, &mut facts.hardware_model),
                ];
                for (told, fact) in told {
                    // What osquery said of the same machine is more exact.
                    if !knows_osquery || fact.is_empty() {
                        facts::take(told, fact);
                    }
                }
            }
        }
    }
}

impl Agents {
    /// Enrolls osquery. `address` is where the request came from.
    pub async fn enroll_osquery(
        &self,
        request: &EnrollRequest,
        address: ClientAddress,
    ) -> Result<(HostId, IssuedKey), HostsError> {
        self.enroll(&Who::Osquery(request), &request.enroll_secret, address)
            .await
    }

    /// Enrolls orbit. `address` is where the request came from.
    pub async fn enroll_orbit(
        &self,
        request: &orbit::EnrollRequest,
        address: ClientAddress,
    ) -> Result<(HostId, IssuedKey), HostsError> {
        self.enroll(
            &Who::Orbit(request),
            request.enroll_secret.expose(),
            address,
        )
        .await
    }

    async fn enroll(
        &self,
        who: &Who<'_>,
        secret: &str,
        address: ClientAddress,
    ) -> Result<(HostId, IssuedKey), HostsError> {
        let tokens = &self.0.enrollment_tokens;
        let admitted = tokens
            .admit(secret, who.family(), address, self.now())
            .await;
        let admission = admitted.map_err(|error| match error {
            EnrollError::Refused(reason) => self.refused(who.family(), reason, None, address),
            EnrollError::Unavailable(error) => error.into(),
        })?;
        let public_ip = kept_address(address);
        let (identifier, _) = who.identifier();
        if identifier.trim().is_empty() {
            return Err(HostsError::NoIdentifier);
        }
        if identifier.len() > MAX_IDENTIFIER_BYTES || identifier.contains('\0') {
            return Err(HostsError::Invalid(
                "the host identifier is longer than 255 bytes or has a NUL",
            ));
        }
        let mut tries = 0;
        let (host, key) = loop {
            tries += 1;
            match self.try_enroll(who, admission, public_ip.as_deref()).await {
                // Another enrollment of the same machine was first: now its row is there to be found. Or a label of the
                // token was deleted this moment.
                Err(EnrollFailure::Store(error))
                    if (error.is_duplicate() || error.kind() == ErrorKind::Reference)
                        && tries < MAX_TRIES => {}
                // It was deleted since it was found: it is new then.
                Err(EnrollFailure::Gone) if tries < MAX_TRIES => {}
                Err(EnrollFailure::Gone) => {
                    let error =
                        StoreError::corrupt("enroll a host", "its row goes again and again");
                    return Err(error.into());
                }
                Err(EnrollFailure::Store(error)) => return Err(error.into()),
                Err(EnrollFailure::Refused(reason)) => {
                    let token = Some(admission.token_id);
                    return Err(self.refused(who.family(), reason, token, address));
                }
                Ok(enrolled) => break enrolled,
            }
        };
        self.seen(host);
        self.0.check_in.announce(host).await;
        Ok((host, key))
    }

    /// Logs, counts and keeps by which rule an enrollment is refused; the agent is told only that it is.
    fn refused(
        &self,
        family: Family,
        reason: RefusalReason,
        token: Option<EnrollmentTokenId>,
        address: ClientAddress,
    ) -> HostsError {
        tracing::info!(
            reason = reason.name(),
            token.id = token.map(|token| token.0),
            client.address = %address,
            "refused an enrollment"
        );
        metrics::counter!("muster_enrollment_refusals_total", "reason" => reason.name())
            .increment(1);
        self.0.denials.note(Denial {
            action: DENIED_ENROLLMENT,
            actor: Actor::agent(address),
            reason: reason.name(),
            subject_kind: "agent",
            subject_id: family.name().to_owned(),
        });
        HostsError::Refused
    }

    async fn try_enroll(
        &self,
        who: &Who<'_>,
        admission: Admission,
        public_ip: Option<&str>,
    ) -> Result<(HostId, IssuedKey), EnrollFailure> {
        let now = self.now();
        let tokens = &self.0.enrollment_tokens;
        let (identifier, source) = who.identifier();
        let mut db = self.0.database.begin().await?;
        let (uuid, serial) = who.hardware();
        db.lock(&matching::machine_names(identifier, uuid, serial))
            .await?;
        let found = who.find(&mut db).await?;
        let is_new = found.is_none();
        let id = if let Some(host) = found {
            host.id
        } else {
            let serial = serial.trim();
            let usable = matching::is_serial_usable(serial);
            let serial = if usable { serial } else { "" };
            let (key, uuid) = (identifier_key(identifier), matching::uuid_key(uuid));
            if store::keys::has_orphaned_ban(&mut db, &key, &uuid, serial).await? {
                return Err(EnrollFailure::Refused(RefusalReason::Banned));
            }
            store::host::insert(&mut db, &key, source, now).await?
        };
        let mut host = store::host::find_for_update(&mut db, id)
            .await?
            .ok_or(EnrollFailure::Gone)?;
        // Only now, when whoever bans the host either has or has to wait: else it would keep the key that it gets here.
        if store::keys::find_ban(&mut db, id).await?.is_some() {
            return Err(EnrollFailure::Refused(RefusalReason::Banned));
        }
        let before = host.facts.clone();

        let mut kind = "enrolled";
        if host.enrollment_token_id == Some(admission.token_id) {
            match tokens
                .record_again(&mut db, admission.token_id, id, now)
                .await?
            {
                Readmission::Good => {}
                Readmission::UsedUp => kind = "enrolled_with_used_up_token",
            }
        } else {
            tokens
                .record_use(&mut db, admission.token_id, id, now)
                .await?;
            store::label::join_those_of(&mut db, id, admission.token_id).await?;
            host.enrollment_token_id = Some(admission.token_id);
            host.team_id = admission.team_id;
        }
        // What osquery calls itself outranks what orbit announced, and that outranks the hardware's UUID.
        let is_told_apart = host.identifier.contains('#');
        let outranks = match (source, host.identifier_from) {
            _ if is_told_apart => false,
            (IdentifierSource::Osquery, _) => true,
            (IdentifierSource::Orbit, known) => known == IdentifierSource::HardwareUuid,
            (IdentifierSource::HardwareUuid, _) => false,
        };
        if outranks {
            host.identifier = identifier_key(identifier);
            host.identifier_from = source;
        }
        who.tell(&mut host.facts, host.osquery_enrolled_at.is_some());
        if let Some(address) = public_ip {
            address.clone_into(&mut host.facts.public_ip);
        }
        host.enrolled_at = now;
        if let Who::Orbit(_) = who {
            host.orbit_enrolled_at = Some(now);
        } else {
            host.osquery_enrolled_at = Some(now);
            host.refetch_requested = true;
        }
        store::host::save_enrollment(&mut db, &host).await?;
        if host.facts != before {
            store::host::save_facts(&mut db, id, &host.facts, now).await?;
        }
        // At once, not with the next batch: whoever asks a question now means this host, too.
        store::presence::upsert(&mut db, &[(id, now)]).await?;
        let family = who.family();
        let details = json!({
            "family": family.name(),
            "enrollment_token_id": admission.token_id,
            "new": is_new,
        });
        store::event::add(&mut db, id, kind, &details, now).await?;
        let token = Some(admission.token_id);
        let key = self
            .0
            .agent_keys
            .issue(&mut db, id, family, token, &who.instance(), now)
            .await?;
        db.commit().await?;
        tracing::info!(
            host.id = id.0,
            family = family.name(),
            new = is_new,
            "enrolled a host"
        );
        Ok((id, key))
    }
}

enum EnrollFailure {
    Gone,
    Refused(RefusalReason),
    Store(StoreError),
}

impl From<StoreError> for EnrollFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<EnrollError> for EnrollFailure {
    fn from(error: EnrollError) -> Self {
        match error {
            EnrollError::Refused(reason) => Self::Refused(reason),
            EnrollError::Unavailable(error) => Self::Store(error),
        }
    }
}
