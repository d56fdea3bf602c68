//! The program `muster-server`.

/// Thousands of connections that allocate a little on every request leave glibc's heap in pieces: with 10,000 hosts it spent
/// a fifth of the server's time looking for room.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    muster_server::cli::main()
}
