//! `muster`: the operator's command line.

fn main() -> std::process::ExitCode {
    muster_cli::main()
}
