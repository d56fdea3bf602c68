//! Programs that come from the distribution's packages: found, installed when allowed, or named in one message.
//!
//! Not responsible for the Rust toolchain, Node or a C compiler, which a developer brings.

use std::path::Path;
use std::process::Command;

use clap::Args;

use crate::error::XtaskError;
use crate::{postgres, process};

/// A program that tests use.
struct Prerequisite {
    program: &'static str,
    /// The Debian and Ubuntu package that brings it.
    package: &'static str,
    needed_by: &'static str,
}

const PREREQUISITES: &[Prerequisite] = &[
    Prerequisite {
        program: "git",
        package: "git",
        needed_by: "tidy: which files belong to the repository",
    },
    Prerequisite {
        program: postgres::SERVER_PROGRAM,
        package: "postgresql",
        needed_by: "tests on PostgreSQL",
    },
    Prerequisite {
        program: "redis-server",
        package: "redis-server",
        needed_by: "tests of several servers that tell each other by Redis",
    },
    Prerequisite {
        program: "haproxy",
        package: "haproxy",
        needed_by: "`cargo xtask up --replicas`",
    },
    Prerequisite {
        program: "oathtool",
        package: "oathtool",
        needed_by: "tests of second factors",
    },
    Prerequisite {
        program: "promtool",
        package: "prometheus",
        needed_by: "the check of the server's metrics",
    },
    Prerequisite {
        program: "rpm",
        package: "rpm",
        needed_by: "the agent's rpm_packages against a real database",
    },
    Prerequisite {
        program: "ip",
        package: "iproute2",
        needed_by: "the agent's interface_addresses, routes and arp_cache",
    },
    Prerequisite {
        program: "ss",
        package: "iproute2",
        needed_by: "the agent's listening_ports and process_open_sockets",
    },
    Prerequisite {
        program: "ps",
        package: "procps",
        needed_by: "the agent's processes",
    },
    Prerequisite {
        program: "lsblk",
        package: "util-linux",
        needed_by: "the agent's block_devices",
    },
    Prerequisite {
        program: "mke2fs",
        package: "e2fsprogs",
        needed_by: "the agent's block_devices on a file system made for it",
    },
    Prerequisite {
        program: "findmnt",
        package: "util-linux",
        needed_by: "the agent's mounts",
    },
    Prerequisite {
        program: "setpriv",
        package: "util-linux",
        needed_by: "the agent's tables as an unprivileged user",
    },
    Prerequisite {
        program: "lsmod",
        package: "kmod",
        needed_by: "the agent's kernel_modules",
    },
    Prerequisite {
        program: "lsof",
        package: "lsof",
        needed_by: "the agent's process_open_files",
    },
    Prerequisite {
        program: "openssl",
        package: "openssl",
        needed_by: "the agent's certificates, and the server's TLS seen by another implementation",
    },
    Prerequisite {
        program: "curl",
        package: "curl",
        needed_by: "the server's HTTP seen by another implementation",
    },
    Prerequisite {
        program: "chromium",
        package: "chromium",
        needed_by: "the server's pages in a browser",
    },
    Prerequisite {
        program: "chromedriver",
        package: "chromium-driver",
        needed_by: "the server's pages in a browser",
    },
    Prerequisite {
        program: "xz",
        package: "xz-utils",
        needed_by: "packages and archives with xz",
    },
    Prerequisite {
        program: "go",
        package: "golang-go",
        needed_by: "OpAMP clients, Helm and compose, which are built; 1.25 or later",
    },
    Prerequisite {
        program: VENV,
        package: "python3-venv",
        needed_by: "an OpAMP client in Python",
    },
    Prerequisite {
        program: "pkg-config",
        package: "pkg-config",
        needed_by: "an OpAMP client in Rust, which finds OpenSSL by it",
    },
    Prerequisite {
        program: OPENSSL_HEADER,
        package: "libssl-dev",
        needed_by: "an OpAMP client in Rust, which is built against OpenSSL",
    },
];

/// No program, but what makes folders for Python's packages.
const VENV: &str = "python3 -m venv";
/// No program, but what programs in C are built by.
const OPENSSL_HEADER: &str = "openssl/ssl.h";

/// Programs from the distribution that tests use: installs the missing ones, or says how.
///
/// They are installed when run as root on Debian or Ubuntu; else one message names the packages and the command.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  cargo xtask prerequisites          install what is missing, or say how
  cargo xtask prerequisites --list   what is needed, by what, and whether it is there")]
pub(crate) struct Arguments {
    /// Print them all and install nothing.
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), XtaskError> {
    if !arguments.list {
        return ensure();
    }
    for prerequisite in PREREQUISITES {
        println!(
            "{:<15} {:<8} {:<15} {}",
            prerequisite.program,
            if is_there(prerequisite) {
                "there"
            } else {
                "missing"
            },
            prerequisite.package,
            prerequisite.needed_by
        );
    }
    Ok(())
}

/// Makes sure that every program is there.
pub(crate) fn ensure() -> Result<(), XtaskError> {
    let missing = missing();
    if missing.is_empty() {
        println!("    all {} programs are there", PREREQUISITES.len());
        return Ok(());
    }
    let packages = packages(&missing);
    if !(process::is_root() && is_debian_like(Path::new("/etc/os-release"))) {
        return Err(cannot_install(&missing, &packages));
    }
    println!("    installing {}", packages.join(", "));
    install(&packages)?;
    let missing = self::missing();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(cannot_install(&missing, &self::packages(&missing)))
    }
}

fn missing() -> Vec<&'static Prerequisite> {
    PREREQUISITES
        .iter()
        .filter(|prerequisite| !is_there(prerequisite))
        .collect()
}

fn is_there(prerequisite: &Prerequisite) -> bool {
    if prerequisite.program == postgres::SERVER_PROGRAM {
        return postgres::find_binaries().is_some();
    }
    if prerequisite.program == VENV {
        // Debian has it in two packages, and only with both does it work.
        let mut python = Command::new("python3");
        return process::capture(python.args(["-c", "import venv, ensurepip"])).is_ok();
    }
    if prerequisite.program == OPENSSL_HEADER {
        return Path::new("/usr/include").join(OPENSSL_HEADER).is_file();
    }
    process::find_program(prerequisite.program).is_some()
}

fn packages(missing: &[&Prerequisite]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = missing.iter().map(|missing| missing.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn cannot_install(missing: &[&Prerequisite], packages: &[&str]) -> XtaskError {
    let programs: Vec<&str> = missing.iter().map(|missing| missing.program).collect();
    XtaskError::Missing {
        programs: programs.join(", "),
        command: format!(
            "sudo apt-get update && sudo apt-get install --yes --no-install-recommends {}",
            packages.join(" ")
        ),
    }
}

fn is_debian_like(os_release: &Path) -> bool {
    process::find_program("apt-get").is_some()
        && std::fs::read_to_string(os_release).is_ok_and(|text| names_debian(&text))
}

fn names_debian(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| {
            line.strip_prefix("ID=")
                .or_else(|| line.strip_prefix("ID_LIKE="))
        })
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .any(|name| matches!(name, "debian" | "ubuntu"))
}

/// Package lists are fetched first where there are none or they no longer fit, since fetching takes long.
fn install(packages: &[&str]) -> Result<(), XtaskError> {
    let simulated = process::capture(
        apt_get()
            .args(["install", "--simulate", "--no-install-recommends"])
            .args(packages),
    );
    let mut fetched = false;
    if simulated.is_err() {
        process::run(apt_get().args(["update", "--quiet"]))?;
        fetched = true;
    }
    let first = install_now(packages);
    if first.is_err() && !fetched {
        process::run(apt_get().args(["update", "--quiet"]))?;
        return install_now(packages);
    }
    first
}

fn install_now(packages: &[&str]) -> Result<(), XtaskError> {
    process::run(
        apt_get()
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(packages),
    )
}

/// Outside systemd, a service is not started in run level 1: of PostgreSQL and Prometheus only the programs are wanted.
fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_what_is_like_it_are_recognised() {
        assert!(names_debian("NAME=\"Debian GNU/Linux\"\nID=debian\n"));
        assert!(names_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!names_debian("ID=fedora\n"));
        assert!(!names_debian("NAME=debian\n"));
    }

    #[test]
    fn one_message_names_each_package_once_and_the_command() {
        let missing: Vec<&Prerequisite> = PREREQUISITES
            .iter()
            .filter(|prerequisite| matches!(prerequisite.package, "iproute2" | "rpm"))
            .collect();
        let error = cannot_install(&missing, &packages(&missing));
        let text = error.to_string();
        assert!(text.contains("rpm, ip, ss"), "{text}");
        assert!(
            text.contains("apt-get install --yes --no-install-recommends iproute2 rpm"),
            "{text}"
        );
    }
}
