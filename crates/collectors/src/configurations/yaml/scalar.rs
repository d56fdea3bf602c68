//! What a scalar means.

use saphyr_parser::{ScalarStyle, Tag};
use serde_json::Number;

use super::Value;

pub(super) fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    if let Some(tag) = tag.filter(|tag| tag.is_yaml_core_schema())
        && matches!(tag.suffix.as_str(), "str" | "binary")
    {
        return Value::Text(text.to_owned());
    }
    if style != ScalarStyle::Plain {
        return Value::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::Text(text.to_owned()), Value::Number),
    }
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
