//! Fleet's user API: the list of hosts as a file for other programs.

use std::collections::HashMap;
use std::fmt::Write as _;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use muster_http::{Problem, Query};
use muster_identity::{Action, Principal, Scope};
use muster_wire_fleet::host::Host;
use serde_json::{Map, Value};

use super::fleet_shape::{Wishes, listed, team_names};
use crate::operators::{HostQuery, Hosts};

/// Members of a host that do not fit into a cell.
const NESTED: &[&str] = &["pack_stats", "mdm"];

/// `GET …/hosts/report?format=csv`, with the filters and the order of the list. `columns` names members of a host, with
/// commas; without it all are there that are one value.
pub(super) async fn report(
    State(hosts): State<Hosts>,
    principal: Principal,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Problem> {
    principal.authorize(Action::ReadHosts, Scope::Anywhere)?;
    let wishes = Wishes(query);
    match wishes.text("format") {
        None => return Err(Problem::bad_request("Param Format is required")),
        Some("csv") => {}
        Some(_) => {
            return Err(Problem::bad_request(
                "unsupported or unspecified report format",
            ));
        }
    }
    let columns = columns(wishes.text("columns"))?;
    let listing = wishes.listing()?;
    let filter = HostQuery {
        label_id: wishes.number("label_id")?,
        ..wishes.filter(&hosts, &principal).await?
    };
    let page = hosts.list(&principal, &listing, &filter).await?;
    let teams = team_names(&hosts).await?;
    let now = hosts.now();
    let mut text = String::new();
    line(&mut text, columns.iter().map(|name| Value::from(&**name)));
    for record in &page.items {
        let mut host = members(&listed(record, &teams, now));
        line(
            &mut text,
            columns
                .iter()
                .map(|name| host.remove(name).unwrap_or_default()),
        );
    }
    let date = now.to_string();
    let date = date.split('T').next().unwrap_or_default();
    let disposition = format!("attachment; filename=\"Hosts {date}.csv\"");
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv"));
    if let Ok(disposition) = HeaderValue::from_str(&disposition) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}

/// The members of a host that are one value.
fn members(host: &Host) -> Map<String, Value> {
    let mut members = match serde_json::to_value(host) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    };
    members.insert("issues".to_owned(), host.issues.total_issues_count.into());
    members.retain(|name, _| !NESTED.contains(&name.as_str()));
    members
}

fn columns(wanted: Option<&str>) -> Result<Vec<String>, Problem> {
    let known = members(&Host::default());
    let Some(wanted) = wanted else {
        return Ok(known.keys().cloned().collect());
    };
    let names = wanted.split(',').map(str::trim);
    names
        .map(|name| {
            if known.contains_key(name) {
                Ok(name.to_owned())
            } else {
                Err(Problem::bad_request(format!(
                    "invalid column name: {name:?}"
                )))
            }
        })
        .collect()
}

fn line(text: &mut String, cells: impl Iterator<Item = Value>) {
    for (index, cell) in cells.enumerate() {
        if index > 0 {
            text.push(',');
        }
        match cell {
            Value::Null => {}
            Value::String(cell) if cell.contains(['"', ',', '\n', '\r']) => {
                let _ = write!(text, "\"{}\"", cell.replace('"', "\"\""));
            }
            Value::String(cell) => text.push_str(&cell),
            cell => {
                let _ = write!(text, "{cell}");
            }
        }
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_that_is_needed() {
        let mut text = String::new();
        let cells = [
            Value::from(7),
            Value::Null,
            Value::from("a,\"b\"\nc"),
            Value::from("d"),
            Value::from(true),
        ];
        line(&mut text, cells.into_iter());
        assert_eq!(text, "7,,\"a,\"\"b\"\"\nc\",d,true\n");
    }

    #[test]
    fn every_member_that_is_one_value_is_a_column() {
        let all = columns(None).unwrap();
        for name in ["id", "hostname", "status", "team_name", "issues"] {
            assert!(all.iter().any(|column| column == name), "{name} in {all:?}");
        }
        assert_eq!(columns(Some("status, id")).unwrap(), ["status", "id"]);
        for wrong in ["nope", "mdm", "id,,status"] {
            assert!(columns(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
