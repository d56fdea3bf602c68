//! The program `muster-server`.

/// Thousands of connections that allocate a little on every request leave glibc's heap in pieces: with 10,000 hosts it spent
/// a fifth of the server's time looking for room.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // Pages of 2 MiB that thousands of connections touch here and there are held whole (docs/performance.md). That
    // the kernel does not know of it is no reason not to serve.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    muster_server::cli::main()
}
