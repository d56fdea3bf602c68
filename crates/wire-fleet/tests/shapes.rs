//! What answers look like, for people to read.

use muster_clock::Timestamp;
use muster_wire_fleet as wire;
use wire::{Row, Secret, Stats, config, host, label, live, query, team, user};

const NOON: Timestamp = Timestamp::from_seconds(1_795_435_200);

fn gold() -> host::Host {
    host::Host {
        created_at: NOON,
        updated_at: NOON,
        id: 7,
        seen_time: NOON,
        hostname: "gold".into(),
        uuid: "aaaaaaaa-bbbb-cccc-dddd-eeeeeeee0001".into(),
        platform: "ubuntu".into(),
        uptime: 3_600_000_000_000,
        gigs_disk_space_available: 20.5,
        status: host::HostStatus::Online,
        display_text: "gold".into(),
        display_name: "Gold".into(),
        ..host::Host::default()
    }
}

#[test]
fn a_host_in_a_list() {
    insta::assert_json_snapshot!(gold());
}

#[test]
fn a_host_by_itself() {
    let labels = vec![label::Label {
        created_at: NOON,
        updated_at: NOON,
        id: 1,
        name: "All Hosts".into(),
        label_type: label::LabelType::Builtin,
        ..label::Label::default()
    }];
    let host = host::Host {
        software: Some(vec![host::HostSoftware {
            id: 1,
            name: "bash".into(),
            version: "5.1".into(),
            source: "deb_packages".into(),
            arch: "amd64".into(),
            ..host::HostSoftware::default()
        }]),
        orbit_version: Some("1.37.0".into()),
        users: Some(vec![host::HostUser {
            uid: 1000,
            username: "ann".into(),
            ..host::HostUser::default()
        }]),
        mdm: host::HostMdm::single(),
        policies: Some(Vec::new()),
        labels: Some(labels),
        packs: Some(Vec::new()),
        batteries: Some(serde_json::Value::Null),
        ..gold()
    };
    insta::assert_json_snapshot!(host::HostAnswer { host });
}

#[test]
fn a_label_a_query_and_its_document() {
    let query = query::Query {
        created_at: NOON,
        updated_at: NOON,
        id: 3,
        name: "uptime".into(),
        query: "select * from uptime".into(),
        logging: "snapshot".into(),
        saved: true,
        ..query::Query::default()
    };
    let document = query::QuerySpec::from((&query, "Team One"));
    let label = label::Label {
        created_at: NOON,
        updated_at: NOON,
        id: 9,
        name: "mine".into(),
        label_membership_type: label::MembershipType::Manual,
        ..label::Label::default()
    };
    insta::assert_json_snapshot!((label.counted(0), query, document));
}

#[test]
fn a_login_and_a_team() {
    let login = user::LoginAnswer {
        user: user::User {
            created_at: NOON,
            updated_at: NOON,
            id: 1,
            name: "Ann".into(),
            email: "ann@example.com".into(),
            teams: vec![user::UserTeam {
                id: 4,
                name: "Team One".into(),
                role: "observer".into(),
                ..user::UserTeam::default()
            }],
            ..user::User::default()
        },
        available_teams: vec![team::TeamSummary {
            id: 4,
            name: "Team One".into(),
            ..team::TeamSummary::default()
        }],
        token: Secret::new("token"),
    };
    let team = team::Team {
        id: 4,
        created_at: NOON,
        name: "Team One".into(),
        secrets: Some(vec![team::EnrollSecret {
            secret: Secret::new("secret"),
            created_at: Some(NOON),
            team_id: Some(4),
        }]),
        ..team::Team::default()
    };
    insta::assert_json_snapshot!((login, team));
}

#[test]
fn the_configuration_with_everything_off() {
    insta::assert_json_snapshot!(config::AppConfig::default());
}

#[test]
fn a_stream_of_results() {
    let host = || live::StreamHost {
        id: 7,
        hostname: "gold".into(),
        display_name: "Gold".into(),
    };
    let row: Row = [("pid", "1"), ("name", "init")].into_iter().collect();
    let stats = Stats {
        wall_time_ms: 12,
        ..Stats::default()
    };
    let messages = [
        live::ServerMessage::Totals(live::StreamTotals {
            count: 2,
            online: 1,
            offline: 1,
            missing_in_action: 0,
        }),
        live::ServerMessage::Status(live::StreamStatus::new(1, 0)),
        live::ServerMessage::Result(live::StreamResult::answered(9, host(), [&row], Some(stats))),
        live::ServerMessage::Result(live::StreamResult::failed(9, host(), "no such table: zz")),
        live::ServerMessage::Status(live::StreamStatus::new(1, 1)),
        live::ServerMessage::invalid_campaign(0),
        live::ServerMessage::unknown_campaign(99),
    ];
    insta::assert_json_snapshot!(messages);
}
