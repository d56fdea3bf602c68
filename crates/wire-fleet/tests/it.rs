//! The types against what a real Fleet server answered and what real clients asked.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod answers;
mod requests;
mod shapes;

use serde_json::Value;

/// The recorded exchanges of a file: kind, name, body.
fn recorded(file: &'static str) -> Vec<(String, String, Value)> {
    let lines = file.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (
            text(&line["kind"]),
            text(&line["name"]),
            line["body"].take(),
        )
    });
    lines.collect()
}
