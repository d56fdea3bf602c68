//! The program `muster-server`.

fn main() -> std::process::ExitCode {
    muster_server::cli::main()
}
