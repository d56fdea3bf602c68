//! Collations: how version numbers compare.
//!
//! `version` splits on everything but letters and digits and compares numbers as numbers. `version_dpkg` is Debian
//! policy's order (epoch, upstream, revision, `~` before everything). `version_rhel` is rpm's (`~` before, `^` after).

use std::cmp::Ordering;

use rusqlite::Connection;

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    connection.create_collation("version", compare_versions)?;
    connection.create_collation("version_dpkg", compare_dpkg)?;
    connection.create_collation("version_rhel", compare_rhel)
}

/// Compares version numbers of no particular system: `1.9` is before `1.10`, `1.0` before `1.0.1`.
pub(super) fn compare_versions(left: &str, right: &str) -> Ordering {
    let mut left = segments(left);
    let mut right = segments(right);
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(left), Some(right)) => match compare_segment(left, right) {
                Ordering::Equal => {}
                order => return order,
            },
        }
    }
}

/// Runs of digits and runs of letters.
fn segments(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric())
        .flat_map(|part| part.chunk_by_digits())
}

trait ChunkByDigits {
    fn chunk_by_digits(&self) -> Vec<&str>;
}

impl ChunkByDigits for str {
    fn chunk_by_digits(&self) -> Vec<&str> {
        let mut chunks = Vec::new();
        let mut start = 0;
        let mut digits = None;
        for (at, letter) in self.char_indices() {
            let is_digit = letter.is_ascii_digit();
            if digits.is_some_and(|was| was != is_digit) {
                chunks.push(&self[start..at]);
                start = at;
            }
            digits = Some(is_digit);
        }
        if start < self.len() {
            chunks.push(&self[start..]);
        }
        chunks
    }
}

/// Numbers as numbers of any length, letters as letters, numbers after letters.
fn compare_segment(left: &str, right: &str) -> Ordering {
    let is_number = |text: &str| text.starts_with(|letter: char| letter.is_ascii_digit());
    match (is_number(left), is_number(right)) {
        (true, true) => compare_numbers(left, right),
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => left.cmp(right),
    }
}

fn compare_numbers(left: &str, right: &str) -> Ordering {
    let left = left.trim_start_matches('0');
    let right = right.trim_start_matches('0');
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

/// Splits `text` after its leading digits.
fn leading_digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

fn compare_dpkg(left: &str, right: &str) -> Ordering {
    let (left_epoch, left) = left.split_once(':').unwrap_or(("", left));
    let (right_epoch, right) = right.split_once(':').unwrap_or(("", right));
    let (left_upstream, left_revision) = left.rsplit_once('-').unwrap_or((left, ""));
    let (right_upstream, right_revision) = right.rsplit_once('-').unwrap_or((right, ""));
    compare_numbers(left_epoch, right_epoch)
        .then_with(|| compare_dpkg_part(left_upstream, right_upstream))
        .then_with(|| compare_dpkg_part(left_revision, right_revision))
}

/// Alternates between texts without digits and numbers, as Debian policy says.
fn compare_dpkg_part(mut left: &str, mut right: &str) -> Ordering {
    /// `~` before the end of the text, letters before everything else.
    fn weight(letter: Option<u8>) -> i32 {
        match letter {
            Some(b'~') => -1,
            None | Some(b'0'..=b'9') => 0,
            Some(letter) if letter.is_ascii_alphabetic() => i32::from(letter),
            Some(letter) => i32::from(letter) + 256,
        }
    }
    while !left.is_empty() || !right.is_empty() {
        let text_end = |text: &str| {
            text.bytes()
                .position(|byte| byte.is_ascii_digit())
                .unwrap_or(text.len())
        };
        let (left_text, left_rest) = left.split_at(text_end(left));
        let (right_text, right_rest) = right.split_at(text_end(right));
        for at in 0..left_text.len().max(right_text.len()) {
            let order = weight(left_text.as_bytes().get(at).copied())
                .cmp(&weight(right_text.as_bytes().get(at).copied()));
            if order != Ordering::Equal {
                return order;
            }
        }
        let (left_number, left_rest) = leading_digits(left_rest);
        let (right_number, right_rest) = leading_digits(right_rest);
        let order = compare_numbers(left_number, right_number);
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

fn compare_rhel(mut left: &str, mut right: &str) -> Ordering {
    let separator =
        |letter: char| !letter.is_ascii_alphanumeric() && letter != '~' && letter != '^';
    loop {
        left = left.trim_start_matches(separator);
        right = right.trim_start_matches(separator);
        match (left.strip_prefix('~'), right.strip_prefix('~')) {
            (Some(left_rest), Some(right_rest)) => {
                (left, right) = (left_rest, right_rest);
                continue;
            }
            (Some(_), None) => return Ordering::Less,
            (None, Some(_)) => return Ordering::Greater,
            (None, None) => {}
        }
        match (left.strip_prefix('^'), right.strip_prefix('^')) {
            (Some(left_rest), Some(right_rest)) => {
                (left, right) = (left_rest, right_rest);
                continue;
            }
            // After the end of the other text a caret is newer, before anything else it is older.
            (Some(_), None) => {
                return if right.is_empty() {
                    Ordering::Greater
                } else {
                    Ordering::Less
                };
            }
            (None, Some(_)) => {
                return if left.is_empty() {
                    Ordering::Less
                } else {
                    Ordering::Greater
                };
            }
            (None, None) => {}
        }
        match (left.is_empty(), right.is_empty()) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        let (left_number, left_after) = leading_digits(left);
        let (right_number, right_after) = leading_digits(right);
        let order = match (left_number.is_empty(), right_number.is_empty()) {
            (false, false) => {
                (left, right) = (left_after, right_after);
                compare_numbers(left_number, right_number)
            }
            // Numbers are newer than letters.
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (true, true) => {
                let letters_end = |text: &str| {
                    text.find(|letter: char| !letter.is_ascii_alphabetic())
                        .unwrap_or(text.len())
                };
                let (left_letters, left_after) = left.split_at(letters_end(left));
                let (right_letters, right_after) = right.split_at(letters_end(right));
                (left, right) = (left_after, right_after);
                left_letters.cmp(right_letters)
            }
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Compare = fn(&str, &str) -> Ordering;

    fn assert_ascending(compare: Compare, versions: &[&str]) {
        for (at, left) in versions.iter().enumerate() {
            for (other, right) in versions.iter().enumerate() {
                assert_eq!(
                    compare(left, right),
                    at.cmp(&other),
                    "{left:?} and {right:?}"
                );
            }
        }
    }

    #[test]
    fn versions_compare_as_their_system_says() {
        assert_ascending(
            compare_versions,
            &["", "1.0", "1.0.1", "1.9", "1.10", "1.10.2", "2.0"],
        );
        assert_ascending(
            compare_dpkg,
            &[
                "1.0~rc1-1",
                "1.0",
                "1.0-1",
                "1.0-1+deb12u1",
                "1.0-2",
                "1.0a-1",
                "1.0+b-1",
                "1.2-1",
                "1.10-1",
                "1:0.1-1",
            ],
        );
        assert_ascending(
            compare_rhel,
            &[
                "1.0~rc1", "1.0", "1.0^git1", "1.0.a", "1.0.1", "1.5", "1.5a1", "1.10", "10",
            ],
        );
        assert_eq!(compare_rhel("1.0", "1..00"), Ordering::Equal);
        assert_eq!(compare_versions("1.02", "1.2"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn every_collation_is_an_order(
            a in "[0-9a-z.~^:+-]{0,8}",
            b in "[0-9a-z.~^:+-]{0,8}",
            c in "[0-9a-z.~^:+-]{0,8}",
        ) {
            for compare in [compare_versions, compare_dpkg, compare_rhel] as [Compare; 3] {
                prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
                prop_assert_eq!(compare(&a, &a), Ordering::Equal);
                if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                    prop_assert!(compare(&a, &c).is_le(), "{a:?} {b:?} {c:?}");
                }
            }
        }
    }
}
