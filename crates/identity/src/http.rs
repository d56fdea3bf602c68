//! The HTTP rooms of this crate.

mod authenticate;

pub use authenticate::authenticate;
