//! Parameters of statements.

use muster_clock::Timestamp;

/// One parameter. `NULL` keeps its type, since PostgreSQL wants to know it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `BIGINT`, also times (microseconds) and flags (0 or 1).
    Integer(Option<i64>),
    /// `DOUBLE PRECISION`.
    Real(Option<f64>),
    /// `TEXT`.
    Text(Option<String>),
    /// `BYTEA` or `BLOB`.
    Bytes(Option<Vec<u8>>),
}

macro_rules! from {
    ($($source:ty => |$value:ident| $variant:ident($target:expr);)*) => {$(
        impl From<$source> for Value {
            fn from($value: $source) -> Self {
                Self::$variant(Some($target))
            }
        }
        impl From<Option<$source>> for Value {
            fn from(value: Option<$source>) -> Self {
                Self::$variant(value.map(|$value| $target))
            }
        }
    )*};
}

from! {
    i64 => |value| Integer(value);
    i32 => |value| Integer(i64::from(value));
    u32 => |value| Integer(i64::from(value));
    bool => |value| Integer(i64::from(value));
    Timestamp => |value| Integer(value.as_micros());
    f64 => |value| Real(value);
    String => |value| Text(value);
    &str => |value| Text(value.to_owned());
    &String => |value| Text(value.clone());
    Vec<u8> => |value| Bytes(value);
    &[u8] => |value| Bytes(value.to_vec());
    [u8; 32] => |value| Bytes(value.to_vec());
    &[u8; 32] => |value| Bytes(value.to_vec());
}
