//! What agents are told that said nothing.

use muster_identity::CollectorId;
use muster_wire_opamp::proto::AgentToServer;
use muster_wire_opamp::{InstanceUid, Outgoing};

use super::{ATTEMPTS, Collectors, Session};
use crate::ExchangeError;
use crate::service::{Exchange, push};

impl Collectors {
    /// What there is to tell an agent that holds a socket, kept and as a message; none when there is nothing.
    pub(crate) async fn push(
        &self,
        session: &Session,
        id: CollectorId,
        uid: InstanceUid,
    ) -> Result<Option<Outgoing>, ExchangeError> {
        let principal = self.principal(session).await?;
        let _ordered = self.lock(uid).lock().await;
        let message = AgentToServer::default();
        for attempt in 0..ATTEMPTS {
            let Some(known) = self.known(id, attempt > 0).await? else {
                return Ok(None);
            };
            let record = known.record;
            let desired = self
                .0
                .configs
                .get()
                .and_then(|configs| configs.desired(&record));
            let telemetry = self.0.telemetry.desired(&record);
            let settings = self.settings();
            let exchange = Exchange {
                message: &message,
                uid,
                principal: &principal,
                record: Some(&record),
                other: None,
                tried: &[],
                owner: None,
                connection: session.connection,
                is_key_live: false,
                shared_components: None,
                desired_config: desired.as_deref(),
                telemetry: telemetry.as_deref(),
                settings: &settings,
                now: self.now(),
                randomness: &*self.0.randomness,
            };
            let Some(outcome) = push(&exchange) else {
                return Ok(None);
            };
            if let Some(reply) = self
                .finish(session, &principal, outcome, Some(known.mark))
                .await?
            {
                return Ok(Some(reply.outgoing));
            }
        }
        Ok(None)
    }
}
