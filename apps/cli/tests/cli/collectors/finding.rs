//! How a collector is named.

use super::{Agent, lines, look, token};
use crate::real::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_found_by_whatever_names_it() {
    let server = Server::start().await;
    server.log_in().await;
    let token = token(&server, &[]).await;
    for (uid, name, host) in [
        (0x11, "otelcol", "box-1"),
        (0x12, "otelcol", "box-2"),
        (0x13, "checkout", "box-2"),
    ] {
        let mut agent = Agent::new(&server, &token, uid, name, host);
        agent.report().await.unwrap();
    }
    for (name, id) in [
        ("2", 2),
        ("BOX-1", 1),
        ("checkout", 3),
        ("otelcol@box-2", 2),
        ("12121212-1212-1212-1212-121212121212", 2),
        ("13131313131313131313131313131313", 3),
        ("instance-17", 1),
    ] {
        assert_eq!(look(&server, name).await["id"], id, "{name}");
    }
    let several = server.run(&["collector", "otelcol", "--delete"]).await;
    assert_eq!(several.code, Some(1));
    assert_eq!(
        several.stderr,
        "muster: `otelcol` may be any of 2 collectors\n\
            \x20     1  otelcol on box-1, online, 11111111-1111-1111-1111-111111111111\n\
            \x20     2  otelcol on box-2, online, 12121212-1212-1212-1212-121212121212\n\
            \x20 name the one by its id: muster collector 1\n"
    );
    let unknown = server.run(&["collector", "chekout"]).await;
    assert_eq!(unknown.code, Some(1));
    assert_eq!(
        unknown.stderr,
        "muster: there is no collector `chekout` among those you may see; did you mean `checkout`?\n\
            \x20 list them: muster collectors, or muster collectors --search TEXT\n"
    );
    // As an unset variable leaves it: one that has no name is not meant.
    let mut nameless = Agent::new(&server, &token, 0x14, "", "box-9");
    nameless.report().await.unwrap();
    for arguments in [
        ["collector", "", "--delete"],
        ["collector-config", "delete", " "],
    ] {
        let empty = server.run(&arguments).await;
        assert_eq!(empty.code, Some(1), "{arguments:?}");
        assert_eq!(
            empty.stderr,
            "muster: the name is empty\n  name what is meant, or give its id\n"
        );
    }
    let number = server.run(&["collector", "99"]).await;
    assert!(
        number.stderr.contains("no collector `99`"),
        "{}",
        number.stderr
    );
    assert_eq!(
        lines(&server, &["collectors"]).await.len(),
        4,
        "none is gone"
    );
}
