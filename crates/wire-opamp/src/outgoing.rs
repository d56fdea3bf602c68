//! What a server sends, so that only what may go together does.
//!
//! Agents ignore everything beside an error or a command, and some fall over without a uid. So the message is made from
//! one of three things, each with its own constructor, and cannot be changed afterwards.

use std::time::Duration;

use bytes::Bytes;

use crate::bits::{ServerCapabilities, ServerFlags};
use crate::proto::server_error_response::Details;
use crate::proto::{
    AgentIdentification, AgentRemoteConfig, CommandType, ConnectionSettingsOffers,
    CustomCapabilities, CustomMessage, PackagesAvailable, RetryInfo, ServerErrorResponse,
    ServerErrorResponseType, ServerToAgent, ServerToAgentCommand,
};
use crate::uid::InstanceUid;

/// A message from server to agent that is whole and allowed.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing(ServerToAgent);

/// What a server has to tell an agent; what is not set stays as it is. Nothing set is an answer as well.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// A configuration to run, for agents with `ACCEPTS_REMOTE_CONFIG`. One without parts stops some agents.
    pub remote_config: Option<AgentRemoteConfig>,
    /// How to connect from now on; each part of it needs a capability.
    pub connection_settings: Option<ConnectionSettingsOffers>,
    /// All packages that the agent is to have, for agents with `ACCEPTS_PACKAGES`. What is not among them goes.
    pub packages_available: Option<PackagesAvailable>,
    /// What the agent is asked for.
    pub flags: ServerFlags,
    /// How the agent is called from now on.
    pub new_instance_uid: Option<InstanceUid>,
    /// Which kinds of custom messages the server understands.
    pub custom_capabilities: Option<CustomCapabilities>,
    /// A custom message, of a kind that the agent listed.
    pub custom_message: Option<CustomMessage>,
}

/// Why a server could not work with a message, and what the agent may do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The message is wrong; sending it again does not help.
    BadRequest,
    /// The server cannot now. Most clients only log this: connections that are too many have to be closed.
    Unavailable {
        /// How long to wait at least; none leaves it to the agent.
        retry_after: Option<Duration>,
    },
    /// Something else.
    Unknown,
}

impl Outgoing {
    /// An answer, or news. `capabilities` belong into the first message at least, and do no harm in all.
    pub fn update(to: &InstanceUid, capabilities: ServerCapabilities, update: Update) -> Self {
        Self(ServerToAgent {
            instance_uid: to.to_wire(),
            error_response: None,
            remote_config: update.remote_config,
            connection_settings: update.connection_settings,
            packages_available: update.packages_available,
            flags: update.flags.bits(),
            capabilities: capabilities.bits(),
            agent_identification: update.new_instance_uid.map(|uid| AgentIdentification {
                // Where agents have a text for this, 16 bytes would make the whole message unreadable.
                new_instance_uid: uid.written_like(to).to_wire(),
            }),
            command: None,
            custom_capabilities: update.custom_capabilities,
            custom_message: update.custom_message,
        })
    }

    /// The command to restart, for agents with `ACCEPTS_RESTART_COMMAND`.
    pub fn restart(to: &InstanceUid, capabilities: ServerCapabilities) -> Self {
        Self(ServerToAgent {
            instance_uid: to.to_wire(),
            capabilities: capabilities.bits(),
            command: Some(ServerToAgentCommand {
                r#type: CommandType::Restart.into(),
            }),
            ..ServerToAgent::default()
        })
    }

    /// An error. `to` is the uid as it came, since it may be what is wrong; `reason` is for people.
    pub fn refusal(to: impl Into<Bytes>, refusal: Refusal, reason: impl Into<String>) -> Self {
        let (kind, retry_after) = match refusal {
            Refusal::BadRequest => (ServerErrorResponseType::BadRequest, None),
            Refusal::Unavailable { retry_after } => {
                (ServerErrorResponseType::Unavailable, retry_after)
            }
            Refusal::Unknown => (ServerErrorResponseType::Unknown, None),
        };
        let details = retry_after.map(|wait| {
            Details::RetryInfo(RetryInfo {
                retry_after_nanoseconds: u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX),
            })
        });
        Self(ServerToAgent {
            instance_uid: to.into(),
            error_response: Some(ServerErrorResponse {
                r#type: kind.into(),
                error_message: reason.into(),
                details,
            }),
            ..ServerToAgent::default()
        })
    }

    /// The message, to look at.
    pub fn as_message(&self) -> &ServerToAgent {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{AgentConfigMap, AgentConfigObject};

    fn uid() -> InstanceUid {
        InstanceUid::from_bytes([7; 16])
    }

    #[test]
    fn an_error_goes_alone() {
        let wait = Duration::from_secs(30);
        let outgoing = Outgoing::refusal(
            uid(),
            Refusal::Unavailable {
                retry_after: Some(wait),
            },
            "too many",
        );
        assert_eq!(
            *outgoing.as_message(),
            ServerToAgent {
                instance_uid: Bytes::from_static(&[7; 16]),
                error_response: Some(ServerErrorResponse {
                    r#type: 2,
                    error_message: String::from("too many"),
                    details: Some(Details::RetryInfo(RetryInfo {
                        retry_after_nanoseconds: 30_000_000_000,
                    })),
                }),
                ..ServerToAgent::default()
            }
        );
    }

    #[test]
    fn an_error_echoes_what_is_no_uid() {
        let outgoing = Outgoing::refusal(&b"short"[..], Refusal::BadRequest, "5 bytes");
        assert_eq!(outgoing.as_message().instance_uid, "short");
    }

    #[test]
    fn a_wait_without_end_is_the_longest_there_is() {
        let refusal = Refusal::Unavailable {
            retry_after: Some(Duration::MAX),
        };
        let outgoing = Outgoing::refusal(uid(), refusal, "");
        let error = outgoing.as_message().error_response.as_ref().unwrap();
        let Some(Details::RetryInfo(info)) = &error.details else {
            panic!("{error:?}");
        };
        assert_eq!(info.retry_after_nanoseconds, u64::MAX);
    }

    #[test]
    fn a_command_goes_with_uid_and_capabilities_alone() {
        let outgoing = Outgoing::restart(&uid(), ServerCapabilities::ACCEPTS_STATUS);
        assert_eq!(
            *outgoing.as_message(),
            ServerToAgent {
                instance_uid: Bytes::from_static(&[7; 16]),
                capabilities: 1,
                command: Some(ServerToAgentCommand { r#type: 0 }),
                ..ServerToAgent::default()
            }
        );
    }

    #[test]
    fn an_update_says_what_is_set_and_to_whom_in_the_agents_own_form() {
        let old = InstanceUid::from_wire(b"01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        let config = AgentRemoteConfig {
            config: Some(AgentConfigMap {
                config_map: [(String::new(), AgentConfigObject::default())].into(),
            }),
            config_hash: Bytes::from_static(b"hash"),
        };
        let update = Update {
            remote_config: Some(config.clone()),
            flags: ServerFlags::REPORT_FULL_STATE,
            new_instance_uid: Some(uid()),
            ..Update::default()
        };
        let outgoing = Outgoing::update(&old, ServerCapabilities::from_bits(0x27), update);
        assert_eq!(
            *outgoing.as_message(),
            ServerToAgent {
                instance_uid: Bytes::from_static(b"01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                remote_config: Some(config),
                flags: 1,
                capabilities: 0x27,
                agent_identification: Some(AgentIdentification {
                    new_instance_uid: Bytes::from_static(b"070W3GE1R70W3GE1R70W3GE1R7"),
                }),
                ..ServerToAgent::default()
            }
        );
    }
}
