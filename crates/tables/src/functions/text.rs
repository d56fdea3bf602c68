//! Text functions: regular expressions, splitting, joining, versions, network addresses.

use std::net::Ipv4Addr;
use std::sync::Arc;

use regex_lite::{Regex, RegexBuilder};
use rusqlite::Connection;
use rusqlite::functions::Context;

use super::PURE;
use super::collation::compare_versions;
use crate::cursor::cell_from;

/// How long a regular expression may be, in bytes.
const MAX_REGEX_BYTES: usize = 4 * 1024;
/// How large it may become when it is compiled, in bytes.
const MAX_COMPILED_REGEX_BYTES: usize = 64 * 1024;
/// How long a text may be that is matched, in bytes. Matching takes time that grows with the sizes of both, multiplied,
/// and cannot be interrupted.
const MAX_MATCHED_BYTES: usize = 64 * 1024;

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    connection.create_scalar_function("regex_match", 3, PURE, |context| {
        let (Some(text), Some(group)) = (text(context, 0), context.get::<Option<i64>>(2)?) else {
            return Ok(None);
        };
        let regex = compiled(context, 1, &text)?;
        let Ok(group) = usize::try_from(group) else {
            return Ok(None);
        };
        Ok(regex
            .captures(&text)
            .and_then(|captures| captures.get(group))
            .map(|found| found.as_str().to_owned()))
    })?;
    connection.create_scalar_function("regex_split", 3, PURE, |context| {
        let (Some(text), Some(index)) = (text(context, 0), context.get::<Option<i64>>(2)?) else {
            return Ok(None);
        };
        let regex = compiled(context, 1, &text)?;
        Ok(nth(
            regex.split(&text).filter(|part| !part.is_empty()),
            index,
        ))
    })?;
    connection.create_scalar_function("split", 3, PURE, |context| {
        let (Some(text), Some(separators), Some(index)) = (
            text(context, 0),
            text(context, 1),
            context.get::<Option<i64>>(2)?,
        ) else {
            return Ok(None);
        };
        Ok(nth(
            text.split(|letter| separators.contains(letter))
                .filter(|part| !part.is_empty()),
            index,
        ))
    })?;
    connection.create_scalar_function("version_compare", 2, PURE, |context| {
        Ok(text(context, 0)
            .zip(text(context, 1))
            .map(|(left, right)| compare_versions(&left, &right) as i64))
    })?;
    connection.create_scalar_function("inet_aton", 1, PURE, |context| {
        Ok(text(context, 0)
            .and_then(|text| text.trim().parse::<Ipv4Addr>().ok())
            .map(|address| i64::from(u32::from(address))))
    })
}

/// An argument as text; `None` for NULL.
fn text(context: &Context<'_>, index: usize) -> Option<String> {
    let cell = cell_from(context.get_raw(index));
    (!cell.is_null()).then(|| match cell {
        crate::value::Cell::Blob(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => other.to_wire(),
    })
}

fn nth<'a>(mut parts: impl Iterator<Item = &'a str>, index: i64) -> Option<String> {
    parts.nth(usize::try_from(index).ok()?).map(str::to_owned)
}

/// The regular expression in an argument, compiled once for each statement, to be matched with `text`.
fn compiled(
    context: &Context<'_>,
    index: usize,
    text: &str,
) -> Result<Arc<Regex>, rusqlite::Error> {
    let refuse = |reason: String| rusqlite::Error::UserFunctionError(reason.into());
    let Some(pattern) = self::text(context, index) else {
        return Err(refuse("a regular expression must not be NULL".to_owned()));
    };
    if text.len() > MAX_MATCHED_BYTES || pattern.len() > MAX_REGEX_BYTES {
        return Err(refuse(format!(
            "a regular expression has at most {MAX_REGEX_BYTES} bytes and is matched with at most {MAX_MATCHED_BYTES}"
        )));
    }
    context.get_or_create_aux(i32::try_from(index).unwrap_or(0), |_| {
        RegexBuilder::new(&pattern)
            .size_limit(MAX_COMPILED_REGEX_BYTES)
            .build()
            .map_err(|error| format!("bad regular expression: {error}"))
    })
}
