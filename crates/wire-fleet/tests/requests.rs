//! Each recorded request of real clients is read by our types.

use serde::de::DeserializeOwned;
use serde_json::Value;

use muster_wire_fleet as wire;
use wire::{host, label, live, orbit, query, team, user};

use crate::recorded;

fn read<T: DeserializeOwned>(body: &Value) -> T {
    serde_json::from_str(&body.to_string()).unwrap()
}

#[test]
fn every_recorded_request_is_read_with_what_it_says() {
    let recorded = recorded(include_str!("data/requests.jsonl"));
    assert!(recorded.len() > 60, "{}", recorded.len());
    for (kind, name, body) in &recorded {
        let text = |member: &str| body[member].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "orbit enroll" => {
                let request: orbit::EnrollRequest = read(body);
                assert!(!request.enroll_secret.is_empty(), "{name}");
                let identifier = match text("osquery_identifier") {
                    none if none.is_empty() => text("hardware_uuid"),
                    some => some,
                };
                assert_eq!(request.identifier(), identifier, "{name}");
                assert_eq!(request.hostname, text("hostname"), "{name}");
            }
            "orbit key" => {
                let request: orbit::KeyRequest = read(body);
                assert_eq!(
                    request.orbit_node_key.expose(),
                    text("orbit_node_key"),
                    "{name}"
                );
            }
            "device token" => {
                let request: orbit::DeviceTokenRequest = read(body);
                assert_eq!(
                    request.device_auth_token.expose(),
                    text("device_auth_token")
                );
            }
            "device mapping" => {
                assert_eq!(
                    read::<orbit::DeviceMappingRequest>(body).email,
                    text("email")
                );
            }
            "login" => {
                let request: user::LoginRequest = read(body);
                assert_eq!(request.email, text("email"), "{name}");
                assert_eq!(request.password.expose(), text("password"), "{name}");
            }
            "setup" => {
                let request: user::SetupRequest = read(body);
                assert_eq!(request.admin.name, "Ann", "{name}");
                assert_eq!(request.org_info.org_name, "Org", "{name}");
                assert_eq!(request.server_url, text("server_url"), "{name}");
            }
            "label specs" => {
                for spec in read::<wire::Specs<label::LabelSpec>>(body).specs {
                    assert!(!spec.name.is_empty() && spec.hosts.is_none(), "{name}");
                }
            }
            "query specs" => {
                let specs = read::<wire::Specs<query::QuerySpec>>(body).specs;
                for (spec, member) in specs.iter().zip(body["specs"].as_array().unwrap()) {
                    assert_eq!(spec.query, member["query"], "{name}");
                    assert_eq!(spec.interval, member["interval"].as_u64(), "{name}");
                }
            }
            "team specs" => {
                let specs = read::<wire::Specs<team::TeamSpec>>(body).specs;
                for (spec, member) in specs.iter().zip(body["specs"].as_array().unwrap()) {
                    assert_eq!(spec.name, member["name"], "{name}");
                    let options = member.get("agent_options");
                    assert_eq!(spec.agent_options.is_some(), options.is_some(), "{name}");
                }
            }
            "enroll secret spec" => {
                let secrets = read::<team::EnrollSecretSpec>(body).spec.secrets.unwrap();
                assert!(
                    secrets.iter().all(|secret| !secret.secret.is_empty()),
                    "{name}"
                );
            }
            "run by names" => {
                let request: live::RunByNamesRequest = read(body);
                assert!(
                    request.query.is_some() != request.query_id.is_some(),
                    "{name}"
                );
                let selected = &request.selected;
                assert_eq!(selected.hosts.len() + selected.labels.len(), 1, "{name}");
            }
            "run" => {
                let request: live::RunRequest = read(body);
                assert!(request.query.is_some() && !request.selected.hosts.is_empty());
            }
            "run many" => {
                let request: live::RunManyRequest = read(body);
                assert_eq!((request.query_ids.len(), request.host_ids.len()), (1, 1));
            }
            "run saved" => assert!(!read::<live::RunSavedRequest>(body).host_ids.is_empty()),
            "host query" => {
                assert_eq!(
                    read::<live::HostQueryRequest>(body).query,
                    text("query"),
                    "{name}"
                );
            }
            "transfer" => {
                let request: host::TransferRequest = read(body);
                assert_eq!(request.team_id, body["team_id"].as_i64(), "{name}");
                assert!(!request.hosts.is_empty(), "{name}");
            }
            "transfer by filter" => {
                let filter = read::<host::TransferByFilterRequest>(body).filters.unwrap();
                assert_eq!(
                    filter.label_id,
                    body["filters"]["label_id"].as_i64(),
                    "{name}"
                );
            }
            "translate" => {
                for item in read::<user::Translate>(body).list {
                    assert!(!item.kind.is_empty() && !item.payload.identifier.is_empty());
                }
            }
            "create user" => {
                let request: user::CreateUserRequest = read(body);
                assert_eq!(request.email, text("email"), "{name}");
                assert!(
                    request.global_role.is_some() == request.teams.is_empty(),
                    "{name}"
                );
                assert!(
                    request.teams.iter().all(|team| !team.role.is_empty()),
                    "{name}"
                );
            }
            "roles" => {
                let roles = read::<user::RolesRequest>(body).spec.roles;
                assert!(
                    roles.values().all(|role| role.global_role.is_some()),
                    "{name}"
                );
            }
            "query" => {
                let request: query::QueryRequest = read(body);
                assert_eq!(request.name, Some(text("name")), "{name}");
            }
            "label" => {
                let request: label::LabelRequest = read(body);
                assert_eq!(request.name, Some(text("name")), "{name}");
                assert_eq!(
                    request.hosts.is_some(),
                    body.get("hosts").is_some(),
                    "{name}"
                );
            }
            "team" => assert_eq!(read::<team::TeamRequest>(body).name, Some(text("name"))),
            _ => panic!("no type for {kind}"),
        }
    }
}
