//! The SQL of this crate, one module per resource.

pub(crate) mod agent_keys;
pub(crate) mod audit;
pub(crate) mod collector_keys;
pub(crate) mod master_key;
pub(crate) mod people;
pub(crate) mod second_factor;
pub(crate) mod tokens;

#[cfg(test)]
mod tests;
