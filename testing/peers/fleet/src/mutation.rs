//! Requests as no client sends them: every value dropped, retyped and made huge; bodies and headers damaged.

use serde_json::{Value, json};

/// The longest text that takes the place of a value, in bytes: well over what any field may have, and below the limit of
/// bodies, so that it is read.
const HUGE_TEXT_BYTES: usize = 300_000;
/// How deep nested lists are that take the place of a value.
const DEEP: usize = 2_000;

/// A body that is not as it was recorded.
#[derive(Debug, Clone)]
pub struct Mutation {
    /// Which value, as a JSON pointer.
    pub at: String,
    /// What was done to it.
    pub what: &'static str,
    /// The whole body.
    pub body: String,
}

/// Every place in a body, as JSON pointers; of lists only the first two elements, which stand for the others.
pub fn places(body: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(body, String::new(), &mut found);
    found
}

fn collect(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let name = name.replace('~', "~0").replace('/', "~1");
                collect(member, format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate().take(2) {
                collect(item, format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
    if !at.is_empty() {
        found.push(at);
    }
}

/// All that is done to the value at one place.
pub fn mutations(body: &Value, at: &str) -> Vec<Mutation> {
    let replaced = |what, value: Value| {
        let mut body = body.clone();
        *body.pointer_mut(at).expect("the place is there") = value;
        Mutation {
            at: at.to_owned(),
            what,
            body: body.to_string(),
        }
    };
    let mut made = vec![
        replaced("null", Value::Null),
        replaced("a number", json!(7)),
        replaced("a number below zero", json!(-1)),
        replaced("a number out of range", json!(1e300)),
        replaced("a flag", json!(true)),
        replaced("an empty text", json!("")),
        replaced("a text", json!("\u{0}\u{1f600}'\"<script>%s")),
        replaced("a list", json!([1, "x", null, {}])),
        replaced("an object", json!({ "": { "x": [] } })),
        replaced("a huge text", json!("x".repeat(HUGE_TEXT_BYTES))),
        dropped(body, at),
        renamed(body, at),
    ];
    let mut deep = replaced("", json!("<deep>"));
    deep.what = "lists in lists";
    deep.body = deep.body.replace(
        "\"<deep>\"",
        &format!("{}{}", "[".repeat(DEEP), "]".repeat(DEEP)),
    );
    made.push(deep);
    made
}

fn dropped(body: &Value, at: &str) -> Mutation {
    let mut body = body.clone();
    if let Some((parent, name)) = parent_of(&mut body, at) {
        match parent {
            Value::Object(members) => drop(members.shift_remove(&name)),
            Value::Array(items) => drop(items.remove(name.parse().expect("an index"))),
            _ => {}
        }
    }
    Mutation {
        at: at.to_owned(),
        what: "dropped",
        body: body.to_string(),
    }
}

fn renamed(body: &Value, at: &str) -> Mutation {
    let mut body = body.clone();
    if let Some((Value::Object(members), name)) = parent_of(&mut body, at)
        && let Some(value) = members.shift_remove(&name)
    {
        members.insert(name.to_uppercase(), value);
    }
    Mutation {
        at: at.to_owned(),
        what: "named in capitals",
        body: body.to_string(),
    }
}

fn parent_of<'a>(body: &'a mut Value, at: &str) -> Option<(&'a mut Value, String)> {
    let (parent, name) = at.rsplit_once('/')?;
    let name = name.replace("~1", "/").replace("~0", "~");
    Some((body.pointer_mut(parent)?, name))
}

/// Bodies that are no JSON any more, or more than one.
pub fn damaged(body: &str) -> Vec<(&'static str, Vec<u8>)> {
    let half = (0..=body.len() / 2)
        .rev()
        .find(|at| body.is_char_boundary(*at))
        .unwrap_or_default();
    let bytes = body.as_bytes();
    let mut bad_text = bytes.to_vec();
    bad_text.insert(half, 0xff);
    vec![
        ("empty", Vec::new()),
        ("cut in the middle", bytes[..half].to_vec()),
        (
            "cut at the end",
            bytes[..bytes.len().saturating_sub(1)].to_vec(),
        ),
        ("doubled", [bytes, bytes].concat()),
        ("with a byte that is no text", bad_text),
        (
            "after a mark of byte order",
            [b"\xef\xbb\xbf", bytes].concat(),
        ),
        ("in a list", [b"[", bytes, b"]"].concat()),
        (
            "as a text",
            Value::String(body.to_owned()).to_string().into_bytes(),
        ),
        ("null", b"null".to_vec()),
        ("lists in lists", "[".repeat(100_000).into_bytes()),
    ]
}

/// Values of `X-Fleet-Capabilities` as no client sends them; several are sent as several headers.
pub fn capability_headers() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let names = |count: usize| {
        (0..count)
            .map(|n| format!("name_{n}"))
            .collect::<Vec<_>>()
            .join(",")
            .into_bytes()
    };
    vec![
        (
            "repeated",
            vec![
                b"escrow_buddy".to_vec(),
                b"setup_experience".to_vec(),
                b"escrow_buddy".to_vec(),
            ],
        ),
        (
            "in capitals",
            vec![b"ESCROW_BUDDY,Setup_Experience".to_vec()],
        ),
        (
            "with spaces",
            vec![b" escrow_buddy , setup_experience ,".to_vec()],
        ),
        ("8 kB long", vec![vec![b'x'; 8 * 1024]]),
        ("10,000 names", vec![names(10_000)]),
        ("no text", vec![vec![0xff, 0xfe, b',', 0x80]]),
        ("commas", vec![vec![b','; 4096]]),
        ("empty", vec![Vec::new()]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_found_and_can_be_dropped() {
        let body = json!({ "a": { "b/c": 1 }, "d": ["x", "y", "z"] });
        assert_eq!(places(&body), ["/a/b~1c", "/a", "/d/0", "/d/1", "/d"]);
        assert_eq!(
            dropped(&body, "/a/b~1c").body,
            r#"{"a":{},"d":["x","y","z"]}"#
        );
        assert_eq!(
            dropped(&body, "/d/1").body,
            r#"{"a":{"b/c":1},"d":["x","z"]}"#
        );
        assert_eq!(
            renamed(&body, "/d").body,
            r#"{"a":{"b/c":1},"D":["x","y","z"]}"#
        );
    }

    #[test]
    fn every_mutation_is_another_body() {
        let body = json!({ "a": "first" });
        let made = mutations(&body, "/a");
        let original = body.to_string();
        assert!(made.iter().all(|mutation| mutation.body != original));
        let mut bodies: Vec<_> = made.iter().map(|mutation| &mutation.body).collect();
        bodies.sort();
        bodies.dedup();
        assert_eq!(bodies.len(), made.len());
    }
}
