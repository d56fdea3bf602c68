//! Prints `docs/compatibility.md`; `cargo xtask docs` writes it.

fn main() {
    print!("{}", muster_peers_fleet::page::markdown());
}
