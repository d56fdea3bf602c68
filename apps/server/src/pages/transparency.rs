//! What administrators see of a host, as its user is told.
//!
//! It has to stay true of what hosts are asked (the detail queries of `hosts`) and of what can be asked of them.

use axum::http::StatusCode;
use axum::response::Response;

use super::html::{Html, Width, page};

/// What is collected from every host, and an example each.
const SEEN: &[(&str, &str)] = &[
    (
        "Which computer it is",
        "its names, serial number and hardware UUID, its maker and model, its processor and memory",
    ),
    (
        "Its system",
        "name, version, build and kernel, and when it was last started",
    ),
    (
        "Its network",
        "the address and the hardware address of the connection that leads out, and the address that it calls from",
    ),
    (
        "Its disk",
        "how large the disk of the system is and how much of it is free",
    ),
    (
        "Its accounts",
        "login name, number, main group and shell of each account; on Linux and macOS only of those that people log in with",
    ),
    (
        "Its software",
        "name, version and maker of installed packages, apps and programs, and of Python and npm packages",
    ),
    (
        "The agents on it",
        "their versions, how often they call, what they can do, and when they were last heard",
    ),
    ("Who uses it", "the e-mail address that was given for it"),
];

/// What can be asked beyond that.
const ASKED: &[&str] = &[
    "Programs that run, open network connections, logins, and hardware.",
    "Names, sizes, times and checksums of files, and settings of the system.",
    "Where osquery is the agent also browser extensions, the history of command shells, and, when it was set up for that, \
     databases that programs keep, such as a browser's history.",
];

/// What is out of reach.
const NOT_SEEN: &[&str] = &[
    "Your screen, camera and microphone, and what you type.",
    "Your documents, photos, e-mails, messages and passwords: none of them is collected.",
    "Muster runs no scripts on this computer, installs and removes no software, and cannot lock or erase it.",
];

/// Adds the three lists.
pub(super) fn add(html: &mut Html) {
    html.raw("<p>The agents on this computer report about once an hour:</p><ul>");
    for (what, example) in SEEN {
        html.raw("<li><strong>")
            .raw(what)
            .raw("</strong>: ")
            .raw(example)
            .raw(".</li>");
    }
    html.raw(
        "</ul><h3>What they can ask for</h3><p>Administrators can also ask questions, at any time or on a schedule, about \
         what the agent knows. Each question is kept with who asked it. For example:</p><ul>",
    );
    for what in ASKED {
        html.raw("<li>").raw(what).raw("</li>");
    }
    html.raw("</ul><h3>What they cannot see or do here</h3><ul>");
    for what in NOT_SEEN {
        html.raw("<li>").raw(what).raw("</li>");
    }
    html.raw("</ul>");
}

/// The page for everybody, without a host.
pub(super) async fn show() -> Response {
    let mut body = Html::default();
    body.raw("<main><h1>What your administrators can see</h1><section>");
    add(&mut body);
    body.raw("</section></main>");
    page(
        StatusCode::OK,
        "What your administrators can see",
        Width::Wide,
        &body,
    )
}
