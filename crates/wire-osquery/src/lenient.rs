//! Reading values that agents spell in several ways, without building a tree of what is not wanted: a hostile body of
//! a few megabytes would otherwise cost a hundred.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

/// A value that stands alone; lists and objects are passed over.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Scalar {
    Text(String),
    Integer(i64),
    /// Beyond the largest signed number.
    Unsigned(u64),
    Float(f64),
    Flag(bool),
    #[default]
    Null,
    Composite,
}

impl Scalar {
    /// As the cell of a row: numbers and flags become texts, what is no scalar the empty text.
    pub(crate) fn cell(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Integer(number) => number.to_string(),
            Self::Unsigned(number) => number.to_string(),
            Self::Float(number) => {
                Number::from_f64(number).map_or_else(String::new, |it| it.to_string())
            }
            Self::Flag(flag) => u8::from(flag).to_string(),
            Self::Null | Self::Composite => String::new(),
        }
    }

    /// As a whole number, written as a number or as a text.
    pub(crate) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Unsigned(_) => Some(i64::MAX),
            Self::Float(number) => Some(*number as i64),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Flag(flag) => Some(i64::from(*flag)),
            Self::Null | Self::Composite => None,
        }
    }

    /// As a text that is not empty.
    pub(crate) fn filled(self) -> Option<String> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyScalar;
        impl<'de> Visitor<'de> for AnyScalar {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_bool<E>(self, flag: bool) -> Result<Scalar, E> {
                Ok(Scalar::Flag(flag))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(number))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
                Ok(i64::try_from(number).map_or(Scalar::Unsigned(number), Scalar::Integer))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar::Float(number))
            }
            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }
            fn visit_string<E>(self, text: String) -> Result<Scalar, E> {
                Ok(Scalar::Text(text))
            }
            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar::Null)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scalar, A::Error> {
                while list.next_element::<Ignored>()?.is_some() {}
                Ok(Scalar::Composite)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Scalar, A::Error> {
                while members.next_entry::<Ignored, Ignored>()?.is_some() {}
                Ok(Scalar::Composite)
            }
        }
        deserializer.deserialize_any(AnyScalar)
    }
}

/// What an object makes of its members, or what a list makes of its elements; anything else is passed over.
pub(crate) trait Collect<'de>: Sized {
    /// One member; the value must be read.
    fn member<A: MapAccess<'de>>(&mut self, name: String, members: &mut A) -> Result<(), A::Error> {
        let _ = name;
        members.next_value::<Ignored>().map(drop)
    }

    /// One element, if there is one more.
    fn element<A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<bool, A::Error> {
        Ok(list.next_element::<Ignored>()?.is_some())
    }

    /// The value was an object.
    fn object(&mut self) {}

    /// Reads a value of any kind.
    fn collect<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self, D::Error> {
        struct Collector<C>(C);
        impl<'de, C: Collect<'de>> Visitor<'de> for Collector<C> {
            type Value = C;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_bool<E>(self, _: bool) -> Result<C, E> {
                Ok(self.0)
            }
            fn visit_i64<E>(self, _: i64) -> Result<C, E> {
                Ok(self.0)
            }
            fn visit_u64<E>(self, _: u64) -> Result<C, E> {
                Ok(self.0)
            }
            fn visit_f64<E>(self, _: f64) -> Result<C, E> {
                Ok(self.0)
            }
            fn visit_str<E>(self, _: &str) -> Result<C, E> {
                Ok(self.0)
            }
            fn visit_unit<E>(self) -> Result<C, E> {
                Ok(self.0)
            }
            fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<C, A::Error> {
                while self.0.element(&mut list)? {}
                Ok(self.0)
            }
            fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<C, A::Error> {
                self.0.object();
                while let Some(name) = members.next_key()? {
                    self.0.member(name, &mut members)?;
                }
                Ok(self.0)
            }
        }
        deserializer.deserialize_any(Collector(self))
    }
}

/// A value that is passed over. Unlike serde's own it goes down level by level, so that nesting without end is refused
/// here as it is where values are wanted.
pub(crate) struct Ignored;

impl Collect<'_> for Ignored {}

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self.collect(deserializer)
    }
}

/// An object whose members are values of one kind, at most `LIMIT` of them; where a name comes twice the last counts.
pub(crate) struct Members<T, const LIMIT: usize>(pub(crate) HashMap<String, T>);

impl<T, const LIMIT: usize> Default for Members<T, LIMIT> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<'de, T: Deserialize<'de>, const LIMIT: usize> Collect<'de> for Members<T, LIMIT> {
    fn member<A: MapAccess<'de>>(&mut self, name: String, members: &mut A) -> Result<(), A::Error> {
        if self.0.len() == LIMIT {
            return Err(too_many(LIMIT, "members in one object"));
        }
        self.0.insert(name, members.next_value()?);
        Ok(())
    }
}

impl<'de, T: Deserialize<'de>, const LIMIT: usize> Deserialize<'de> for Members<T, LIMIT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::default().collect(deserializer)
    }
}

/// More of something than is read.
pub(crate) fn too_many<E: Error>(limit: usize, what: &str) -> E {
    E::custom(format_args!("more than {limit} {what}"))
}

/// True for `true` and `"true"`; false for anything else.
pub(crate) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(match Scalar::deserialize(deserializer)? {
        Scalar::Flag(flag) => flag,
        Scalar::Text(text) => text.eq_ignore_ascii_case("true"),
        _ => false,
    })
}

/// A text; null counts as empty, anything else is a mistake.
pub(crate) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A text; anything else counts as absent.
pub(crate) fn text_or_absent<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(match Scalar::deserialize(deserializer)? {
        Scalar::Text(text) => Some(text),
        _ => None,
    })
}
