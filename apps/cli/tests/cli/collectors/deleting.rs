//! Collectors are deleted by the filters of the list.

use std::collections::BTreeSet;

use clap::{Arg, CommandFactory as _};
use muster_cli::arguments::CommandLine;
use muster_wire_opamp::proto::{AgentDisconnect, AgentToServer};

use super::hosts::host;
use super::{Agent, RESTARTS, lines, token, until_online};
use crate::real::Server;

#[tokio::test(flavor = "multi_thread")]
async fn collectors_that_filters_name_are_deleted_by_whoever_is_sure() {
    let server = Server::start().await;
    server.log_in().await;
    let token = token(&server, &[]).await;
    for uid in 7..=9 {
        let host = format!("box-{uid}");
        let mut agent = Agent::new(&server, &token, uid, "otelcol", &host);
        agent.report().await.unwrap();
        if uid > 7 {
            let goodbye = AgentToServer {
                agent_disconnect: Some(AgentDisconnect::default()),
                ..AgentToServer::default()
            };
            agent.send(goodbye).await.unwrap();
        }
    }
    let delete = ["collectors", "--status", "offline", "--delete", "--yes"];
    let told = server.run(&delete[..4]).await.ok();
    assert_eq!(
        told.stderr,
        "2 collectors would be deleted: 0 online, 0 revoked (deleted, they may come again by an enrollment token)\n  \
            nothing was deleted: add --yes to do it, or leave --delete out to see them\n"
    );
    assert_eq!(lines(&server, &["collectors"]).await.len(), 3);
    let one = [
        "collectors",
        "--search",
        "box-9",
        "--healthy",
        "--team",
        "none",
    ];
    let told = server.run(&[&one[..], &["--delete"]].concat()).await.ok();
    assert!(
        told.stderr.starts_with("1 collector would be deleted"),
        "{}",
        told.stderr
    );
    assert_eq!(
        server.run(&delete).await.ok().stderr,
        "deleted 2 collectors\n"
    );
    let left = lines(&server, &["collectors"]).await;
    assert_eq!((left.len(), &left[0]["host_name"]), (1, &"box-7".into()));
    let all = server.run(&["collectors", "--delete", "--yes"]).await;
    assert_eq!(all.code, Some(1));
    assert!(all.stderr.contains("at least one filter"), "{}", all.stderr);
    for wrong in [
        &["collectors", "--status", "offline", "--yes"][..],
        &["collectors", "--summary", "--delete"],
    ] {
        assert_eq!(server.run(wrong).await.code, Some(2), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_of_the_list_names_what_is_deleted() {
    let server = Server::start().await;
    server.log_in().await;
    server.run(&["teams", "create", "Edge"]).await.ok();
    let secret = server.run(&["tokens", "create", "--name", "hosts"]).await;
    let secret = secret.ok().stdout.trim().to_owned();
    let uuid = "4c4c4544-0042-3510-8052-b4c04f564231";
    host(&server, &secret, uuid, "web-1").await;
    let plain = token(&server, &[]).await;
    let of_team = token(&server, &["--team", "Edge"]).await;
    Agent::new(&server, &plain, 1, "otelcol", "box-1")
        .with(RESTARTS)
        .report()
        .await
        .unwrap();
    Agent::new(&server, &of_team, 2, "otelcol", "box-2")
        .report()
        .await
        .unwrap();
    let used = lines(&server, &["collectors", "--team", "Edge"]).await;
    let used = used[0]["enrollment_token_id"].to_string();
    let link = ["collector", "box-1", "--link-host", "web-1"];
    server.run(&link).await.ok();
    until_online(&server, 2).await;
    // One of the two has each, but for what both have.
    let table = [
        (&["--search", "box-1"][..], 1),
        (&["--status", "online"], 2),
        (&["--state", "enrolled"], 2),
        (&["--key", "none"], 2),
        (&["--config", "unset"], 2),
        (&["--healthy"], 2),
        (&["--unhealthy"], 0),
        (&["--capability", "accepts_restart_command"], 1),
        (&["--attribute", "host.name=box-1"], 1),
        (&["--token", used.as_str()], 1),
        (&["--host", "web-1"], 1),
        (&["--host-link", "linked"], 1),
        (&["--version", "0.158.0"], 2),
        (&["--team", "Edge"], 1),
        (&["--team", "none"], 1),
    ];
    for (filter, expected) in table {
        let listed = lines(&server, &[&["collectors"], filter].concat()).await;
        assert_eq!(listed.len(), expected, "{filter:?}");
        let delete = [&["collectors", "--delete"], filter].concat();
        let told = server.run(&delete).await.ok().stderr;
        let word = if expected == 1 {
            "collector"
        } else {
            "collectors"
        };
        let begin = format!("{expected} {word} would be deleted: {expected} online");
        assert!(told.starts_with(&begin), "{filter:?}: {told}");
    }
    let program = CommandLine::command();
    let list = program.find_subcommand("collectors").unwrap();
    let is_filter = |argument: &&Arg| {
        let help = argument.get_help().map(ToString::to_string);
        help.is_some_and(|help| help.starts_with("Only collectors "))
    };
    let filters = list.get_arguments().filter(is_filter);
    let filters = filters.map(|filter| format!("--{}", filter.get_long().unwrap()));
    let tried = table.iter().map(|(filter, _)| filter[0].to_owned());
    assert_eq!(
        tried.collect::<BTreeSet<_>>(),
        filters.collect::<BTreeSet<_>>()
    );
    let all = table.iter().filter(|(_, number)| *number == 2);
    let all = all.flat_map(|(filter, _)| *filter).copied();
    let of_one = ["--token", &used, "--team", "Edge", "--delete", "--yes"];
    let delete: Vec<&str> = ["collectors"]
        .into_iter()
        .chain(all)
        .chain(of_one)
        .collect();
    let deleted = server.run(&delete).await.ok().stderr;
    assert_eq!(deleted, "deleted 1 collector\n");
    let left = lines(&server, &["collectors"]).await;
    assert_eq!((left.len(), &left[0]["host_name"]), (1, &"box-1".into()));
    let by_host = ["collectors", "--host", "web-1", "--delete", "--yes"];
    let deleted = server.run(&by_host).await.ok().stderr;
    assert_eq!(deleted, "deleted 1 collector\n");
}
