//! A cell, as tables produce it and as queries return it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One value.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Cell {
    /// No value.
    #[default]
    Null,
    /// A whole number.
    Integer(i64),
    /// A floating point number.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes; only SQL expressions make them, no table does.
    Blob(Vec<u8>),
}

impl Cell {
    /// The text form that goes over osquery's wire: NULL is the empty string, bytes are base64.
    pub fn to_wire(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Integer(number) => number.to_string(),
            Self::Real(number) => real_text(*number),
            Self::Text(text) => text.clone(),
            Self::Blob(bytes) => STANDARD.encode(bytes),
        }
    }

    /// The text, when the value is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, also when it is written as text.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
            // Beyond 2^53 a floating point number names no single integer.
            Self::Real(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
                Some(*number as i64)
            }
            _ => None,
        }
    }

    /// Whether there is no value.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// How much the value weighs against a limit in bytes.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Integer(_) | Self::Real(_) => 8,
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len(),
        }
    }
}

/// As SQLite writes a real number: always recognisable as one.
fn real_text(number: f64) -> String {
    if number.is_nan() {
        String::new()
    } else if number.is_infinite() {
        if number > 0.0 { "Inf" } else { "-Inf" }.to_owned()
    } else if number.fract() == 0.0 && number.abs() < 1e15 {
        format!("{number:.1}")
    } else {
        number.to_string()
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<std::borrow::Cow<'_, str>> for Cell {
    fn from(value: std::borrow::Cow<'_, str>) -> Self {
        Self::Text(value.into_owned())
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::Integer(i64::from(value))
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

macro_rules! from_small_integers {
    ($($kind:ty),*) => {$(
        impl From<$kind> for Cell {
            fn from(value: $kind) -> Self {
                Self::Integer(i64::from(value))
            }
        }
    )*};
}
from_small_integers!(i8, i16, i32, i64, u8, u16, u32);

impl From<u64> for Cell {
    /// SQLite has no unsigned numbers: what does not fit is the largest that does.
    fn from(value: u64) -> Self {
        Self::Integer(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Cell {
    fn from(value: usize) -> Self {
        Self::from(value as u64)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_of_null_is_the_empty_string_and_of_numbers_what_sqlite_writes() {
        let forms: Vec<String> = [
            Cell::Null,
            Cell::from(-7_i64),
            Cell::from(1.0),
            Cell::from(0.25),
            Cell::from(f64::INFINITY),
            Cell::from("text"),
            Cell::Blob(vec![0, 255]),
        ]
        .iter()
        .map(Cell::to_wire)
        .collect();
        assert_eq!(forms, ["", "-7", "1.0", "0.25", "Inf", "text", "AP8="]);
    }

    #[test]
    fn a_number_written_as_text_is_still_that_number() {
        assert_eq!(Cell::from(" 42 ").as_integer(), Some(42));
        assert_eq!(Cell::from(42.0).as_integer(), Some(42));
        assert_eq!(Cell::from("forty").as_integer(), None);
        assert_eq!(Cell::from(u64::MAX), Cell::Integer(i64::MAX));
    }
}
