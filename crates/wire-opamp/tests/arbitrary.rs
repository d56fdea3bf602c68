//! Messages of all kinds, made at random.

use std::collections::BTreeMap;

use bytes::Bytes;
use muster_wire_opamp::proto::any_value::Value;
use muster_wire_opamp::proto::*;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

/// How many levels of values, components and health there are at most.
const LEVELS: u32 = 4;

pub(crate) fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn map<V: Strategy>(values: V) -> impl Strategy<Value = BTreeMap<String, V::Value>> {
    btree_map(any::<String>(), values, 0..4)
}

fn any_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        Just(None),
        any::<String>().prop_map(|text| Some(Value::StringValue(text))),
        any::<bool>().prop_map(|flag| Some(Value::BoolValue(flag))),
        any::<i64>().prop_map(|number| Some(Value::IntValue(number))),
        any::<f64>().prop_map(|number| Some(Value::DoubleValue(number))),
        bytes().prop_map(|bytes| Some(Value::BytesValue(bytes))),
    ]
    .prop_map(|value| AnyValue { value });
    leaf.prop_recursive(LEVELS, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|values| AnyValue {
                value: Some(Value::ArrayValue(ArrayValue { values })),
            }),
            vec((any::<String>(), option::of(inner)), 0..4).prop_map(|pairs| {
                let values = pairs
                    .into_iter()
                    .map(|(key, value)| KeyValue { key, value });
                AnyValue {
                    value: Some(Value::KvlistValue(KeyValueList {
                        values: values.collect(),
                    })),
                }
            }),
        ]
    })
}

pub(crate) fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let pair = (any::<String>(), option::of(any_value()));
    vec(pair.prop_map(|(key, value)| KeyValue { key, value }), 0..4)
}

fn health() -> impl Strategy<Value = ComponentHealth> {
    let alone = (any::<(bool, u64, String, String, u64)>(), attributes()).prop_map(
        |((healthy, start, last_error, status, time), attributes)| ComponentHealth {
            healthy,
            start_time_unix_nano: start,
            last_error,
            status,
            status_time_unix_nano: time,
            component_health_map: BTreeMap::new(),
            attributes,
        },
    );
    alone.prop_recursive(LEVELS, 16, 3, |inner| {
        (inner.clone(), map(inner)).prop_map(|(mut health, within)| {
            health.component_health_map = within;
            health
        })
    })
}

fn details() -> impl Strategy<Value = ComponentDetails> {
    let alone = attributes().prop_map(|metadata| ComponentDetails {
        metadata,
        ..ComponentDetails::default()
    });
    alone.prop_recursive(LEVELS, 16, 3, |inner| {
        (attributes(), map(inner)).prop_map(|(metadata, sub_component_map)| ComponentDetails {
            metadata,
            sub_component_map,
        })
    })
}

fn config() -> impl Strategy<Value = EffectiveConfig> {
    let part = (bytes(), any::<(String, String)>()).prop_map(|(body, (content_type, role))| {
        AgentConfigObject {
            body,
            content_type,
            role,
        }
    });
    option::of(map(part).prop_map(|config_map| AgentConfigMap { config_map }))
        .prop_map(|config_map| EffectiveConfig { config_map })
}

fn packages() -> impl Strategy<Value = PackageStatuses> {
    let details = any::<(f64, f64)>().prop_map(|(percent, rate)| PackageDownloadDetails {
        download_percent: percent,
        download_bytes_per_second: rate,
    });
    let package = (
        any::<(String, String, String, i32, String)>(),
        (bytes(), bytes(), option::of(details)),
    )
        .prop_map(
            |((name, has, offered, status, error), (has_hash, offered_hash, details))| {
                PackageStatus {
                    name,
                    agent_has_version: has,
                    agent_has_hash: has_hash,
                    server_offered_version: offered,
                    server_offered_hash: offered_hash,
                    status,
                    error_message: error,
                    download_details: details,
                }
            },
        );
    (map(package), bytes(), any::<String>()).prop_map(|(packages, hash, error_message)| {
        PackageStatuses {
            packages,
            server_provided_all_packages_hash: hash,
            error_message,
        }
    })
}

prop_compose! {
    fn reports()(
        config in option::of((bytes(), any::<(i32, String)>())),
        settings in option::of((bytes(), any::<(i32, String)>())),
        packages in option::of(packages()),
        components in option::of((map(details()), bytes())),
        custom in option::of(vec(any::<String>(), 0..4)),
        message in option::of((any::<(String, String)>(), bytes())),
    ) -> AgentToServer {
        AgentToServer {
            remote_config_status: config.map(|(hash, (status, error_message))| RemoteConfigStatus {
                last_remote_config_hash: hash,
                status,
                error_message,
            }),
            connection_settings_status: settings.map(|(hash, (status, error_message))| {
                ConnectionSettingsStatus {
                    last_connection_settings_hash: hash,
                    status,
                    error_message,
                }
            }),
            package_statuses: packages,
            available_components: components
                .map(|(components, hash)| AvailableComponents { components, hash }),
            custom_capabilities: custom.map(|capabilities| CustomCapabilities { capabilities }),
            custom_message: message.map(|((capability, r#type), data)| CustomMessage {
                capability,
                r#type,
                data,
            }),
            ..AgentToServer::default()
        }
    }
}

prop_compose! {
    /// A message of an agent, with every field now and then.
    pub(crate) fn agent_to_server()(
        reports in reports(),
        (uid, csr) in (bytes(), option::of(bytes())),
        (sequence_num, capabilities, flags, leaves) in any::<(u64, u64, u64, bool)>(),
        description in option::of((attributes(), attributes())),
        health in option::of(health()),
        effective_config in option::of(config()),
    ) -> AgentToServer {
        AgentToServer {
            instance_uid: uid,
            sequence_num,
            agent_description: description.map(|(identifying, other)| AgentDescription {
                identifying_attributes: identifying,
                non_identifying_attributes: other,
            }),
            capabilities,
            health,
            effective_config,
            agent_disconnect: leaves.then_some(AgentDisconnect {}),
            flags,
            connection_settings_request: csr.map(|csr| ConnectionSettingsRequest {
                opamp: Some(OpAmpConnectionSettingsRequest {
                    certificate_request: Some(CertificateRequest { csr }),
                }),
            }),
            ..reports
        }
    }
}
