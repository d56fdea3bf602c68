//! Comparing texts without regard to case.
//!
//! `LOWER` knows only ASCII on SQLite, and on PostgreSQL what the database's locale knows. So where a text is looked for
//! that has other letters, the statement itself makes those letters small: only the letters of that text can decide
//! whether a column is like it.

use std::collections::BTreeSet;

/// How many different letters beyond ASCII are made small; the databases bound how deep an expression may be.
const MAX_LETTERS: usize = 200;

/// A text in the form in which texts are compared without regard to case.
pub fn folded(text: &str) -> String {
    text.chars().map(small).collect()
}

fn small(character: char) -> char {
    only(character.to_lowercase()).unwrap_or(character)
}

fn only(mut characters: impl Iterator<Item = char>) -> Option<char> {
    let first = characters.next()?;
    characters.next().is_none().then_some(first)
}

/// A column (or another expression) as SQL in the form in which it is compared with these [`folded`] texts.
///
/// ```
/// let text = muster_store::folded("MÜLLER-PC");
/// assert_eq!(text, "müller-pc");
/// let sql = muster_store::folded_column("hostname", [text.as_str()]);
/// assert_eq!(sql, "LOWER(REPLACE(hostname, 'Ü', 'ü'))");
/// ```
pub fn folded_column<'a>(column: &str, texts: impl IntoIterator<Item = &'a str>) -> String {
    let letters: BTreeSet<(char, char)> = texts
        .into_iter()
        .flat_map(str::chars)
        .filter(|character| !character.is_ascii())
        .filter_map(|character| Some((only(character.to_uppercase())?, character)))
        .filter(|(large, small)| large != small && !large.is_ascii())
        .collect();
    let mut sql = column.to_owned();
    for (large, small) in letters.iter().take(MAX_LETTERS) {
        sql = format!("REPLACE({sql}, '{large}', '{small}')");
    }
    format!("LOWER({sql})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_have_no_other_case_and_ascii_are_left_to_the_database() {
        assert_eq!(folded_column("c", ["pc-7'; --", "東京", "ß"]), "LOWER(c)");
        assert_eq!(
            folded_column("c", ["éé", "é"]),
            "LOWER(REPLACE(c, 'É', 'é'))"
        );
        assert_eq!(folded("ΟΔΟΣ Ärger İ"), "οδοσ ärger İ");
    }

    #[test]
    fn an_expression_never_gets_too_deep() {
        let every: String = (0..=0x1_ffff).filter_map(char::from_u32).collect();
        let sql = folded_column("c", [folded(&every).as_str()]);
        assert_eq!(sql.matches("REPLACE").count(), MAX_LETTERS);
    }
}
