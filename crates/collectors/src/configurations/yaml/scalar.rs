//! What a scalar means.

use saphyr_parser::{ScalarStyle, Tag};
use serde_json::Number;

use super::Value;

/// What a scalar means, or why its tag does not fit it: then a collector does not read the file.
pub(super) fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
) -> Result<Value, &'static str> {
    let is_plain = style == ScalarStyle::Plain;
    let Some(tag) = tag.filter(|tag| tag.is_yaml_core_schema()) else {
        return Ok(if is_plain {
            plain(text)
        } else {
            Value::Text(text.to_owned())
        });
    };
    // A tag counts more than quotes.
    let fits = match tag.suffix.as_str() {
        "str" | "binary" => return Ok(Value::Text(text.to_owned())),
        "null" => matches!(plain(text), Value::Null),
        "bool" => matches!(plain(text), Value::Bool(_)),
        "int" => is_whole(text),
        "float" => is_float(text),
        _ if is_plain => return Ok(plain(text)),
        _ => return Ok(Value::Text(text.to_owned())),
    };
    if fits {
        return Ok(plain(text));
    }
    Err(match tag.suffix.as_str() {
        "null" => "is marked as `!!null` and is not",
        "bool" => "is marked as `!!bool` and is neither true nor false",
        "int" => "is marked as `!!int` and is no whole number",
        _ => "is marked as `!!float` and is no number",
    })
}

/// What it means without a tag and without quotes.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::Text(text.to_owned()), Value::Number),
    }
}

/// Whether a collector reads it as a whole number: with a zero in front as well, and with `_` between digits.
fn is_whole(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let all = |digits: &str, radix: u32| {
        digits.chars().any(|c| c.is_digit(radix))
            && digits.chars().all(|c| c.is_digit(radix) || c == '_')
    };
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find_map(|(prefix, radix)| Some(all(digits.strip_prefix(prefix)?, radix)));
    prefixed.unwrap_or_else(|| digits.starts_with(|c: char| c.is_ascii_digit()) && all(digits, 10))
}

fn is_float(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    matches!(digits, ".inf" | ".Inf" | ".INF")
        || matches!(text, ".nan" | ".NaN" | ".NAN")
        || is_whole(text)
        || number(&text.replace('_', "")).is_some()
}

fn number(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let is_negative = text.starts_with('-');
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(rest) = digits.strip_prefix(prefix) {
            let value = i64::from_str_radix(rest, radix).ok()?;
            return Some(if is_negative { -value } else { value }.into());
        }
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        // With a zero in front some read it as octal: as text it compares right in any case.
        if digits.len() > 1 && digits.starts_with('0') {
            return None;
        }
        if let Ok(value) = text.parse::<i64>() {
            return Some(value.into());
        }
        return text.parse::<u64>().ok().map(Into::into);
    }
    let is_float = digits
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && digits.bytes().any(|b| b.is_ascii_digit());
    if !is_float {
        return None;
    }
    text.parse::<f64>().ok().and_then(Number::from_f64)
}

#[cfg(test)]
mod tests {
    use saphyr_parser::{Event, Parser};

    use super::*;

    fn reads(text: &str) -> bool {
        let mut events = Parser::new_from_str(text);
        let found = events.find_map(|event| match event.unwrap().0 {
            Event::Scalar(text, style, _, tag) => {
                Some(scalar(&text, style, tag.as_deref()).is_ok())
            }
            _ => None,
        });
        found.unwrap()
    }

    #[test]
    fn tags_must_fit_as_they_must_for_a_collector() {
        // Tried with a collector of 0.158 (`otelcol validate`).
        for text in [
            "!!bool true",
            "!!bool \"true\"",
            "!!float 1",
            "!!float .inf",
            "!!int \"5\"",
            "!!int 0755",
            "!!int 0x1f",
            "!!int 1_000",
            "!!null \"\"",
            "!!null ~",
            "!!seq x",
            "!!map x",
            "!!foo x",
            "!custom x",
            "!!str 5",
            "! 5",
        ] {
            assert!(reads(text), "{text}");
        }
        for text in [
            "!!int abc",
            "!!bool yes",
            "!!int 1.0",
            "!!int 1.5",
            "!!float abc",
            "!!null x",
        ] {
            assert!(!reads(text), "{text}");
        }
    }
}
