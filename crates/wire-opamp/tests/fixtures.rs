//! Bytes that other programs made (`data/README.md`), and what they have to mean.

use bytes::Bytes;
use muster_wire_opamp::proto::any_value::Value;
use muster_wire_opamp::proto::server_error_response::Details;
use muster_wire_opamp::proto::*;
use muster_wire_opamp::{
    InstanceUid, MessageLimit, Outgoing, Refusal, ServerCapabilities, ServerFlags, Update,
    attributes, decode_body, encode_body,
};
use serde_json::json;

const OPAMP_GO: &str = include_str!("data/opamp-go.txt");
const PYTHON: &str = include_str!("data/python.txt");

/// The message `name` of a file.
fn fixture(file: &str, name: &str) -> Bytes {
    let hex = file
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find_map(|(named, hex)| (named == name).then_some(hex))
        .unwrap_or_else(|| panic!("no message {name}"));
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}

fn limit() -> MessageLimit {
    MessageLimit::default()
}

/// The fixture is read as `expected`, and `expected` is written as the fixture.
fn check_agent(name: &str, expected: AgentToServer) {
    let bytes = fixture(OPAMP_GO, name);
    let read: AgentToServer = decode_body(bytes.clone(), limit()).expect(name);
    assert_eq!(read, expected, "{name}");
    assert_eq!(
        encode_body(&expected, limit()).expect(name),
        bytes,
        "{name}"
    );
}

fn check_server(name: &str, expected: Outgoing) {
    let bytes = fixture(OPAMP_GO, name);
    let read: ServerToAgent = decode_body(bytes.clone(), limit()).expect(name);
    assert_eq!(read, *expected.as_message(), "{name}");
    assert_eq!(
        encode_body(&expected, limit()).expect(name),
        bytes,
        "{name}"
    );
}

/// The uid of the messages that have a real one.
fn uid() -> InstanceUid {
    InstanceUid::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
}

fn pair(key: &str, value: Option<Value>) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value }),
    }
}

/// What the generator makes of an attribute.
fn filled_attributes() -> Vec<KeyValue> {
    vec![KeyValue::text("key", "string_value")]
}

fn filled_config() -> AgentConfigMap {
    let part = AgentConfigObject {
        body: "body".into(),
        content_type: "content_type".into(),
        role: "role".into(),
    };
    AgentConfigMap {
        config_map: [("config_map".into(), part)].into(),
    }
}

fn filled_custom() -> (CustomCapabilities, CustomMessage) {
    let capabilities = CustomCapabilities {
        capabilities: vec!["capabilities".into()],
    };
    let message = CustomMessage {
        capability: "capability".into(),
        r#type: "type".into(),
        data: "data".into(),
    };
    (capabilities, message)
}

#[test]
fn every_field_of_an_agents_message_has_its_name_number_and_type() {
    let (custom_capabilities, custom_message) = filled_custom();
    let package = PackageStatus {
        name: "name".into(),
        agent_has_version: "agent_has_version".into(),
        agent_has_hash: "agent_has_hash".into(),
        server_offered_version: "server_offered_version".into(),
        server_offered_hash: "server_offered_hash".into(),
        status: PackageStatusEnum::Downloading.into(),
        error_message: "error_message".into(),
        download_details: Some(PackageDownloadDetails {
            download_percent: 1.5,
            download_bytes_per_second: 2.5,
        }),
    };
    let component = ComponentDetails {
        metadata: filled_attributes(),
        ..ComponentDetails::default()
    };
    let expected = AgentToServer {
        instance_uid: "instance_uid".into(),
        sequence_num: 2000,
        agent_description: Some(AgentDescription {
            identifying_attributes: filled_attributes(),
            non_identifying_attributes: filled_attributes(),
        }),
        capabilities: 4000,
        health: Some(ComponentHealth {
            healthy: true,
            start_time_unix_nano: 2000,
            last_error: "last_error".into(),
            status: "status".into(),
            status_time_unix_nano: 5000,
            component_health_map: [].into(),
            attributes: filled_attributes(),
        }),
        effective_config: Some(EffectiveConfig {
            config_map: Some(filled_config()),
        }),
        remote_config_status: Some(RemoteConfigStatus {
            last_remote_config_hash: "last_remote_config_hash".into(),
            status: RemoteConfigStatuses::Failed.into(),
            error_message: "error_message".into(),
        }),
        package_statuses: Some(PackageStatuses {
            packages: [("packages".into(), package)].into(),
            server_provided_all_packages_hash: "server_provided_all_packages_hash".into(),
            error_message: "error_message".into(),
        }),
        agent_disconnect: Some(AgentDisconnect {}),
        flags: 10_000,
        connection_settings_request: Some(ConnectionSettingsRequest {
            opamp: Some(OpAmpConnectionSettingsRequest {
                certificate_request: Some(CertificateRequest { csr: "csr".into() }),
            }),
        }),
        custom_capabilities: Some(custom_capabilities),
        custom_message: Some(custom_message),
        available_components: Some(AvailableComponents {
            components: [("components".into(), component)].into(),
            hash: "hash".into(),
        }),
        connection_settings_status: Some(ConnectionSettingsStatus {
            last_connection_settings_hash: "last_connection_settings_hash".into(),
            status: ConnectionSettingsStatuses::Failed.into(),
            error_message: "error_message".into(),
        }),
    };
    check_agent("every-field-of-an-agent", expected);
}

#[test]
fn every_field_of_a_servers_message_has_its_name_number_and_type() {
    let (custom_capabilities, custom_message) = filled_custom();
    let headers = || Headers {
        headers: vec![Header {
            key: "key".into(),
            value: "value".into(),
        }],
    };
    let certificate = || TlsCertificate {
        cert: "cert".into(),
        private_key: "private_key".into(),
        ca_cert: "ca_cert".into(),
    };
    let tls = || TlsConnectionSettings {
        ca_pem_contents: "ca_pem_contents".into(),
        include_system_ca_certs_pool: true,
        insecure_skip_verify: true,
        min_version: "min_version".into(),
        max_version: "max_version".into(),
        cipher_suites: vec!["cipher_suites".into()],
    };
    let proxy = || ProxyConnectionSettings {
        url: "url".into(),
        connect_headers: Some(headers()),
    };
    let telemetry = || TelemetryConnectionSettings {
        destination_endpoint: "destination_endpoint".into(),
        headers: Some(headers()),
        certificate: Some(certificate()),
        tls: Some(tls()),
        proxy: Some(proxy()),
    };
    let other = OtherConnectionSettings {
        destination_endpoint: "destination_endpoint".into(),
        headers: Some(headers()),
        certificate: Some(certificate()),
        other_settings: [("other_settings".into(), "value".into())].into(),
        tls: Some(tls()),
        proxy: Some(proxy()),
    };
    let package = PackageAvailable {
        r#type: PackageType::Addon.into(),
        version: "version".into(),
        file: Some(DownloadableFile {
            download_url: "download_url".into(),
            content_hash: "content_hash".into(),
            signature: "signature".into(),
            headers: Some(headers()),
        }),
        hash: "hash".into(),
    };
    let expected = ServerToAgent {
        instance_uid: "instance_uid".into(),
        error_response: Some(ServerErrorResponse {
            r#type: ServerErrorResponseType::Unavailable.into(),
            error_message: "error_message".into(),
            details: Some(Details::RetryInfo(RetryInfo {
                retry_after_nanoseconds: 1000,
            })),
        }),
        remote_config: Some(AgentRemoteConfig {
            config: Some(filled_config()),
            config_hash: "config_hash".into(),
        }),
        connection_settings: Some(ConnectionSettingsOffers {
            hash: "hash".into(),
            opamp: Some(OpAmpConnectionSettings {
                destination_endpoint: "destination_endpoint".into(),
                headers: Some(headers()),
                certificate: Some(certificate()),
                heartbeat_interval_seconds: 4000,
                tls: Some(tls()),
                proxy: Some(proxy()),
            }),
            own_metrics: Some(telemetry()),
            own_traces: Some(telemetry()),
            own_logs: Some(telemetry()),
            other_connections: [("other_connections".into(), other)].into(),
        }),
        packages_available: Some(PackagesAvailable {
            packages: [("packages".into(), package)].into(),
            all_packages_hash: "all_packages_hash".into(),
        }),
        flags: 6000,
        capabilities: 7000,
        agent_identification: Some(AgentIdentification {
            new_instance_uid: "new_instance_uid".into(),
        }),
        command: Some(ServerToAgentCommand {
            r#type: CommandType::Restart.into(),
        }),
        custom_capabilities: Some(custom_capabilities),
        custom_message: Some(custom_message),
    };
    let bytes = fixture(OPAMP_GO, "every-field-of-a-server");
    let read: ServerToAgent = decode_body(bytes.clone(), limit()).expect("a message");
    assert_eq!(read, expected);
    // Not one that a server of ours can send, so protobuf alone writes it.
    assert_eq!(expected.encode_to_vec(), bytes);
}

#[test]
fn values_of_every_kind_are_read_and_written() {
    let array = vec![
        attributes::value_from_json(&json!(1)),
        attributes::value_from_json(&json!("b")),
        AnyValue::default(),
    ];
    let list = KeyValueList {
        values: vec![pair("within", Some(Value::BoolValue(true)))],
    };
    let identifying_attributes = vec![
        KeyValue::text("text", "zwölf"),
        KeyValue::text("empty", ""),
        pair("yes", Some(Value::BoolValue(true))),
        pair("no", Some(Value::BoolValue(false))),
        pair("least", Some(Value::IntValue(i64::MIN))),
        pair("most", Some(Value::IntValue(i64::MAX))),
        pair("zero", Some(Value::IntValue(0))),
        pair("half", Some(Value::DoubleValue(0.5))),
        pair("infinite", Some(Value::DoubleValue(f64::NEG_INFINITY))),
        pair(
            "bytes",
            Some(Value::BytesValue(Bytes::from_static(&[0, 255]))),
        ),
        pair(
            "array",
            Some(Value::ArrayValue(ArrayValue { values: array })),
        ),
        pair("list", Some(Value::KvlistValue(list))),
        pair("null", None),
        KeyValue {
            key: "absent".into(),
            value: None,
        },
    ];
    let expected = AgentToServer {
        instance_uid: uid().to_wire(),
        agent_description: Some(AgentDescription {
            identifying_attributes,
            ..AgentDescription::default()
        }),
        ..AgentToServer::default()
    };
    check_agent("values-of-every-kind", expected);
}

#[test]
fn a_tree_of_health_is_read_and_written() {
    fn health<const N: usize>(
        error: &str,
        within: [(&str, ComponentHealth); N],
    ) -> ComponentHealth {
        ComponentHealth {
            healthy: error.is_empty(),
            last_error: error.into(),
            component_health_map: within
                .into_iter()
                .map(|(name, health)| (name.into(), health))
                .collect(),
            ..ComponentHealth::default()
        }
    }
    let pipeline = health(
        "refused",
        [
            ("receiver:otlp", health("", [])),
            ("exporter:otlp", health("refused", [])),
        ],
    );
    let expected = AgentToServer {
        instance_uid: uid().to_wire(),
        sequence_num: u64::MAX,
        health: Some(health(
            "",
            [
                ("pipeline:traces", pipeline),
                ("extensions", health("", [])),
            ],
        )),
        ..AgentToServer::default()
    };
    check_agent("a-tree-of-health", expected);
}

#[test]
fn an_agent_that_leaves_is_read_and_written() {
    let expected = AgentToServer {
        instance_uid: uid().to_wire(),
        sequence_num: 300,
        capabilities: 0x3007,
        agent_disconnect: Some(AgentDisconnect {}),
        ..AgentToServer::default()
    };
    check_agent("an-agent-that-leaves", expected);
}

#[test]
fn errors_commands_and_offers_are_written_as_the_reference_implementation_writes_them() {
    let refusal = Refusal::Unavailable {
        retry_after: Some(std::time::Duration::from_secs(30)),
    };
    check_server("an-error", Outgoing::refusal(uid(), refusal, "too many"));

    let capabilities = ServerCapabilities::from_bits(0x27);
    check_server("a-command", Outgoing::restart(&uid(), capabilities));

    let update = Update {
        flags: ServerFlags::REPORT_FULL_STATE,
        connection_settings: Some(ConnectionSettingsOffers {
            hash: Bytes::from_static(&[1, 2, 3]),
            opamp: Some(OpAmpConnectionSettings {
                destination_endpoint: "wss://muster.example:4320/v1/opamp".into(),
                headers: Some(Headers {
                    headers: vec![Header {
                        key: "Authorization".into(),
                        value: "Bearer key".into(),
                    }],
                }),
                certificate: Some(TlsCertificate {
                    ca_cert: "PEM".into(),
                    ..TlsCertificate::default()
                }),
                heartbeat_interval_seconds: 30,
                ..OpAmpConnectionSettings::default()
            }),
            ..ConnectionSettingsOffers::default()
        }),
        new_instance_uid: Some(uid()),
        ..Update::default()
    };
    check_server(
        "a-key-of-its-own",
        Outgoing::update(&uid(), capabilities, update),
    );
}

/// What the Python client says in a message of this name.
fn check_python(name: &str, expected: AgentToServer) {
    let bytes = fixture(PYTHON, name);
    let read: AgentToServer = decode_body(bytes.clone(), limit()).expect(name);
    let uid: InstanceUid = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
        .parse()
        .expect("a uid");
    assert!(uid.is_v7());
    assert_eq!(InstanceUid::from_wire(&read.instance_uid), Ok(uid));
    assert_eq!(read.capabilities, 0x3007);
    let expected = AgentToServer {
        instance_uid: uid.to_wire(),
        capabilities: 0x3007,
        ..expected
    };
    assert_eq!(read, expected, "{name}");
    assert_eq!(
        encode_body(&expected, limit()).expect(name),
        bytes,
        "{name}"
    );
}

#[test]
fn the_python_clients_messages_are_read() {
    let description = AgentDescription {
        identifying_attributes: vec![
            KeyValue::text(attributes::SERVICE_NAME, "shop"),
            KeyValue::text(attributes::DEPLOYMENT_ENVIRONMENT_NAME, "prod"),
        ],
        non_identifying_attributes: vec![
            KeyValue::text(attributes::HOST_NAME, "vm"),
            pair("process.pid", Some(Value::IntValue(4711))),
            pair("ratio", Some(Value::DoubleValue(0.25))),
            pair("container", Some(Value::BoolValue(false))),
        ],
    };
    assert_eq!(
        serde_json::Value::Object(attributes::to_json(&description.non_identifying_attributes)),
        json!({"host.name": "vm", "process.pid": 4711, "ratio": 0.25, "container": false})
    );
    let first = AgentToServer {
        agent_description: Some(description),
        ..AgentToServer::default()
    };
    let status = AgentToServer {
        sequence_num: 1,
        remote_config_status: Some(RemoteConfigStatus {
            last_remote_config_hash: Bytes::from_static(&[1, 2]),
            status: RemoteConfigStatuses::Failed.into(),
            error_message: "no such key".into(),
        }),
        ..AgentToServer::default()
    };
    let part = AgentConfigObject {
        body: r#"{"logging_level": "debug"}"#.into(),
        content_type: "application/json".into(),
        role: String::new(),
    };
    let full = AgentToServer {
        sequence_num: 2,
        agent_description: first.agent_description.clone(),
        remote_config_status: status.remote_config_status.clone(),
        effective_config: Some(EffectiveConfig {
            config_map: Some(AgentConfigMap {
                config_map: [("elastic".into(), part)].into(),
            }),
        }),
        ..AgentToServer::default()
    };
    let heartbeat = AgentToServer {
        sequence_num: 3,
        ..AgentToServer::default()
    };
    let disconnect = AgentToServer {
        agent_disconnect: Some(AgentDisconnect {}),
        ..heartbeat.clone()
    };
    check_python("first", first);
    check_python("status", status);
    check_python("full", full);
    check_python("heartbeat", heartbeat);
    check_python("disconnect", disconnect);
}
