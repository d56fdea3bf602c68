//! Rows of answers.

use std::collections::{HashMap, HashSet};

use serde::de::MapAccess;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::lenient::{Collect, Scalar};

/// One row of an answer: names and texts, in the order in which they came, each name once. Written by agents and (to
/// listeners) by servers, read by servers and clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row(Vec<(String, String)>);

impl Row {
    /// The text of a column.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.iter()
            .find(|(name, _)| *name == column)
            .map(|(_, value)| value)
    }

    /// The text of a column unless it is empty.
    pub fn filled(&self, column: &str) -> Option<&str> {
        self.get(column)
            .map(str::trim)
            .filter(|value| !value.is_empty())
    }

    /// Names and texts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether it has no column.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much it weighs: the bytes of its names and texts.
    pub fn bytes(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }

    /// Leaves each name once: at its first place, with its last text, as JSON objects are commonly read.
    fn of_cells(mut cells: Vec<(String, String)>) -> Self {
        /// Up to here comparing is faster than hashing.
        const FEW: usize = 32;
        let is_unique = if cells.len() <= FEW {
            (1..cells.len()).all(|at| cells[..at].iter().all(|cell| cell.0 != cells[at].0))
        } else {
            let names: HashSet<_> = cells.iter().map(|cell| &cell.0).collect();
            names.len() == cells.len()
        };
        if !is_unique {
            let mut places: HashMap<String, usize> = HashMap::new();
            let mut unique: Vec<(String, String)> = Vec::new();
            for (name, value) in cells {
                if let Some(place) = places.get(&name) {
                    unique[*place].1 = value;
                } else {
                    places.insert(name.clone(), unique.len());
                    unique.push((name, value));
                }
            }
            cells = unique;
        }
        Self(cells)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Row {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(cells: I) -> Self {
        let cells = cells.into_iter();
        Self::of_cells(
            cells
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Row {
    /// Anything but an object is a mistake.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        OptionalRow::deserialize(deserializer)?
            .0
            .ok_or_else(|| serde::de::Error::custom("a row is not an object"))
    }
}

/// A row, or something that is none.
#[derive(Default)]
pub(crate) struct OptionalRow(pub(crate) Option<Row>);

impl<'de> Deserialize<'de> for OptionalRow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default)]
        struct Cells(Option<Vec<(String, String)>>);
        impl<'de> Collect<'de> for Cells {
            fn object(&mut self) {
                self.0 = Some(Vec::new());
            }

            fn member<A: MapAccess<'de>>(
                &mut self,
                name: String,
                members: &mut A,
            ) -> Result<(), A::Error> {
                let cell = members.next_value::<Scalar>()?.cell();
                if let Some(cells) = &mut self.0 {
                    cells.push((name, cell));
                }
                Ok(())
            }
        }
        let cells = Cells::default().collect(deserializer)?;
        Ok(Self(cells.0.map(Row::of_cells)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_comes_twice_is_kept_once_with_its_last_text() {
        let row: Row = serde_json::from_str(r#"{"a":"1","b":"2","a":"3"}"#).unwrap();
        assert_eq!(row.iter().collect::<Vec<_>>(), [("a", "3"), ("b", "2")]);
        let many = (0..100).map(|number| (format!("c{}", number % 50), number.to_string()));
        let row: Row = many.collect();
        assert_eq!(row.iter().count(), 50);
        assert_eq!(row.get("c7"), Some("57"));
    }

    #[test]
    fn a_row_must_be_an_object() {
        for text in ["[]", "7", "null", "\"x\""] {
            assert!(serde_json::from_str::<Row>(text).is_err(), "{text}");
        }
        assert_eq!(serde_json::from_str::<Row>("{}").unwrap(), Row::default());
    }

    #[test]
    fn numbers_keep_their_spelling_as_far_as_json_has_it() {
        let text =
            r#"{"big":18446744073709551615,"small":-9223372036854775808,"float":1.5,"whole":2.0}"#;
        let row: Row = serde_json::from_str(text).unwrap();
        assert_eq!(row.get("big"), Some("18446744073709551615"));
        assert_eq!(row.get("small"), Some("-9223372036854775808"));
        assert_eq!(row.get("float"), Some("1.5"));
        assert_eq!(row.get("whole"), Some("2.0"));
    }
}
