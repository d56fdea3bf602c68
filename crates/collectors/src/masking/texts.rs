//! Secrets inside of texts: passwords in addresses, and what is written `name=value` or, in a line, `name: value`.

use super::MASK;

/// A text with the secrets inside it masked.
pub(super) fn mask(text: &str, is_secret: impl Fn(&str) -> bool) -> String {
    let mut masked = addresses(text);
    masked = driver_address(&masked).unwrap_or(masked);
    masked = assignments(&masked, &is_secret);
    pairs(&masked, &is_secret)
}

/// What ends the part of an address that names user and host.
fn ends_authority(character: char) -> bool {
    matches!(character, '/' | '?' | '#') || character.is_whitespace()
}

/// What ends a value that is not quoted.
fn ends_value(character: char) -> bool {
    matches!(character, ';' | '&') || character.is_whitespace()
}

fn is_of_name(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-' | '.')
}

/// What an address says of its user, masked: the password, or all of it where there is none, since that is a token then.
fn user(said: &str) -> String {
    match said.split_once(':') {
        Some((name, _)) => format!("{name}:{MASK}"),
        None => MASK.to_owned(),
    }
}

/// Every `scheme://user:secret@host` in a text.
fn addresses(text: &str) -> String {
    let mut parts = text.split("://");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        masked.push_str("://");
        let end = part.find(ends_authority).unwrap_or(part.len());
        match part[..end].rfind('@') {
            Some(at) => {
                masked.push_str(&user(&part[..at]));
                masked.push_str(&part[at..]);
            }
            None => masked.push_str(part),
        }
    }
    masked
}

/// `user:secret@tcp(host)/database`, as a driver of databases writes it.
fn driver_address(text: &str) -> Option<String> {
    let place = ["@tcp(", "@tcp6(", "@unix("]
        .iter()
        .find_map(|network| text.find(network))?;
    let colon = text[..place].find(':')?;
    Some(format!("{}:{MASK}{}", &text[..colon], &text[place..]))
}

/// Every value in a text whose name is that of a secret. An option that is a text of its own is masked to its end.
fn assignments(text: &str, is_secret: impl Fn(&str) -> bool) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('=') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        let named = before.trim_end();
        let begin = named
            .char_indices()
            .rev()
            .take_while(|(_, character)| is_of_name(*character))
            .last()
            .map_or(named.len(), |(begin, _)| begin);
        let name = &named[begin..];
        masked.push_str(before);
        masked.push('=');
        rest = after;
        if name.is_empty() || !is_secret(name) {
            continue;
        }
        // Spaces after the sign belong to it where there are some before it; else nothing is said.
        let value = if named.len() < before.len() {
            after.trim_start()
        } else {
            after
        };
        masked.push_str(&after[..after.len() - value.len()]);
        let is_option = masked.starts_with('-') && begin == 0 && masked.len() <= at + 1;
        let length = match value.chars().next() {
            Some(quote @ ('\'' | '"')) => value[1..].find(quote).map_or(value.len(), |end| end + 2),
            _ if is_option => value.len(),
            _ => value.find(ends_value).unwrap_or(value.len()),
        };
        let (secret, following) = value.split_at(length);
        // A variable of the agent's surroundings tells nothing, and what stands for nothing neither.
        let is_reference = secret.starts_with("${") && secret.ends_with('}');
        masked.push_str(if secret.is_empty() || is_reference {
            secret
        } else {
            MASK
        });
        rest = following;
    }
    masked.push_str(rest);
    masked
}

/// Every line that is a pair of a name and a value, as in a configuration that is written inside of another.
fn pairs(text: &str, is_secret: impl Fn(&str) -> bool) -> String {
    let lines = text.split_inclusive('\n').map(|line| {
        let Some((name, value)) = line.split_once(": ") else {
            return line.to_owned();
        };
        let plain = name.trim_matches(|character: char| {
            character.is_whitespace() || matches!(character, '-' | '"' | '\'' | '{')
        });
        let is_name = !plain.is_empty() && plain.chars().all(is_of_name);
        let secret = value.trim();
        if !is_name || secret.is_empty() || secret.starts_with("${") || !is_secret(plain) {
            return line.to_owned();
        }
        let end = if line.ends_with('\n') { "\n" } else { "" };
        format!("{name}: {MASK}{end}")
    });
    lines.collect()
}
