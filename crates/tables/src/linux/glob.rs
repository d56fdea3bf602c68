//! Files and folders by patterns: `%` stands for any text within one name, a last `%%` for everything below.
//!
//! Names are found without regard to the case of ASCII letters, as `LIKE` compares. Links to folders are followed
//! where a pattern names them, but not while everything below a folder is listed.

use std::path::{Path, PathBuf};

use crate::error::TableError;
use crate::table::Context;

/// How deep `%%` goes.
const MAX_DEPTH: usize = 64;

/// Whether a text is a pattern.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains('%')
}

/// Hands every path that agrees with `pattern` (absolute) to `each`, in the order of names. Folders that cannot be
/// read are skipped with a warning.
pub(super) fn each_match(
    context: &Context<'_>,
    pattern: &str,
    each: &mut dyn FnMut(&Path) -> Result<(), TableError>,
) -> Result<(), TableError> {
    let Some(relative) = pattern.strip_prefix('/') else {
        context.warn(format!("`{pattern}` does not begin with a slash"));
        return Ok(());
    };
    let parts: Vec<&str> = relative
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    expand(context, Path::new("/"), &parts, each)
}

/// Every path that agrees with `pattern`.
pub(super) fn matches(context: &Context<'_>, pattern: &str) -> Result<Vec<PathBuf>, TableError> {
    let mut found = Vec::new();
    each_match(context, pattern, &mut |path| {
        found.push(path.to_owned());
        Ok(())
    })?;
    Ok(found)
}

fn expand(
    context: &Context<'_>,
    base: &Path,
    parts: &[&str],
    each: &mut dyn FnMut(&Path) -> Result<(), TableError>,
) -> Result<(), TableError> {
    context.check()?;
    let Some((part, rest)) = parts.split_first() else {
        return if context.path(base).symlink_metadata().is_ok() {
            each(base)
        } else {
            Ok(())
        };
    };
    if !is_pattern(part) {
        return expand(context, &base.join(part), rest, each);
    }
    let below = rest.is_empty() && part.ends_with("%%");
    for name in names_in(context, base) {
        if !like(part, &name) {
            continue;
        }
        let path = base.join(&name);
        if below {
            each(&path)?;
            everything_below(context, &path, MAX_DEPTH, each)?;
        } else {
            expand(context, &path, rest, each)?;
        }
    }
    Ok(())
}

fn everything_below(
    context: &Context<'_>,
    base: &Path,
    depth: usize,
    each: &mut dyn FnMut(&Path) -> Result<(), TableError>,
) -> Result<(), TableError> {
    context.check()?;
    let is_folder = context
        .path(base)
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_dir());
    if !is_folder {
        return Ok(());
    }
    if depth == 0 {
        context.warn(format!("{}: too deep to go on", base.display()));
        return Ok(());
    }
    for name in names_in(context, base) {
        let path = base.join(name);
        each(&path)?;
        everything_below(context, &path, depth - 1, each)?;
    }
    Ok(())
}

/// The names in a folder, in order; none when it is no folder.
pub(super) fn names_in(context: &Context<'_>, folder: &Path) -> Vec<String> {
    let entries = match std::fs::read_dir(context.path(folder)) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() == std::io::ErrorKind::PermissionDenied {
                context.warn(TableError::unreadable(folder, error));
            }
            return Vec::new();
        }
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Whether `name` agrees with `pattern`, in time that grows with their lengths multiplied at most.
fn like(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at_pattern, mut at_name) = (0, 0);
    // Where to go on when what follows the last wildcard does not fit.
    let mut retry = None;
    while at_name < name.len() {
        match pattern.get(at_pattern) {
            Some(b'%') => {
                at_pattern += 1;
                retry = Some((at_pattern, at_name));
            }
            Some(letter) if letter.eq_ignore_ascii_case(&name[at_name]) => {
                at_pattern += 1;
                at_name += 1;
            }
            _ => {
                let Some((after_wildcard, matched)) = retry else {
                    return false;
                };
                retry = Some((after_wildcard, matched + 1));
                at_pattern = after_wildcard;
                at_name = matched + 1;
            }
        }
    }
    pattern[at_pattern..].iter().all(|letter| *letter == b'%')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_wildcard_stands_for_any_text() {
        for (pattern, name, agrees) in [
            ("%", "", true),
            ("%", "anything", true),
            ("python%", "python3.11", true),
            ("python%", "Python3", true),
            ("python%", "cpython", false),
            ("%.conf", "a.conf.conf", true),
            ("%.conf", "a.config", false),
            ("a%b%c", "a-b-b-c", true),
            ("a%b%c", "a-c-b", false),
            ("", "x", false),
            ("_", "x", false),
        ] {
            assert_eq!(like(pattern, name), agrees, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_trying_every_split(pattern in "[ab%]{0,6}", name in "[abAB]{0,8}") {
            fn slow(pattern: &[u8], name: &[u8]) -> bool {
                match pattern.split_first() {
                    None => name.is_empty(),
                    Some((b'%', rest)) => (0..=name.len()).any(|at| slow(rest, &name[at..])),
                    Some((letter, rest)) => name
                        .split_first()
                        .is_some_and(|(first, name)| first.eq_ignore_ascii_case(letter) && slow(rest, name)),
                }
            }
            prop_assert_eq!(like(&pattern, &name), slow(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
