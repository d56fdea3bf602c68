//! Which collector a name means.

use muster_wire_opamp::InstanceUid;
use serde_json::Value;

use super::super::id_in;
use super::show;
use crate::client::Client;
use crate::contexts::similar;
use crate::error::CliError;

/// The most collectors with a name like the one that is looked for.
const MAX_ALIKE: usize = 2_000;
/// The most collectors whose names are looked at for one that may have been meant.
const MAX_KNOWN: usize = 5_000;
/// The most collectors that are named when a name is not clear.
const MAX_NAMED: usize = 10;
/// Attributes that name one agent or one machine.
const NAMING_ATTRIBUTES: [&str; 2] = ["service.instance.id", "host.id"];
/// Characters of a uid as clients of long ago write it.
const OLD_UID_CHARACTERS: usize = 26;

/// By id when it is a number that is one; else by uid, by name, or by an attribute that names it.
pub(in crate::commands) async fn find(client: &Client, name: &str) -> Result<Value, CliError> {
    if name.trim().is_empty() {
        return Err(CliError::NoName);
    }
    if name.parse::<i64>().is_ok() {
        match client.get(&["collectors", name], &[]).await {
            Err(CliError::Refused { status: 404, .. }) => {}
            found => return found,
        }
    }
    if let Some(uid) = uid(name) {
        let uid = uid.to_string();
        let found = search(client, &uid).await?;
        if let Some(found) = found.iter().find(|one| one["instance_uid"] == *uid) {
            return Ok(found.clone());
        }
        // One that it had before leads to it, too.
        for one in found.iter().take(MAX_NAMED) {
            let id = id_in(one).unwrap_or_default().to_string();
            let detail = client.get(&["collectors", &id], &[]).await?;
            let uids = detail["instance_uids"].as_array();
            if uids.is_some_and(|uids| uids.iter().any(|one| *one == uid)) {
                return Ok(one.clone());
            }
        }
    }
    let (service, host) = match name.rsplit_once('@') {
        Some((service, host)) => (Some(service), host),
        None => (None, name),
    };
    let mut found = search(client, host).await?;
    found.retain(|one| is_called(one, name) || service.is_some_and(|it| is_on(one, it, host)));
    if found.is_empty() {
        for attribute in NAMING_ATTRIBUTES {
            let query = [("attribute", super::quoted(&format!("{attribute}={name}")))];
            found = client.list(&["collectors"], &query, MAX_ALIKE).await?;
            if !found.is_empty() {
                break;
            }
        }
    }
    match found.as_slice() {
        [] => Err(unknown(client, name).await?),
        [one] => Ok(one.clone()),
        several => Err(ambiguous(name, several)),
    }
}

async fn search(client: &Client, text: &str) -> Result<Vec<Value>, CliError> {
    let query = [("search", text.to_owned())];
    client.list(&["collectors"], &query, MAX_ALIKE).await
}

/// A uid as a UUID, also without hyphens, or as clients of long ago write it.
fn uid(text: &str) -> Option<InstanceUid> {
    if text.len() == OLD_UID_CHARACTERS {
        return InstanceUid::from_wire(text.as_bytes()).ok();
    }
    if text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
        return parts
            .map(|(from, to)| &text[from..to])
            .join("-")
            .parse()
            .ok();
    }
    text.parse().ok()
}

fn is(one: &Value, member: &str, text: &str) -> bool {
    let value = one.get(member).and_then(Value::as_str);
    value.is_some_and(|value| value.to_lowercase() == text.to_lowercase())
}

fn is_called(one: &Value, name: &str) -> bool {
    is(one, "name", name) || is(one, "host_name", name)
}

fn is_on(one: &Value, service: &str, host: &str) -> bool {
    is(one, "name", service) && is(one, "host_name", host)
}

async fn unknown(client: &Client, name: &str) -> Result<CliError, CliError> {
    let known = client.list(&["collectors"], &[], MAX_KNOWN).await?;
    let names = known.iter().flat_map(|one| {
        let members = ["name", "host_name", "instance_uid"];
        members.map(|member| one[member].as_str().unwrap_or_default())
    });
    Ok(CliError::NoCollector {
        name: name.to_owned(),
        similar: similar(name, names),
    })
}

fn ambiguous(name: &str, several: &[Value]) -> CliError {
    let line = |one: &Value| {
        let text = |member: &str| one[member].as_str().unwrap_or_default();
        let (id, title) = (one["id"].to_string(), show::title(one));
        let (status, uid) = (text("status"), text("instance_uid"));
        format!("{id:>5}  {title}, {status}, {uid}")
    };
    let mut some: Vec<String> = several.iter().take(MAX_NAMED).map(line).collect();
    if several.len() > MAX_NAMED {
        some.push(format!("and {} more", several.len() - MAX_NAMED));
    }
    CliError::AmbiguousCollector {
        name: name.to_owned(),
        total: several.len(),
        some,
        example: several.first().and_then(id_in).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_known_in_each_of_its_spellings() {
        let expected = "0193d3a4-7c2b-7e10-8a4b-1d2f3a4b5c6d";
        for text in [
            expected,
            "0193D3A4-7C2B-7E10-8A4B-1D2F3A4B5C6D",
            "0193d3a47c2b7e108a4b1d2f3a4b5c6d",
            "01JF9T8Z1BFR88MJRX5WX4PQ3D",
        ] {
            assert_eq!(uid(text).unwrap().to_string(), expected, "{text}");
        }
        for text in [
            "edge-1",
            "sixteen-letters!",
            "0193d3a4",
            "ünïcödé-of-26-bytes-long",
        ] {
            assert!(uid(text).is_none(), "{text}");
        }
    }
}
