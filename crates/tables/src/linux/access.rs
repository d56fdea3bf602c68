//! Who may get in and become root: SSH keys and sudo's rules.

use std::path::{Path, PathBuf};

use super::accounts::users_asked_for;
use crate::error::TableError;
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink, read_text};

pub(crate) static AUTHORIZED_KEYS: TableSpec = TableSpec {
    name: "authorized_keys",
    description: "The keys that may log in to each account by SSH.",
    columns: &[
        column("uid", BigInt).additional(),
        column("algorithm", Text),
        column("key", Text),
        column("options", Text),
        column("comment", Text),
        column("key_file", Text),
        column("pid_with_namespace", Integer).additional().hidden(),
    ],
};

pub(crate) static SUDOERS: TableSpec = TableSpec {
    name: "sudoers",
    description: "The rules in sudo's configuration.",
    columns: &[
        column("source", Text),
        column("header", Text),
        column("rule_details", Text),
    ],
};

/// The files that sshd reads unless it is configured otherwise, below the home folder.
const KEY_FILES: [&str; 2] = [".ssh/authorized_keys", ".ssh/authorized_keys2"];

/// The algorithms that OpenSSH knows, certificates left out.
const KEY_TYPES: [&str; 8] = [
    "ssh-rsa",
    "ssh-dss",
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "sk-ssh-ed25519@openssh.com",
];

pub(crate) fn authorized_keys(
    constraints: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    for user in users_asked_for(constraints, context)? {
        for file in KEY_FILES {
            context.check()?;
            let path = Path::new(&user.directory).join(file);
            let text = match read_text(&context.path(&path)) {
                Ok(text) => text,
                Err(error) => {
                    // Home folders that only their users may enter look as if they had no file to anybody else.
                    if !is_absent(&error) {
                        context.warn(TableError::unreadable(&path, error));
                    }
                    continue;
                }
            };
            for key in text.lines().filter_map(AuthorizedKey::parse) {
                rows.row()
                    .set("uid", user.uid)
                    .set("algorithm", key.algorithm)
                    .set("key", key.key)
                    .set("options", key.options)
                    .set("comment", key.comment)
                    .set("key_file", path.to_string_lossy())
                    .push()?;
            }
        }
    }
    Ok(())
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
    )
}

/// A line of an authorized_keys file: options, algorithm, key, comment.
#[derive(Debug, PartialEq, Eq)]
struct AuthorizedKey<'a> {
    options: &'a str,
    algorithm: &'a str,
    key: &'a str,
    comment: &'a str,
}

impl<'a> AuthorizedKey<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let mut options_end = 0;
        if !KEY_TYPES.contains(&first_word(line).0) {
            options_end = end_of_options(line);
        }
        let (options, rest) = line.split_at(options_end);
        let (algorithm, rest) = first_word(rest.trim_start());
        if !KEY_TYPES.contains(&algorithm) {
            return None;
        }
        let (key, comment) = first_word(rest);
        (!key.is_empty()).then_some(Self {
            options,
            algorithm,
            key,
            comment,
        })
    }
}

/// The first word and what follows it, both without white space around them.
fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find([' ', '\t']).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// Options end at the first white space outside of quotes.
fn end_of_options(line: &str) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (at, letter) in line.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => return at,
            _ => {}
        }
    }
    line.len()
}

/// How deep sudo follows files that include each other.
const MAX_INCLUDES: usize = 128;

pub(crate) fn sudoers(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let path = Path::new("/etc/sudoers");
    if !context.path(path).exists() && context.path("/etc").is_dir() {
        // sudo is not installed: there are no rules.
        return Ok(());
    }
    add_sudoers(context, rows, path, 0)
}

fn add_sudoers(
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
    path: &Path,
    depth: usize,
) -> Result<(), TableError> {
    context.check()?;
    if depth >= MAX_INCLUDES {
        context.warn(format!("{}: included too deeply", path.display()));
        return Ok(());
    }
    let text = context.read_text(path)?;
    for line in logical_lines(&text) {
        let (header, details) = first_word(&line);
        let include = match header {
            "#include" | "@include" => Some(false),
            "#includedir" | "@includedir" => Some(true),
            _ => None,
        };
        if include.is_none() && header.starts_with('#') || include.is_some() && details.is_empty() {
            continue;
        }
        rows.row()
            .set("source", path.to_string_lossy())
            .set("header", header)
            .set("rule_details", details)
            .push()?;
        let Some(is_folder) = include else {
            continue;
        };
        let target = path
            .parent()
            .unwrap_or(path)
            .join(details.trim_matches('"'));
        let files = if is_folder {
            included_files(context, &target)
        } else {
            vec![target]
        };
        for file in files {
            match add_sudoers(context, rows, &file, depth + 1) {
                Err(TableError::Stopped) => return Err(TableError::Stopped),
                Err(error) => context.warn(error),
                Ok(()) => {}
            }
        }
    }
    Ok(())
}

/// Lines with those that end in a backslash joined to the next, without the empty ones.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut continues = false;
    for line in text.lines() {
        let line = line.trim();
        let (line, ends_open) = match line.strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some(last) if continues => last.push_str(line),
            _ => lines.push(line.to_owned()),
        }
        continues = ends_open;
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// The files of a folder that sudo reads: in order, without those that have a dot in the name or end in a tilde.
fn included_files(context: &Context<'_>, folder: &Path) -> Vec<PathBuf> {
    let path = context.path(folder);
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) => {
            context.warn(TableError::unreadable(folder, error));
            return Vec::new();
        }
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.contains('.') && !name.ends_with('~'))
        .collect();
    names.sort();
    names.into_iter().map(|name| folder.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_may_have_options_with_quoted_spaces() {
        let key = AuthorizedKey::parse(
            "from=\"10.0.0.0/8\",command=\"/bin/echo \\\"hi there\\\"\" ssh-ed25519 AAAAC3 ada@host laptop",
        )
        .unwrap();
        assert_eq!(
            key,
            AuthorizedKey {
                options: "from=\"10.0.0.0/8\",command=\"/bin/echo \\\"hi there\\\"\"",
                algorithm: "ssh-ed25519",
                key: "AAAAC3",
                comment: "ada@host laptop",
            }
        );
        let plain = AuthorizedKey::parse("ssh-rsa\tAAAAB3").unwrap();
        assert_eq!(
            (plain.options, plain.key, plain.comment),
            ("", "AAAAB3", "")
        );
        for line in [
            "",
            "# ssh-rsa AAAA",
            "ssh-rsa",
            "unknown AAAA",
            "a=\"unclosed ssh-rsa AAAA",
        ] {
            assert_eq!(AuthorizedKey::parse(line), None, "{line}");
        }
    }

    #[test]
    fn long_rules_are_put_together() {
        let text = "Defaults env_reset\nADMINS ALL = \\\n  (ALL) ALL\n\n";
        assert_eq!(
            logical_lines(text),
            ["Defaults env_reset", "ADMINS ALL = (ALL) ALL"]
        );
    }
}
