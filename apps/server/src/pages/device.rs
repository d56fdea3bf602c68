//! The My device page: what the user of a host sees of it, behind the token that the host's tray icon has.
//!
//! The token is all that proves who asks, and it stands in the address alone: there are no cookies, so that no other site
//! can act for the user without knowing it. It is never written into what others get to see: pages send no referrer, load
//! nothing, and are not kept by the browser.

use std::fmt::Write as _;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::{QueryRejection, RawPathParamsRejection};
use axum::extract::{Query, RawPathParams, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use muster_clock::Timestamp;
use muster_hosts::{
    Agents, HostDetail, HostPresence, Hosts, HostsError, Refetch, presence_of, refetch_state,
};
use muster_http::{ClientAddress, Listing, OrderDirection, Page, Problem};
use muster_identity::HostId;
use muster_settings::SettingsService;
use muster_software::{SoftwareVersion, VERSION_SORTS, Visible};
use serde::Deserialize;

use super::html::{Html, Width, page, plain_page};
use super::transparency;

/// How much software one page shows.
const SOFTWARE_ROWS: u32 = 25;
/// The longest text that is searched for, in characters; the rest is left out.
const MAX_SEARCH_CHARACTERS: usize = 100;
/// The furthest page of software.
const MAX_PAGE: u64 = 1_000_000;
/// Our own agent, as programs of hosts are named.
const OWN_AGENT: &str = "muster-agent";

#[derive(Clone)]
struct Device {
    agents: Agents,
    hosts: Hosts,
    settings: SettingsService,
}

/// Its routes. What the desktop app opens below a token (`software`, `policies`, …) is the same page.
pub(crate) fn routes(agents: Agents, hosts: Hosts, settings: SettingsService) -> Router {
    Router::new()
        .route("/device/{token}", get(show))
        .route("/device/{token}/", get(show))
        .route("/device/{token}/refetch", get(show).post(refetch))
        .route("/device/{token}/{*rest}", get(show))
        .route("/transparency", get(transparency::show))
        .with_state(Device {
            agents,
            hosts,
            settings,
        })
}

type Params = Result<RawPathParams, RawPathParamsRejection>;

/// The token in the address; what is no text is none.
fn token(params: &Params) -> &str {
    let params = params.as_ref().ok();
    let token = params.and_then(|params| params.iter().find(|(name, _)| *name == "token"));
    token.map_or("", |(_, token)| token)
}

/// The way to the host's own page from the page that was asked for. Relative, so that a prefix of the path need not be
/// known.
fn way_home(uri: &Uri, token: &str) -> String {
    let slashes = uri.path().matches('/').count();
    let mut way = "../".repeat(slashes.saturating_sub(2));
    for byte in token.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) {
            way.push(char::from(byte));
        } else {
            let _ = write!(way, "%{byte:02X}");
        }
    }
    way
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wishes {
    query: String,
    page: String,
}

impl Wishes {
    fn search(&self) -> Option<String> {
        let plain = self.query.trim().chars().filter(|c| !c.is_control());
        let text: String = plain.take(MAX_SEARCH_CHARACTERS).collect();
        Some(text).filter(|text| !text.is_empty())
    }

    /// From 1.
    fn page(&self) -> u64 {
        self.page.trim().parse().unwrap_or(1).clamp(1, MAX_PAGE)
    }
}

async fn show(
    State(device): State<Device>,
    uri: Uri,
    params: Params,
    address: ClientAddress,
    wishes: Result<Query<Wishes>, QueryRejection>,
) -> Response {
    let token = token(&params);
    let wishes = wishes.map(|Query(wishes)| wishes).unwrap_or_default();
    let shown = async {
        let agents = &device.agents;
        let host = agents.authenticate_device_from(token, address).await;
        let host = host.map_err(HostsError::into_orbit)?;
        shown(&device, host, &wishes, &way_home(&uri, token)).await
    };
    shown.await.unwrap_or_else(refusal)
}

async fn refetch(
    State(device): State<Device>,
    uri: Uri,
    params: Params,
    address: ClientAddress,
) -> Response {
    let token = token(&params);
    let done = async {
        let agents = &device.agents;
        let host = agents.authenticate_device_from(token, address).await?;
        agents.refetch_device(host).await
    };
    if let Err(error) = done.await {
        return refusal(error.into_orbit());
    }
    match HeaderValue::try_from(way_home(&uri, token)) {
        Ok(place) => (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response(),
        Err(error) => refusal(Problem::internal(&error)),
    }
}

/// A page that says why there is nothing to see.
fn refusal(problem: Problem) -> Response {
    let status = problem.status();
    let (title, text) = match status {
        StatusCode::UNAUTHORIZED => (
            "This page has expired",
            "<p>For your safety the address of this page is good for an hour only.</p><p>Open it again from the tray icon \
             of this computer: choose <strong>My device</strong> there.</p>",
        ),
        StatusCode::TOO_MANY_REQUESTS => (
            "Too many tries",
            "<p>From your network came too many addresses of pages that do not exist. Wait a minute, then open the page \
             again from the tray icon of your computer.</p>",
        ),
        StatusCode::SERVICE_UNAVAILABLE => (
            "Try again in a moment",
            "<p>The server cannot look at its data just now. Nothing is wrong with this computer: load this page again in \
             a moment.</p>",
        ),
        _ => (
            "This did not work",
            "<p>The server made a mistake. Tell your administrators, who find the reason in its log.</p>",
        ),
    };
    let mut body = Html::default();
    body.raw(text);
    let mut response = plain_page(status, title, &body);
    let told = problem.clone().into_response();
    if let Some(seconds) = told.headers().get(header::RETRY_AFTER) {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, seconds.clone());
    }
    // Refusals are counted by what stands here.
    response.extensions_mut().insert(problem);
    response
}

async fn shown(
    device: &Device,
    id: HostId,
    wishes: &Wishes,
    home: &str,
) -> Result<Response, Problem> {
    let record = device.agents.find_host(id).await?;
    let record = record.ok_or_else(|| HostsError::UnknownHost.into_orbit())?;
    let host = device.hosts.detail(record).await?;
    let search = wishes.search();
    let listing = Listing {
        limit: SOFTWARE_ROWS,
        offset: (wishes.page() - 1) * u64::from(SOFTWARE_ROWS),
        sort: VERSION_SORTS[0],
        direction: OrderDirection::Ascending,
        search: search.clone(),
    };
    let software = device.agents.software();
    let software = software
        .versions_of_host(&Visible::All, id, &listing)
        .await?;
    let settings = device.settings.current();
    let organisation = &settings.documents.organisation;
    let now = device.hosts.now();
    let name = host.host.display_name();

    let mut body = Html::default();
    body.raw("<header><p class=\"organisation\">")
        .text(&organisation.name)
        .raw("</p><h1>")
        .text(&name)
        .raw("</h1><p class=\"state\">")
        .piece(&state(&host, now))
        .raw(
            "</p><nav class=\"jumps\" aria-label=\"On this page\"><a href=\"#computer\">This computer</a>\
             <a href=\"#software\">Software</a><a href=\"#seen\">What administrators see</a></nav></header><main>",
        )
        .piece(&computer(&host, home, now))
        .piece(&agents(&host))
        .piece(&list(&software, search.as_deref(), wishes.page()))
        .raw("<section aria-labelledby=\"seen\"><h2 id=\"seen\">What your administrators can see</h2>");
    transparency::add(&mut body);
    if !organisation.transparency_url.is_empty() {
        body.raw("<p>Your organisation says more about it on <a rel=\"noreferrer\" href=\"")
            .text(&organisation.transparency_url)
            .raw("\">its own page</a>.</p>");
    }
    body.raw("</section></main><footer>");
    if !organisation.contact_url.is_empty() {
        body.raw("<p>Something is wrong? <a rel=\"noreferrer\" href=\"")
            .text(&organisation.contact_url)
            .raw("\">Ask for help</a>.</p>");
    }
    body.raw(
        "<p>Keep the address of this page to yourself: whoever has it sees this page for as long as it is good, an hour at \
         most.</p></footer>",
    );
    Ok(page(StatusCode::OK, &name, Width::Wide, &body))
}

fn state(host: &HostDetail, now: Timestamp) -> Html {
    let mut html = Html::default();
    match presence_of(&host.host, now) {
        HostPresence::Online => html.raw("<span class=\"dot on\"></span>Online, last seen "),
        HostPresence::Offline | HostPresence::Missing => {
            html.raw("<span class=\"dot\"></span>Offline, last seen ")
        }
    };
    match host.host.seen_at {
        Some(at) => html.piece(&moment(at, now)),
        None => html.raw("never"),
    };
    html
}

/// A term and what it says, unless that is nothing.
fn fact(html: &mut Html, term: &'static str, text: &str) {
    if !text.trim().is_empty() {
        html.raw("<div><dt>")
            .raw(term)
            .raw("</dt><dd>")
            .text(text)
            .raw("</dd></div>");
    }
}

fn computer(host: &HostDetail, home: &str, now: Timestamp) -> Html {
    let record = &host.host;
    let facts = &record.facts;
    let mut html = Html::default();
    html.raw("<section aria-labelledby=\"computer\"><h2 id=\"computer\">This computer</h2><dl>");
    if facts.hostname != record.display_name() {
        fact(&mut html, "Network name", &facts.hostname);
    }
    fact(&mut html, "System", &facts.os_version);
    fact(&mut html, "Platform", &facts.platform);
    fact(&mut html, "Serial number", &facts.hardware_serial);
    let model = format!("{} {}", facts.hardware_vendor, facts.hardware_model);
    fact(&mut html, "Model", model.trim());
    fact(&mut html, "Processor", &facts.cpu_brand);
    fact(&mut html, "Memory", &memory(facts.memory_bytes));
    let disk = disk(facts.disk_available_gb, facts.disk_total_gb);
    fact(&mut html, "Disk", &disk);
    fact(&mut html, "Address", &facts.primary_ip);
    let people: Vec<&str> = host
        .end_users
        .iter()
        .map(|user| user.email.as_str())
        .collect();
    if !people.is_empty() {
        html.raw("<div class=\"whole\"><dt>Used by</dt><dd>")
            .text(&people.join(", "))
            .raw("</dd></div>");
    }
    if let Some(at) = facts.last_restarted_at {
        html.raw("<div><dt>Last started</dt><dd>")
            .piece(&moment(at, now))
            .raw("</dd></div>");
    }
    html.raw("<div><dt>Details from</dt><dd>");
    match record.detail_updated_at {
        Some(at) => html.piece(&moment(at, now)),
        None => html.raw("nothing was reported yet"),
    };
    html.raw("</dd></div></dl>");
    match refetch_state(record, now) {
        None => html
            .raw("<form method=\"post\" action=\"")
            .text(&format!("{home}/refetch"))
            .raw("\"><button>Refresh the details</button></form>"),
        Some(Refetch::Wanted) => html.raw(
            "<p class=\"quiet\" role=\"status\">New details were asked for. This computer sends them when it next calls; \
             load this page again then.</p>",
        ),
        Some(Refetch::TooNew(again_at)) => html
            .raw("<p class=\"quiet\">The details are new. You can have them refreshed again at ")
            .piece(&clock(again_at))
            .raw(".</p>"),
    };
    html.raw("</section>");
    html
}

fn agents(host: &HostDetail) -> Html {
    let facts = &host.host.facts;
    let mut html = Html::default();
    html.raw("<section aria-labelledby=\"agents\"><h2 id=\"agents\">Agents on it</h2><dl>");
    let own = host
        .capabilities
        .iter()
        .find(|said| said.process == OWN_AGENT);
    let own = own.map_or("", |said| said.version.as_str());
    fact(&mut html, "muster-agent", own);
    // Our own agent answers for both of the others, with its own version.
    for (name, version) in [
        ("osquery", &facts.osquery_version),
        ("orbit", &facts.orbit_version),
        ("Fleet Desktop", &facts.desktop_version),
    ] {
        if version != own {
            fact(&mut html, name, version);
        }
    }
    html.raw("</dl>");
    let unknown = [&facts.osquery_version, &facts.orbit_version];
    if own.is_empty() && unknown.iter().all(|version| version.is_empty()) {
        html.raw("<p class=\"quiet\">They did not say their versions yet.</p>");
    }
    html.raw("</section>");
    html
}

fn list(software: &Page<SoftwareVersion>, search: Option<&str>, number: u64) -> Html {
    let mut html = Html::default();
    html.raw(
        "<section aria-labelledby=\"software\"><h2 id=\"software\">Software</h2>\
         <form method=\"get\" action=\"#software\" role=\"search\"><label for=\"query\">Search by name or version</label>\
         <div class=\"search\"><input id=\"query\" name=\"query\" type=\"search\" maxlength=\"100\" autocomplete=\"off\" \
         value=\"",
    )
    .text(search.unwrap_or_default())
    .raw("\"><button>Search</button></div></form><p class=\"quiet\" role=\"status\">");
    let first = (number - 1) * u64::from(SOFTWARE_ROWS);
    let rows = software.items.len() as u64;
    if rows == 0 {
        let nothing = match (search, software.total) {
            (None, 0) => "This computer did not report any software yet.",
            (Some(_), 0) => "Nothing on this computer is called so.",
            (_, _) => "There is nothing more.",
        };
        html.raw(nothing).raw("</p>");
    } else {
        html.number(first + 1)
            .raw(" to ")
            .number(first + rows)
            .raw(" of ")
            .number(software.total)
            .raw(
                "</p><table><thead><tr><th scope=\"col\">Name</th><th scope=\"col\">Version</th>\
                 <th scope=\"col\">From</th></tr></thead><tbody>",
            );
        for version in &software.items {
            html.raw("<tr><td>")
                .text(&version.name)
                .raw("</td><td>")
                .text(&version.version)
                .raw("</td><td>")
                .text(source(&version.source))
                .raw("</td></tr>");
        }
        html.raw("</tbody></table>");
    }
    let before = (number > 1).then(|| number - 1);
    let after = (first + rows < software.total && rows > 0).then(|| number + 1);
    if before.is_some() || after.is_some() {
        html.raw("<nav aria-label=\"Pages of software\">");
        link(&mut html, search, before, "Previous page");
        link(&mut html, search, after, "Next page");
        html.raw("</nav>");
    }
    html.raw("</section>");
    html
}

fn link(html: &mut Html, search: Option<&str>, number: Option<u64>, text: &'static str) {
    let Some(number) = number else {
        html.raw("<span></span>");
        return;
    };
    let number = number.to_string();
    let wishes = [("query", search.unwrap_or_default()), ("page", &number)];
    let query = serde_urlencoded::to_string(wishes).unwrap_or_default();
    html.raw("<a href=\"?")
        .text(&query)
        .raw("#software\">")
        .raw(text)
        .raw("</a>");
}

/// Where software comes from, as people say.
fn source(table: &str) -> &str {
    match table {
        "deb_packages" => "deb",
        "rpm_packages" => "rpm",
        "python_packages" => "Python",
        "npm_packages" => "npm",
        "apps" => "app",
        "programs" => "program",
        other => other,
    }
}

/// Memory as makers of computers count it.
fn memory(bytes: Option<i64>) -> String {
    match bytes.filter(|bytes| *bytes > 0) {
        Some(bytes) => format!("{} GB", short(bytes as f64 / f64::from(1 << 30))),
        None => String::new(),
    }
}

fn disk(available_gb: Option<f64>, total_gb: Option<f64>) -> String {
    match (available_gb, total_gb) {
        (Some(free), Some(total)) if total > 0.0 => {
            format!("{} GB of {} GB free", short(free), short(total))
        }
        _ => String::new(),
    }
}

/// With one digit after the point, unless it is 0.
fn short(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// A time as text of the minute, in UTC.
fn minute(at: Timestamp) -> String {
    let text = Timestamp::from_seconds(at.as_seconds()).to_string();
    match text.get(..16) {
        Some(minute) => format!("{} UTC", minute.replace('T', " ")),
        None => text,
    }
}

fn time_element(at: Timestamp, title: &str, text: &str) -> Html {
    let mut html = Html::default();
    html.raw("<time datetime=\"")
        .text(&Timestamp::from_seconds(at.as_seconds()).to_string())
        .raw("\" title=\"")
        .text(title)
        .raw("\">")
        .text(text)
        .raw("</time>");
    html
}

fn clock(at: Timestamp) -> Html {
    let minute = minute(at);
    let clock = minute.get(11..).unwrap_or(&minute);
    time_element(at, &minute, clock)
}

fn moment(at: Timestamp, now: Timestamp) -> Html {
    time_element(at, &minute(at), &ago(now.since(at)))
}

fn ago(span: Duration) -> String {
    let seconds = span.as_secs();
    let (count, unit) = match seconds {
        0..60 => return "just now".to_owned(),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let many = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{many} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_home_is_relative_and_keeps_any_token_one_segment() {
        for (path, token, way) in [
            ("/device/a-b", "a-b", "a-b"),
            ("/device/a-b/", "a-b", "../a-b"),
            ("/device/a-b/refetch", "a-b", "../a-b"),
            ("/device/a-b/software/all", "a-b", "../../a-b"),
            ("/device/x%3A%2F%22", "x:/\"", "x%3A%2F%22"),
        ] {
            assert_eq!(way_home(&path.parse().unwrap(), token), way, "{path}");
        }
    }

    #[test]
    fn times_and_sizes_are_told_as_people_say_them() {
        for (seconds, text) in [
            (5, "just now"),
            (60, "1 minute ago"),
            (7_199, "1 hour ago"),
            (3 * 86_400, "3 days ago"),
        ] {
            assert_eq!(ago(Duration::from_secs(seconds)), text);
        }
        assert_eq!(memory(Some(8_589_934_592)), "8 GB");
        assert_eq!(memory(Some(0)), "");
        assert_eq!(disk(Some(20.52), Some(51.2)), "20.5 GB of 51.2 GB free");
        assert_eq!(
            minute(Timestamp::from_micros(1_795_392_061_500_000)),
            "2026-11-23 00:01 UTC"
        );
    }
}
