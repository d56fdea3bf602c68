//! Which collectors an assignment is for: requirements on their attributes, all of which must hold.
//!
//! ```text
//! service.name=otelcol, env in (prod, staging), !canary, region!=eu, host.name
//! ```
//!
//! Attributes are the identifying ones and the others together; of a name that is in both, the identifying one counts. As in
//! Kubernetes, `!=` and `notin` also hold where there is no such attribute. `*` is every collector.
//!
//! Order and repetition do not matter: what is read is kept in one order, each requirement once, so that one meaning has one
//! text. That text may be longer than what somebody wrote, since it has spaces behind commas and quotes where they are needed:
//! the limit holds for both.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The longest selector, in bytes: as it is written, and in its own text.
pub(crate) const MAX_SELECTOR_BYTES: usize = 2_000;
/// The most requirements of a selector.
pub(crate) const MAX_REQUIREMENTS: usize = 32;
/// The most values of one requirement.
pub(crate) const MAX_VALUES: usize = 100;

/// What stands for every collector.
const EVERYTHING: &str = "*";

/// A selector that was read. Its text is the same for all ways to write it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector(BTreeSet<Requirement>);

/// A condition on one attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// The attribute's name.
    pub name: String,
    /// What must hold of it.
    pub condition: Condition,
}

/// What must hold of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// It is there.
    Exists,
    /// It is not there.
    Missing,
    /// It is there with one of these values.
    In(BTreeSet<String>),
    /// It is not there, or has none of these values.
    NotIn(BTreeSet<String>),
}

/// Why a selector is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {position}: {message}")]
pub struct SelectorError {
    /// Where, counted in characters from 1.
    pub position: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Condition {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Exists => value.is_some(),
            Self::Missing => value.is_none(),
            Self::In(values) => value.is_some_and(|value| values.contains(value)),
            Self::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
        }
    }
}

impl Selector {
    /// Reads a selector that somebody wrote.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let too_long = |what: &str| SelectorError {
            position: MAX_SELECTOR_BYTES,
            message: format!("is longer than {MAX_SELECTOR_BYTES} bytes{what}"),
        };
        if text.len() > MAX_SELECTOR_BYTES {
            return Err(too_long(""));
        }
        let selector = Self::read(text)?;
        if selector.to_string().len() > MAX_SELECTOR_BYTES {
            return Err(too_long(
                " with a space behind each comma; name fewer values",
            ));
        }
        Ok(selector)
    }

    /// Reads a selector that was kept, whatever the limit was when it was.
    pub(crate) fn read(text: &str) -> Result<Self, SelectorError> {
        if text.trim() == EVERYTHING {
            return Ok(Self(BTreeSet::new()));
        }
        let mut reader = Reader {
            text: text.chars().collect(),
            at: 0,
        };
        reader.skip_spaces();
        if reader.peek().is_none() {
            return Err(reader.error("is empty; write * for every collector"));
        }
        let mut requirements = BTreeSet::new();
        let mut count = 0;
        loop {
            if count >= MAX_REQUIREMENTS {
                return Err(reader.error(format!("has more than {MAX_REQUIREMENTS} requirements")));
            }
            count += 1;
            requirements.insert(reader.requirement()?);
            reader.skip_spaces();
            match reader.peek() {
                None => return Ok(Self(requirements)),
                Some(',') => reader.at += 1,
                Some(_) => {
                    let found = reader.found();
                    let message = format!(
                        "expected a comma before the next requirement, found {found}; a value with spaces stands in quotes: \
                         region=\"eu west\""
                    );
                    return Err(reader.error(message));
                }
            }
        }
    }

    /// The requirements; none for every collector.
    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        self.0.iter()
    }

    /// Whether a collector with these attributes is meant.
    pub fn matches(&self, attributes: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| {
            let value = attributes.get(&requirement.name).map(String::as_str);
            requirement.condition.holds(value)
        })
    }
}

/// Whether a character may stand in a name or value without quotes.
fn is_bare(c: char) -> bool {
    !c.is_whitespace()
        && !c.is_control()
        && !matches!(c, ',' | '=' | '!' | '(' | ')' | '"' | '*' | '<' | '>')
}

struct Reader {
    text: Vec<char>,
    at: usize,
}

impl Reader {
    fn error(&self, message: impl Into<String>) -> SelectorError {
        SelectorError {
            position: self.at + 1,
            message: message.into(),
        }
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn found(&self) -> String {
        self.peek()
            .map_or_else(|| "the end".to_owned(), |c| format!("`{c}`"))
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn take(&mut self, text: &str) -> bool {
        let is_there = text
            .chars()
            .enumerate()
            .all(|(n, c)| self.text.get(self.at + n) == Some(&c));
        if is_there {
            self.at += text.chars().count();
        }
        is_there
    }

    /// A name or value: bare, or in quotes with `\` before quotes and backslashes.
    fn word(&mut self, what: &str) -> Result<String, SelectorError> {
        self.skip_spaces();
        let start = self.at;
        if !self.take("\"") {
            while self.peek().is_some_and(is_bare) {
                self.at += 1;
            }
            if self.at == start {
                let message = format!("expected {what}, found {}", self.found());
                return Err(self.error(message));
            }
            return Ok(self.text[start..self.at].iter().collect());
        }
        let mut word = String::new();
        loop {
            let c = self.peek();
            self.at += 1;
            match c {
                Some('"') => return Ok(word),
                Some('\\') => match self.peek() {
                    Some(c @ ('"' | '\\')) => {
                        word.push(c);
                        self.at += 1;
                    }
                    _ => return Err(self.error("after \\ in quotes stands \" or \\")),
                },
                Some(c) if !c.is_control() => word.push(c),
                Some(_) => return Err(self.error("control characters cannot be part of a value")),
                None => {
                    self.at = start;
                    return Err(self.error("the quote that begins here does not end"));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        self.skip_spaces();
        if self.take("!") {
            let name = self.word("the name of an attribute after `!`")?;
            return Ok(Requirement {
                name,
                condition: Condition::Missing,
            });
        }
        let name = self.word("the name of an attribute")?;
        if name.is_empty() {
            return Err(self.error("the name of an attribute cannot be empty"));
        }
        self.skip_spaces();
        let one = |value: String| BTreeSet::from([value]);
        let condition = if self.take("!=") {
            Condition::NotIn(one(self.word("a value after `!=`")?))
        } else if self.take("==") {
            Condition::In(one(self.word("a value after `==`")?))
        } else if self.take("=") {
            Condition::In(one(self.word("a value after `=`")?))
        } else if self.keyword("in") {
            Condition::In(self.values()?)
        } else if self.keyword("notin") {
            Condition::NotIn(self.values()?)
        } else {
            match self.peek() {
                None | Some(',') => Condition::Exists,
                Some(_) => {
                    let found = self.found();
                    let message = format!(
                        "expected =, !=, in (…), notin (…) or a comma after `{name}`, found {found}"
                    );
                    return Err(self.error(message));
                }
            }
        };
        Ok(Requirement { name, condition })
    }

    fn keyword(&mut self, word: &str) -> bool {
        let before = self.at;
        if self.take(word) && self.peek().is_some_and(|c| c.is_whitespace() || c == '(') {
            return true;
        }
        self.at = before;
        false
    }

    fn values(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        self.skip_spaces();
        if !self.take("(") {
            let message = format!(
                "expected ( with values, such as (prod, staging), found {}",
                self.found()
            );
            return Err(self.error(message));
        }
        let mut values = BTreeSet::new();
        loop {
            values.insert(self.word("a value")?);
            if values.len() > MAX_VALUES {
                return Err(self.error(format!("has more than {MAX_VALUES} values")));
            }
            self.skip_spaces();
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                let message = format!(
                    "expected a comma or ) after a value, found {}",
                    self.found()
                );
                return Err(self.error(message));
            }
        }
    }
}

/// A name or value as it is written.
struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What would be read as something else stands in quotes, too.
        let is_keyword = matches!(self.0, "in" | "notin");
        if !self.0.is_empty() && !is_keyword && self.0.chars().all(is_bare) {
            return f.write_str(self.0);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str("\"")
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Word(&self.name);
        let (word, sign, values) = match &self.condition {
            Condition::Exists => return write!(f, "{name}"),
            Condition::Missing => return write!(f, "!{name}"),
            Condition::In(values) => ("in", "=", values),
            Condition::NotIn(values) => ("notin", "!=", values),
        };
        if values.len() == 1 {
            let value = values.first().map(String::as_str).unwrap_or_default();
            return write!(f, "{name}{sign}{}", Word(value));
        }
        write!(f, "{name} {word} (")?;
        for (n, value) in values.iter().enumerate() {
            write!(f, "{}{}", if n == 0 { "" } else { ", " }, Word(value))?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(EVERYTHING);
        }
        for (n, requirement) in self.0.iter().enumerate() {
            write!(f, "{}{requirement}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attributes(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn requirements_are_read_as_kubernetes_reads_them() {
        let all = attributes(&[
            ("service.name", "otelcol"),
            ("env", "prod"),
            ("region", "us"),
        ]);
        for (text, is_meant) in [
            ("*", true),
            (
                "service.name=otelcol, env in (prod, staging), !canary, region!=eu",
                true,
            ),
            ("service.name==otelcol", true),
            ("service.name = otelcol ,env= prod", true),
            ("env", true),
            ("canary", false),
            ("!env", false),
            ("canary!=yes", true),
            ("canary notin (yes, maybe)", true),
            ("env notin (prod)", false),
            ("env in (test)", false),
            ("env=prod,region=eu", false),
            ("env in(prod)", true),
            ("env=\"prod\"", true),
        ] {
            let selector = Selector::parse(text).unwrap();
            assert_eq!(selector.matches(&all), is_meant, "{text}");
        }
    }

    #[test]
    fn one_meaning_has_one_text() {
        for (text, canonical) in [
            (" * ", "*"),
            ("env in (staging,prod,prod)", "env in (prod, staging)"),
            ("env in (prod)", "env=prod"),
            ("a==b,!c", "a=b, !c"),
            ("a=\"\"", "a=\"\""),
            ("\"in\"=\"x, y\"", "\"in\"=\"x, y\""),
            ("b=1, a=1", "a=1, b=1"),
            ("a=1, b=1, a = 1, a in (1)", "a=1, b=1"),
            ("!a, a!=2, a", "a, !a, a!=2"),
        ] {
            assert_eq!(Selector::parse(text).unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn a_selector_whose_own_text_would_be_too_long_is_refused_and_one_that_was_kept_is_read() {
        // 1,980 bytes as they are written, and one more for each comma as they are kept.
        let values: Vec<String> = (0..99)
            .map(|n| format!("value-of-19-bytes{n:02}"))
            .collect();
        let text = format!("a in ({})", values.join(","));
        assert!(text.len() <= MAX_SELECTOR_BYTES, "{}", text.len());
        let error = Selector::parse(&text).unwrap_err();
        assert!(error.message.contains("name fewer values"), "{error}");
        let kept = Selector::read(&text).unwrap().to_string();
        assert!(kept.len() > MAX_SELECTOR_BYTES);
        assert_eq!(Selector::read(&kept).unwrap().to_string(), kept);
    }

    #[test]
    fn what_is_not_understood_is_told_with_its_place() {
        let cases = [
            "",
            "  ",
            "a=",
            "a=b c=d",
            "a in",
            "a in ()",
            "a in (b",
            "a in (b c)",
            "=b",
            "a,,b",
            "a,",
            "!",
            "a=\"b",
            "a>3",
            "a=b=c",
            "*,a",
            "a=\"b\\c\"",
            "\"\"=x",
        ];
        let lines: Vec<String> = cases
            .iter()
            .map(|text| format!("{text:<12} {}", Selector::parse(text).unwrap_err()))
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    fn word() -> impl Strategy<Value = String> {
        prop_oneof![
            // Long ones, of which a few come near to the limit, and characters that are written with another before them.
            "[a-z]{100,600}",
            "[\"\\\\]{1,300}",
            "[a-z.]{1,6}",
            Just("in".to_owned()),
            Just("notin".to_owned()),
            "[ -~]{1,6}"
        ]
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let values =
            || proptest::collection::btree_set(prop_oneof![word(), Just(String::new())], 1..4);
        prop_oneof![
            Just(Condition::Exists),
            Just(Condition::Missing),
            values().prop_map(Condition::In),
            values().prop_map(Condition::NotIn),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(list in proptest::collection::vec((word(), condition()), 0..4)) {
            let requirements = list.into_iter().map(|(name, condition)| Requirement { name, condition }).collect();
            let selector = Selector(requirements);
            let text = selector.to_string();
            prop_assert_eq!(Selector::read(&text), Ok(selector.clone()));
            // What is accepted is kept in a text that is accepted as well.
            let spare = text.replace(", ", ",");
            if let Ok(accepted) = Selector::parse(&spare) {
                prop_assert_eq!(Selector::parse(&accepted.to_string()), Ok(accepted));
            }
        }

        #[test]
        fn any_text_is_read_or_refused_inside_of_it(text in "[-a-z=!(),\" *\\\\]{0,30}") {
            if let Err(error) = Selector::parse(&text) {
                prop_assert!(error.position >= 1 && error.position <= text.chars().count() + 2);
            }
        }
    }
}
