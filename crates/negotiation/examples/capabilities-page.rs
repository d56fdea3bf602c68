//! Prints the reference page of capabilities and API versions.

fn main() {
    print!("{}", muster_negotiation::page::markdown());
}
