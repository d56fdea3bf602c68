//! What the tables and the engine promise, tried from outside.
//!
//! `oracle` compares tables with what other programs say of this machine; those programs come from the packages that
//! `cargo xtask prerequisites` installs. `fixtures` reads made-up machines below a folder.

mod engine;
mod fixtures;
mod oracle;
mod privileges;
mod queries;
mod schema;
mod support;
