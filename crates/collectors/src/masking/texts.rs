//! Secrets inside of texts: passwords in addresses, what is written `name=value`, `--name value` or `name: value`, what follows
//! `Bearer`, and private keys.

use super::MASK;

/// A text with the secrets inside it masked.
pub(super) fn mask(text: &str, is_secret: impl Fn(&str) -> bool) -> String {
    let mut masked = addresses(text);
    masked = driver_address(&masked).unwrap_or(masked);
    masked = private_keys(&masked).unwrap_or(masked);
    masked = assignments(&masked, &is_secret);
    masked = options(&masked, &is_secret);
    masked = pairs(&masked, &is_secret);
    schemes(&masked)
}

/// How credentials in headers begin, in lower case.
const SCHEMES: [&str; 4] = ["bearer", "basic", "apikey", "digest"];
/// A word after one of them that is shorter, and has no digit, is none.
const SHORT: usize = 16;

fn is_scheme(word: &str) -> bool {
    SCHEMES
        .iter()
        .any(|scheme| word.eq_ignore_ascii_case(scheme))
}

/// Whether a word stands for a value that is elsewhere, or was masked.
fn is_stand_in(word: &str) -> bool {
    word.starts_with("${") || word.starts_with(MASK)
}

/// The text between the first and the last line of private keys.
fn private_keys(text: &str) -> Option<String> {
    const END: &str = "-----END ";
    let mut masked = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find("PRIVATE KEY-----") {
        let (head, body) = rest.split_at(begin + "PRIVATE KEY-----".len());
        let Some(end) = body.find(END) else {
            return Some(masked + head + MASK);
        };
        // The last line names a private key as well.
        let tail = body[end..]
            .find("KEY-----")
            .map_or(body.len(), |at| end + at + 8);
        masked.push_str(head);
        masked.push_str(MASK);
        masked.push_str(&body[end..tail]);
        rest = &body[tail..];
    }
    (!masked.is_empty()).then(|| masked + rest)
}

/// Words with the space after each.
fn words(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split_inclusive(char::is_whitespace).map(|piece| {
        let word = piece.trim_end();
        (word, &piece[word.len()..])
    })
}

/// What follows the name of an option: `--password secret`.
fn options(text: &str, is_secret: impl Fn(&str) -> bool) -> String {
    if !text.contains('-') {
        return text.to_owned();
    }
    let mut masked = String::with_capacity(text.len());
    let mut is_next = false;
    for (word, space) in words(text) {
        let is_option = word.len() > 1 && word.starts_with('-');
        let is_masked = is_next && !word.is_empty() && !is_option && !is_stand_in(word);
        masked.push_str(if is_masked { MASK } else { word });
        masked.push_str(space);
        is_next = (is_next && word.is_empty())
            || is_option && !word.contains(['=', ':']) && is_secret(word);
    }
    masked
}

/// What follows the name of a scheme, when it looks like a credential: `Bearer secret`.
fn schemes(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut is_next = false;
    for (word, space) in words(text) {
        let end = word
            .find(['"', '\'', ',', ';', '}', ']', ')'])
            .unwrap_or(word.len());
        let (credential, rest) = word.split_at(end);
        let looks_like_one =
            credential.len() >= SHORT || credential.bytes().any(|b| b.is_ascii_digit());
        if is_next && looks_like_one && !is_stand_in(credential) {
            masked.push_str(MASK);
            masked.push_str(rest);
        } else {
            masked.push_str(word);
        }
        masked.push_str(space);
        let mut parts = word.rsplit(|character: char| !character.is_alphanumeric());
        is_next = parts.next().is_some_and(is_scheme);
    }
    masked
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

/// Where the name begins that a text ends with.
fn name_begin(text: &str) -> usize {
    text.trim_end_matches(is_of_name).len()
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
        let begin = name_begin(named);
        let name = &named[begin..];
        masked.push_str(before);
        masked.push('=');
        rest = after;
        // `sig` is how addresses of stores are signed.
        if name.is_empty() || !is_secret(name) && name != "sig" {
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
            return within(line, &is_secret);
        };
        let plain = name.trim_matches(|character: char| {
            character.is_whitespace() || matches!(character, '-' | '"' | '\'' | '{')
        });
        let is_name = !plain.is_empty() && plain.chars().all(is_of_name);
        let secret = value.trim();
        if !is_name || secret.is_empty() || secret.starts_with("${") || !is_secret(plain) {
            return within(line, &is_secret);
        }
        let end = if line.ends_with('\n') { "\n" } else { "" };
        format!("{name}: {MASK}{end}")
    });
    lines.collect()
}

/// Pairs in the middle of a line, such as a header that an error quotes. In prose the word before a colon is mostly not a name
/// (`cannot fetch token: connection refused`), so a name has to look like one: quoted, of several words, or known from headers.
fn within(line: &str, is_secret: impl Fn(&str) -> bool) -> String {
    let mut masked = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(':') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        let named = before.trim_end_matches(['"', '\'']);
        let begin = name_begin(named);
        let name = &named[begin..];
        masked.push_str(before);
        masked.push(':');
        rest = after;
        let is_quoted = named.len() < before.len();
        let is_header = ["authorization", "cookie"]
            .iter()
            .any(|header| name.to_ascii_lowercase().ends_with(header));
        let looks_like_one = is_quoted || is_header || name.contains(['-', '_']);
        let is_pair = after.starts_with(' ') || is_quoted;
        if name.is_empty() || !looks_like_one || !is_pair || !is_secret(name) {
            continue;
        }
        let value = after.trim_start_matches(' ');
        masked.push_str(&after[..after.len() - value.len()]);
        let ends = |text: &str| {
            let ends = |character: char| {
                character.is_whitespace() || matches!(character, ',' | ';' | '"' | '\'' | '}' | ']')
            };
            text.find(ends).unwrap_or(text.len())
        };
        let quote = value
            .chars()
            .next()
            .filter(|first| ['\'', '"'].contains(first));
        let first = ends(value);
        let length = if let Some(quote) = quote {
            value[1..].find(quote).map_or(value.len(), |end| end + 2)
        } else if is_scheme(&value[..first]) && value[first..].starts_with(' ') {
            // The credential is what follows the scheme.
            first + 1 + ends(&value[first + 1..])
        } else {
            first
        };
        let (secret, following) = value.split_at(length);
        let is_masked = !secret.is_empty() && !is_stand_in(secret) && secret != "{";
        masked.push_str(if is_masked { MASK } else { secret });
        rest = following;
    }
    masked.push_str(rest);
    masked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Masking;

    /// What texts are made of in which secrets are looked for, and what may stand beside it.
    const PIECES: [&str; 26] = [
        "Bearer",
        "Authorization",
        "password",
        "--token",
        "api_key",
        "sig",
        "://",
        "@tcp(",
        "-----BEGIN PRIVATE KEY-----",
        "-----END ",
        "KEY-----",
        ": ",
        ":",
        "=",
        "&",
        ";",
        "\"",
        "'",
        "{",
        "}",
        " ",
        "\n",
        "${",
        "\u{fffd}",
        "\u{1f600}",
        "hunter2",
    ];

    proptest! {
        #[test]
        fn no_text_is_too_odd_to_be_masked(
            text in "(?s).{0,120}",
            pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..24),
        ) {
            let masking = Masking::default();
            masking.text(&text);
            masking.text(&pieces.concat());
            masking.file(&pieces.concat());
        }
    }

    #[test]
    fn secrets_in_lines_of_commands_headers_and_keys_are_masked_and_prose_stays() {
        for (said, expected) in [
            (
                "run --password hunter2 --token hunter3 -v",
                "run --password [MASKED] --token [MASKED] -v",
            ),
            ("--password hunter2", "--password [MASKED]"),
            (
                "401 for Authorization: Bearer hunter2, retrying",
                "401 for Authorization: [MASKED], retrying",
            ),
            (
                "sent authorization: hunter2",
                "sent authorization: [MASKED]",
            ),
            ("X-Api-Key: hunter2", "X-Api-Key: [MASKED]"),
            (
                "refused {\"api_key\":\"hunter2\"}",
                "refused {\"api_key\":[MASKED]}",
            ),
            (
                "-H \"Authorization: Bearer hunter2\" -v",
                "-H \"Authorization: [MASKED]\" -v",
            ),
            (
                "got Bearer hunter2x from them",
                "got Bearer [MASKED] from them",
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\nnext",
                "-----BEGIN PRIVATE KEY-----[MASKED]-----END PRIVATE KEY-----\nnext",
            ),
            (
                "https://store/x?se=1&sig=hunter2&sp=r",
                "https://store/x?se=1&sig=[MASKED]&sp=r",
            ),
        ] {
            assert_eq!(Masking::default().text(said), expected);
        }
        for prose in [
            "oauth2: cannot fetch token: 401 Unauthorized",
            "bearer authentication is not configured",
            "cannot listen on tcp: address already in use",
            "--password-file /etc/muster/password --config a.yaml",
            "Authorization: ${env:TOKEN}",
            "\u{fffd}\u{201e}x\u{fffd}: \u{fffd} \u{fffd}--\u{fffd} =\u{fffd}",
        ] {
            assert_eq!(Masking::default().text(prose), prose);
        }
    }
}
