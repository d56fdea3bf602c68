//! Files of configurations: read from this machine, checked by the server, printed.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{CONFIGS, collector_id};
use crate::arguments::{ConfigFiles, ConfigKind};
use crate::client::Client;
use crate::error::CliError;
use crate::input::{self, STDIN};
use crate::output;

/// The files by name, as a request has them.
pub(super) fn read(arguments: &ConfigFiles) -> Result<Value, CliError> {
    let mut files = Map::new();
    for argument in &arguments.files {
        // A path may have a `=` in it, if it is there.
        let (name, path) = match argument.split_once('=') {
            Some((name, path)) if !Path::new(argument).exists() => (name.to_owned(), path),
            _ if argument == STDIN => (String::new(), STDIN),
            _ => {
                let name = Path::new(argument).file_name().unwrap_or_default();
                (name.to_string_lossy().into_owned(), argument.as_str())
            }
        };
        let body = input::text(Path::new(path))?;
        let is_json = Path::new(path)
            .extension()
            .is_some_and(|kind| kind.eq_ignore_ascii_case("json"));
        let content_type = if is_json {
            "application/json"
        } else {
            "text/yaml"
        };
        let file = json!({ "body": body, "content_type": content_type });
        if files.insert(name.clone(), file).is_some() {
            return Err(CliError::SameFileName { name });
        }
    }
    Ok(Value::Object(files))
}

/// `otelcol.yaml:5:19: error: …`
pub(super) fn finding_line(finding: &Value) -> String {
    let mut line = String::new();
    if let Some(file) = finding["file"].as_str() {
        let file = if file.is_empty() { "(unnamed)" } else { file };
        let _ = write!(line, "{file}:");
        if let (Some(at), Some(column)) = (finding["line"].as_u64(), finding["column"].as_u64()) {
            let _ = write!(line, "{at}:{column}:");
        }
        line.push(' ');
    }
    let text = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let _ = write!(line, "{}: {}", text("severity"), text("message"));
    line
}

pub(super) fn findings_of(answer: &Value, member: &str) -> Vec<Value> {
    answer[member].as_array().cloned().unwrap_or_default()
}

fn count_errors(findings: &[Value]) -> usize {
    findings
        .iter()
        .filter(|finding| finding["severity"] == "error")
        .count()
}

async fn look_at(
    client: &Client,
    files: &Value,
    kind: ConfigKind,
    collector: Option<i64>,
) -> Result<Vec<Value>, CliError> {
    let mut body = json!({ "kind": kind.name(), "files": files });
    if let Some(id) = collector {
        body["collector_id"] = json!(id);
    }
    let answer = client.post(&[CONFIGS, "validate"], &body).await?;
    Ok(findings_of(&answer, "findings"))
}

/// Ends when a collector would not start with the files, after saying why.
pub(super) async fn check(
    client: &Client,
    files: &Value,
    kind: ConfigKind,
    collector: Option<i64>,
) -> Result<(), CliError> {
    let findings = look_at(client, files, kind, collector).await?;
    let errors = count_errors(&findings);
    if errors == 0 {
        return Ok(());
    }
    for finding in &findings {
        output::say(&finding_line(finding));
    }
    Err(CliError::BadConfiguration { errors })
}

pub(super) async fn validate(
    client: &Client,
    files: &ConfigFiles,
    collector: Option<&str>,
    kind: ConfigKind,
    as_json: bool,
) -> Result<(), CliError> {
    let files = read(files)?;
    let collector = match collector {
        Some(name) => Some(collector_id(client, name).await?),
        None => None,
    };
    let findings = look_at(client, &files, kind, collector).await?;
    let mut text = String::new();
    for finding in &findings {
        let line = if as_json {
            finding.to_string()
        } else {
            output::printable_lines(&finding_line(finding))
        };
        let _ = writeln!(text, "{line}");
    }
    output::print(&text)?;
    match count_errors(&findings) {
        0 => {
            output::say("good");
            Ok(())
        }
        errors => Err(CliError::BadConfiguration { errors }),
    }
}

/// One file as it is; of several each with its name before it, as a comment.
pub(super) fn print_files(files: &Value) -> Result<(), CliError> {
    let files = files.as_object().cloned().unwrap_or_default();
    let mut text = String::new();
    let to_terminal = std::io::stdout().is_terminal();
    for (name, file) in &files {
        if files.len() > 1 {
            let name = if name.is_empty() { "(unnamed)" } else { name };
            let _ = writeln!(text, "# {}", output::printable(name));
        }
        let body = file["body"].as_str().unwrap_or_default();
        if to_terminal {
            text.push_str(&output::printable_lines(body));
            text.push('\n');
        } else {
            text.push_str(body);
        }
    }
    output::print(&text)
}
