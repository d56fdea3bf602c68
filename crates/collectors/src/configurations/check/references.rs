//! References such as `${env:NAME}`, in the place of which an agent puts something else before it reads what stands there.
//!
//! A collector that does not understand one of them does not start. What it will find there only the agent knows.

use crate::configurations::finding::Findings;
use crate::configurations::yaml::{Node, Place, Value, shown};

/// What the releases of OpenTelemetry's collectors resolve; those that somebody built may know others.
const PROVIDERS: [&str; 5] = ["env", "file", "yaml", "http", "https"];

/// Checks the references in all values.
pub(super) fn check(node: &Node, findings: &mut Findings<'_>) {
    if findings.are_many() {
        return;
    }
    match &node.value {
        Value::Text(text) => {
            for reference in references(text) {
                one(&reference, node.place, findings);
            }
        }
        Value::List(items) => items.iter().for_each(|item| check(item, findings)),
        Value::Map(entries) => entries
            .iter()
            .for_each(|entry| check(&entry.node, findings)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// How often a collector puts something in the place of a reference before it gives up (`confmap`, `expandValueRecursively`).
const MAX_EXPANSIONS: usize = 1_000;
/// Stands for what an agent puts in the place of a reference. No configuration has it: it is no character of YAML.
const EXPANDED: &str = "\u{1}";

/// What stands between `${` and `}`, one after the other as a collector finds them (`confmap`, `findURI`): up to the first `}`,
/// from the last `${` before it, so the innermost first. Two `$` stand for one, and behind such a `$${…}` nothing is looked for.
fn references(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut text = text.to_owned();
    while found.len() < MAX_EXPANSIONS
        && let Some(reference) = first(&text)
    {
        text = text.replace(&format!("${{{reference}}}"), EXPANDED);
        found.push(reference);
    }
    found
}

fn first(text: &str) -> Option<String> {
    let mut rest = text;
    loop {
        let close = rest.find('}')?;
        let Some(open) = rest[..close].rfind("${") else {
            rest = &rest[close + 1..];
            continue;
        };
        let dollars = rest[..open].len() - rest[..open].trim_end_matches('$').len();
        return dollars
            .is_multiple_of(2)
            .then(|| rest[open + 2..close].to_owned());
    }
}

/// Whether it is a name that an environment variable may have.
fn is_word(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Whether it is a name that a provider may have.
fn is_provider(name: &str) -> bool {
    name.len() > 1
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-'))
}

fn one(reference: &str, place: Place, findings: &mut Findings<'_>) {
    let whole = shown(&reference.replace(EXPANDED, "…"));
    let (provider, rest) = reference.split_once(':').unwrap_or(("env", reference));
    if rest.contains('$') {
        let message = format!(
            "`${{{whole}}}` has a $ in it, which collectors refuse there, also when it is written twice; take the value from a \
             variable of its own"
        );
        findings.error(place, message);
    } else if reference.contains(EXPANDED) {
        // Only the agent knows what it becomes.
    } else if provider == "env" {
        let name = rest.split_once(":-").map_or(rest, |(name, _)| name);
        if !is_word(name) {
            let message = format!(
                "`${{{whole}}}` names the environment variable `{}`, which collectors refuse: names are of letters, digits and \
                 _, without a digit in front; write $$ for a $ that stands for itself",
                shown(name)
            );
            findings.error(place, message);
        }
    } else if rest.starts_with('-') && is_word(provider) {
        let message = format!(
            "`${{{whole}}}` is refused by collectors; what to take when a variable is not set is written `${{env:{whole}}}`"
        );
        findings.error(place, message);
    } else if !is_provider(provider) {
        let message = format!(
            "`${{{whole}}}` is no reference that collectors understand; write `${{env:NAME}}` or `${{file:path}}`, and $$ for \
             a $ that stands for itself"
        );
        findings.error(place, message);
    } else if !PROVIDERS.contains(&provider) {
        let message = format!(
            "`${{{whole}}}` is refused by collectors that were not built with a provider `{}`; the usual ones are {}",
            shown(provider),
            PROVIDERS.join(", ")
        );
        findings.warning(place, message);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::configurations::finding::Severity;

    #[test]
    fn what_a_collector_cannot_resolve_is_told() {
        // Tried with a collector of 0.158 (`otelcol validate`).
        let told = |text: &str| {
            let names = [String::new()];
            let mut findings = Findings::new(&names);
            let place = Place {
                file: 0,
                line: 1,
                column: 1,
            };
            let value = Value::Text(text.to_owned());
            check(&Node { place, value }, &mut findings);
            let findings = findings.finish();
            findings.first().map(|finding| finding.severity)
        };
        for text in [
            "${1-a}",
            "${}",
            "${ foo }",
            "${a b}",
            "$$${1-a}",
            "${env:}",
            "${FOO:-bar}",
            "${env:A.B}",
            "a ${1-a} b",
            "${x:foo}",
            "${1abc:foo}",
            "${env:P:-pa$$word}",
            "${env:X:-$1}",
            "${file:/run/$name}",
            "${1-a}$${Y}",
            "}${1-a}",
            "${a$b}",
            "${env:A:-x${env:B:-y}z$q}",
            "${nosuch:a$b}",
        ] {
            assert_eq!(told(text), Some(Severity::Error), "{text}");
        }
        for text in [
            "${NOSUCH:x}",
            "${ENV:x}",
            "${no+such:foo}",
            "${env:FOO:-${nosuch:x}}",
        ] {
            assert_eq!(told(text), Some(Severity::Warning), "{text}");
        }
        for text in [
            "$${1-a}",
            "x${env:FOO",
            "${env:FOO:-a}",
            "${env:FOO}",
            "${FOO}",
            "$FOO",
            "${env:${env:X:-FOO}}",
            "${file:/nope}",
            "${yaml:a: b}",
            "$${1}-${2}",
            "a $${X} ${FOO:-b}",
            "${env:A.B:-$${C}}",
            "${env:X:-a}$${Y}${1-a}",
        ] {
            assert_eq!(told(text), None, "{text}");
        }
    }

    #[test]
    fn references_are_found_as_a_collector_finds_them() {
        for (text, expected) in [
            ("${env:A}", &["env:A"][..]),
            ("a ${A} b ${file:/x} c ${A}", &["A", "file:/x"]),
            ("$${A} $A {A} ${A", &[]),
            ("$$${A}", &["A"]),
            ("${env:A:-${env:B}}", &["env:B", "env:A:-\u{1}"]),
            ("}${}", &[""]),
            ("${é}", &["é"]),
            ("${A} $${B} ${C}", &["A"]),
        ] {
            assert_eq!(references(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_text_is_looked_through(text in "[${}:ab-]{0,60}") {
            prop_assert!(references(&text).len() < MAX_EXPANSIONS);
        }
    }
}
