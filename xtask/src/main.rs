//! What building Muster takes beyond `cargo build`, `test` and `run`.

fn main() {}
