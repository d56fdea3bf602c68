//! Made-up machines below a folder: what this machine does not have.

use muster_tables::{Engine, hardware_uuid};
use tempfile::TempDir;

use crate::support::{Row, engine_below, query, rows, write};

fn machine(files: &[(&str, &str)]) -> (TempDir, Engine) {
    let root = tempfile::tempdir().expect("a folder for a made-up machine");
    for (path, content) in files {
        write(root.path(), path, content);
    }
    let engine = engine_below(root.path());
    (root, engine)
}

/// The values of some columns, row by row.
fn values<const COUNT: usize>(rows: &[Row], columns: [&str; COUNT]) -> Vec<[String; COUNT]> {
    rows.iter()
        .map(|row| columns.map(|column| row[column].clone()))
        .collect()
}

#[test]
fn a_machine_without_anything_gives_warnings_and_no_failure() {
    let (_root, engine) = machine(&[]);
    for table in engine.tables() {
        let sql = match table.name {
            "file" | "hash" => format!("SELECT * FROM {} WHERE path = '/etc/passwd'", table.name),
            name => format!("SELECT * FROM {name}"),
        };
        for warning in query(&engine, &sql).warnings {
            assert!(
                warning.starts_with(&format!("{}: ", table.name)),
                "{warning}"
            );
            assert!(!warning.contains("mistake"), "{warning}");
        }
    }
    let output = query(&engine, "SELECT * FROM users");
    assert_eq!(output.warnings.len(), 1);
    assert!(output.warnings[0].starts_with("users: could not read "));
    assert!(output.warnings[0].ends_with("etc/passwd: No such file or directory (os error 2)"));
}

#[test]
fn files_full_of_rubbish_give_no_failure() {
    let rubbish: Vec<u8> = (0..20_000_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let root = tempfile::tempdir().unwrap();
    for path in [
        "/etc/passwd",
        "/etc/group",
        "/etc/hosts",
        "/etc/services",
        "/etc/resolv.conf",
        "/etc/crontab",
        "/etc/sudoers",
        "/etc/os-release",
        "/etc/redhat-release",
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/proc/loadavg",
        "/proc/uptime",
        "/proc/cmdline",
        "/proc/modules",
        "/proc/self/mounts",
        "/proc/net/arp",
        "/proc/1/stat",
        "/proc/1/status",
        "/proc/1/net/tcp",
        "/proc/1/net/unix",
        "/proc/self/net/tcp",
        "/run/utmp",
        "/var/log/wtmp",
        "/var/lib/dpkg/status",
        "/var/lib/rpm/rpmdb.sqlite",
        "/etc/apt/sources.list",
        "/etc/apt/sources.list.d/x.sources",
        "/usr/lib/python3/dist-packages/x.dist-info/METADATA",
        "/usr/lib/node_modules/x/package.json",
        "/etc/ssl/certs/ca-certificates.crt",
        "/sys/class/block/x/size",
        "/sys/class/dmi/id/product_uuid",
        "/sys/firmware/dmi/tables/DMI",
    ] {
        write(root.path(), path, &rubbish);
    }
    let engine = engine_below(root.path());
    for table in engine.tables() {
        if !matches!(table.name, "file" | "hash") {
            let output = query(&engine, &format!("SELECT * FROM {}", table.name));
            assert!(
                !output
                    .warnings
                    .iter()
                    .any(|warning| warning.contains("mistake")),
                "{:?}",
                output.warnings
            );
        }
    }
    let output = query(&engine, "SELECT * FROM rpm_packages");
    assert!(
        output.warnings[0].contains("file is not a database"),
        "{:?}",
        output.warnings
    );
}

#[test]
fn descendants_of_red_hat_are_one_platform() {
    let (_root, engine) = machine(&[
        (
            "/etc/os-release",
            "NAME=\"Rocky Linux\"\nVERSION=\"9.4 (Blue Onyx)\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\"\n",
        ),
        (
            "/etc/redhat-release",
            "Rocky Linux release 9.4 (Blue Onyx)\n",
        ),
    ]);
    let columns = [
        "name",
        "version",
        "major",
        "minor",
        "platform",
        "platform_like",
    ];
    assert_eq!(
        values(&rows(&engine, "SELECT * FROM os_version"), columns),
        [[
            "Rocky Linux",
            "Rocky Linux release 9.4 (Blue Onyx)",
            "9",
            "4",
            "rhel",
            "rhel"
        ]]
    );
}

#[test]
fn processors_are_counted_by_sockets_and_cores() {
    let processor = |number: u32, socket: u32, core: u32| {
        format!(
            "processor\t: {number}\nvendor_id\t: GenuineIntel\nmodel\t\t: 85\nmodel name\t: Example CPU\n\
             physical id\t: {socket}\ncore id\t\t: {core}\ncpu MHz\t\t: 2100.4\n\n"
        )
    };
    let text: String = (0..8)
        .map(|number| processor(number, number / 4, number % 2))
        .collect();
    let (_root, engine) = machine(&[
        ("/proc/cpuinfo", &text),
        (
            "/sys/devices/system/cpu/cpu4/cpufreq/cpuinfo_max_freq",
            "3700000\n",
        ),
    ]);
    let columns = [
        "cpu_physical_cores",
        "cpu_logical_cores",
        "cpu_sockets",
        "cpu_subtype",
        "cpu_brand",
    ];
    assert_eq!(
        values(&rows(&engine, "SELECT * FROM system_info"), columns),
        [["4", "8", "2", "85", "Example CPU"]]
    );
    let columns = [
        "device_id",
        "number_of_cores",
        "logical_processors",
        "current_clock_speed",
        "max_clock_speed",
    ];
    assert_eq!(
        values(&rows(&engine, "SELECT * FROM cpu_info"), columns),
        [
            ["CPU0", "2", "4", "2100", "2100"],
            ["CPU1", "2", "4", "2100", "3700"]
        ]
    );
}

#[test]
fn the_firmware_tells_who_made_the_machine() {
    let (root, engine) = machine(&[
        ("/sys/class/dmi/id/sys_vendor", "Example Corp.\n"),
        ("/sys/class/dmi/id/product_serial", "SN-1\n"),
        (
            "/sys/class/dmi/id/product_uuid",
            "4C4C4544-0042-3610-8051-B4C04F4D3132\n",
        ),
        ("/sys/class/dmi/id/bios_vendor", "SeaBIOS\n"),
        ("/sys/class/dmi/id/bios_version", "1.16.2\n"),
        ("/sys/firmware/efi/fw_platform_size", "64\n"),
    ]);
    let columns = ["hardware_vendor", "hardware_serial", "uuid"];
    assert_eq!(
        values(&rows(&engine, "SELECT * FROM system_info"), columns),
        [[
            "Example Corp.",
            "SN-1",
            "4c4c4544-0042-3610-8051-b4c04f4d3132"
        ]]
    );
    assert_eq!(
        hardware_uuid(root.path()).as_deref(),
        Some("4c4c4544-0042-3610-8051-b4c04f4d3132")
    );
    let columns = ["vendor", "version", "firmware_type"];
    assert_eq!(
        values(&rows(&engine, "SELECT * FROM platform_info"), columns),
        [["SeaBIOS", "1.16.2", "uefi"]]
    );
    engine
        .facts()
        .update(|facts| facts.uuid = Some("given".to_owned()));
    let both = "SELECT s.uuid, o.uuid AS agent FROM system_info s, osquery_info o";
    assert_eq!(
        values(&rows(&engine, both), ["uuid", "agent"]),
        [["given", "given"]]
    );
}

#[test]
fn a_kernel_tells_how_it_was_started_and_what_it_loaded() {
    let (_root, engine) = machine(&[
        (
            "/proc/cmdline",
            "BOOT_IMAGE=/vmlinuz-6.1 root=UUID=1-2 ro quiet\n",
        ),
        (
            "/proc/modules",
            "nf_nat 61440 2 nft_chain_nat,xt_MASQUERADE, Live 0xffffffffc0a5b000\nloop 40960 0 - Live 0x0000000000000000\n",
        ),
    ]);
    let columns = ["path", "device", "arguments"];
    assert_eq!(
        values(&rows(&engine, "SELECT * FROM kernel_info"), columns),
        [["/vmlinuz-6.1", "UUID=1-2", "ro quiet"]]
    );
    let columns = ["name", "size", "used_by", "status", "address"];
    assert_eq!(
        values(&rows(&engine, "SELECT * FROM kernel_modules"), columns),
        [
            [
                "nf_nat",
                "61440",
                "nft_chain_nat,xt_MASQUERADE",
                "Live",
                "0xffffffffc0a5b000"
            ],
            ["loop", "40960", "-", "Live", "0x0000000000000000"],
        ]
    );
}

#[test]
fn sudo_rules_and_what_they_include_are_told_in_order() {
    let (_root, engine) = machine(&[
        (
            "/etc/sudoers",
            "# a comment\nDefaults env_reset\nroot ALL=(ALL:ALL) \\\n  ALL\n@includedir /etc/sudoers.d\n#include more\n",
        ),
        ("/etc/sudoers.d/10-ada", "ada ALL = NOPASSWD: ALL\n"),
        ("/etc/sudoers.d/ignored.bak", "mallory ALL = ALL\n"),
        ("/etc/sudoers.d/ignored~", "mallory ALL = ALL\n"),
        ("/etc/more", "%wheel ALL=(ALL) ALL\n@include /etc/more\n"),
    ]);
    let output = query(&engine, "SELECT * FROM sudoers");
    assert!(
        output
            .warnings
            .iter()
            .all(|warning| warning.contains("included too deeply"))
    );
    let found = values(
        &rows(&engine, "SELECT DISTINCT * FROM sudoers"),
        ["source", "header", "rule_details"],
    );
    assert_eq!(
        found,
        [
            ["/etc/sudoers", "Defaults", "env_reset"],
            ["/etc/sudoers", "root", "ALL=(ALL:ALL) ALL"],
            ["/etc/sudoers", "@includedir", "/etc/sudoers.d"],
            ["/etc/sudoers.d/10-ada", "ada", "ALL = NOPASSWD: ALL"],
            ["/etc/sudoers", "#include", "more"],
            ["/etc/more", "%wheel", "ALL=(ALL) ALL"],
            ["/etc/more", "@include", "/etc/more"],
        ]
    );
}

#[test]
fn keys_that_may_log_in_are_told_for_each_account() {
    let (_root, engine) = machine(&[
        (
            "/etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nada:x:1000:1000:Ada:/home/ada:/bin/bash\nservice:x:5:5::/nonexistent:/bin/false\n",
        ),
        (
            "/root/.ssh/authorized_keys",
            "ssh-ed25519 AAAAroot root@console\n",
        ),
        (
            "/home/ada/.ssh/authorized_keys",
            "# work\nno-pty,command=\"/bin/date -u\" ssh-rsa AAAAada\nrubbish\n",
        ),
    ]);
    let columns = ["uid", "algorithm", "key", "options", "comment", "key_file"];
    let all = values(&rows(&engine, "SELECT * FROM authorized_keys"), columns);
    let ada = [
        "1000",
        "ssh-rsa",
        "AAAAada",
        "no-pty,command=\"/bin/date -u\"",
        "",
        "/home/ada/.ssh/authorized_keys",
    ];
    assert_eq!(
        all,
        [
            [
                "0",
                "ssh-ed25519",
                "AAAAroot",
                "",
                "root@console",
                "/root/.ssh/authorized_keys"
            ],
            ada
        ]
    );
    let joined =
        "SELECT k.* FROM users u JOIN authorized_keys k USING (uid) WHERE u.username = 'ada'";
    assert_eq!(values(&rows(&engine, joined), columns), [ada]);
}

#[test]
fn names_of_the_network_come_from_their_files() {
    let (_root, engine) = machine(&[
        (
            "/etc/hosts",
            "127.0.0.1 localhost\n192.0.2.7  db.example db # the database\n# none\n::1\n",
        ),
        (
            "/etc/services",
            "# ports\nssh\t22/tcp\nhttp 80/tcp www www-http # WorldWideWeb HTTP\nbad 99999/tcp\n",
        ),
        (
            "/etc/resolv.conf",
            "nameserver 192.0.2.53\nsearch example\noptions rotate\n",
        ),
    ]);
    assert_eq!(
        values(
            &rows(&engine, "SELECT * FROM etc_hosts"),
            ["address", "hostnames"]
        ),
        [["127.0.0.1", "localhost"], ["192.0.2.7", "db.example db"]]
    );
    assert_eq!(
        values(
            &rows(&engine, "SELECT * FROM etc_services"),
            ["name", "port", "protocol", "aliases", "comment"]
        ),
        [
            ["ssh", "22", "tcp", "", ""],
            ["http", "80", "tcp", "www www-http", "WorldWideWeb HTTP"]
        ]
    );
    assert_eq!(
        values(
            &rows(&engine, "SELECT * FROM dns_resolvers"),
            ["id", "type", "address", "netmask", "options"]
        ),
        [
            ["0", "nameserver", "192.0.2.53", "32", "17089"],
            ["0", "search", "example", "", "17089"]
        ]
    );
}

#[test]
fn cron_tables_of_the_system_and_of_users_are_read() {
    let (_root, engine) = machine(&[
        (
            "/etc/crontab",
            "SHELL=/bin/sh\n17 * * * * root run-parts /etc/cron.hourly\n",
        ),
        ("/etc/cron.d/job", "@daily root /usr/bin/job\n"),
        (
            "/var/spool/cron/crontabs/ada",
            "*/5 9-17 * * 1-5 /home/ada/check \"a  b\"\n",
        ),
    ]);
    let columns = ["event", "minute", "hour", "day_of_week", "command", "path"];
    assert_eq!(
        values(&rows(&engine, "SELECT * FROM crontab"), columns),
        [
            [
                "",
                "17",
                "*",
                "*",
                "root run-parts /etc/cron.hourly",
                "/etc/crontab"
            ],
            ["@daily", "", "", "", "root /usr/bin/job", "/etc/cron.d/job"],
            [
                "",
                "*/5",
                "9-17",
                "1-5",
                "/home/ada/check \"a b\"",
                "/var/spool/cron/crontabs/ada"
            ],
        ]
    );
}

#[test]
fn packages_of_images_without_a_package_manager_are_told() {
    let (_root, engine) = machine(&[
        (
            "/var/lib/dpkg/status.d/tzdata",
            "Package: tzdata\nVersion: 2025b-0+deb12u1\nArchitecture: all\n",
        ),
        ("/var/lib/dpkg/status.d/tzdata.md5sums", "00 /x\n"),
        (
            "/srv/chroot/status",
            "Package: in-chroot\nStatus: deinstall ok config-files\nVersion: 1:2.0\nSource: src (1.9)\n",
        ),
    ]);
    let columns = [
        "name", "version", "revision", "status", "source", "admindir",
    ];
    assert_eq!(
        values(&rows(&engine, "SELECT * FROM deb_packages"), columns),
        [[
            "tzdata",
            "2025b-0+deb12u1",
            "0+deb12u1",
            "install ok installed",
            "",
            "/var/lib/dpkg"
        ]]
    );
    assert_eq!(
        values(
            &rows(
                &engine,
                "SELECT * FROM deb_packages WHERE admindir = '/srv/chroot'"
            ),
            columns
        ),
        [[
            "in-chroot",
            "1:2.0",
            "",
            "deinstall ok config-files",
            "src (1.9)",
            "/srv/chroot"
        ]]
    );
}

#[test]
fn an_old_rpm_database_is_named_and_none_is_no_trouble() {
    let (_root, engine) = machine(&[("/var/lib/rpm/Packages", "")]);
    let output = query(&engine, "SELECT * FROM rpm_packages");
    assert!(
        output.warnings[0].contains("in the format Berkeley DB"),
        "{:?}",
        output.warnings
    );
    let (_root, engine) = machine(&[("/etc/passwd", "")]);
    assert!(
        query(&engine, "SELECT * FROM rpm_packages")
            .warnings
            .is_empty()
    );
    assert!(
        query(&engine, "SELECT * FROM deb_packages")
            .warnings
            .is_empty()
    );
}

#[test]
fn python_packages_belong_to_the_system_or_to_a_user() {
    let metadata = |name: &str, version: &str| {
        format!(
            "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: It works\nLicense: MIT\n\nAuthor: not a field\n"
        )
    };
    let (root, engine) = machine(&[
        (
            "/etc/passwd",
            "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n",
        ),
        (
            "/usr/lib/python3/dist-packages/requests-2.31.dist-info/METADATA",
            &metadata("requests", "2.31"),
        ),
        (
            "/usr/lib/python3/dist-packages/old.egg-info",
            &metadata("old", "0.1"),
        ),
        (
            "/usr/lib/python3/dist-packages/folder.egg-info/PKG-INFO",
            &metadata("folder", "3"),
        ),
        ("/usr/lib/python3/dist-packages/requests/__init__.py", ""),
        (
            "/home/ada/.local/lib/python3.11/site-packages/mine-1.dist-info/METADATA",
            &metadata("mine", "1"),
        ),
        (
            "/home/ada/.local/share/pipx/venvs/tool/lib/python3.11/site-packages/tool-2.dist-info/METADATA",
            &metadata("tool", "2"),
        ),
        (
            "/srv/app/site-packages/asked-9.dist-info/METADATA",
            &metadata("asked", "9"),
        ),
    ]);
    std::os::unix::fs::symlink("python3", root.path().join("usr/lib/python3.11")).unwrap();
    let names = |sql: &str| values(&rows(&engine, sql), ["name", "uid", "license"]);
    assert_eq!(
        names("SELECT * FROM python_packages ORDER BY name"),
        [
            ["folder", "0", "MIT"],
            ["mine", "1000", "MIT"],
            ["old", "0", "MIT"],
            ["requests", "0", "MIT"],
            ["tool", "1000", "MIT"],
        ]
    );
    assert_eq!(
        names("SELECT * FROM python_packages WHERE uid = 1000").len(),
        2
    );
    assert_eq!(
        names("SELECT p.* FROM users u CROSS JOIN python_packages p USING (uid)").len(),
        5
    );
    assert_eq!(
        names("SELECT * FROM python_packages WHERE directory = '/srv/app/site-packages'"),
        [["asked", "0", "MIT"]]
    );
}

#[test]
fn node_packages_are_found_within_packages_but_not_in_circles() {
    let manifest =
        |name: &str, more: &str| format!("{{\"name\": \"{name}\", \"version\": \"1.0.0\"{more}}}");
    let (root, engine) = machine(&[
        (
            "/usr/lib/node_modules/npm/package.json",
            &manifest("npm", ", \"license\": {\"type\": \"MIT\", \"url\": \"x\"}"),
        ),
        (
            "/usr/lib/node_modules/npm/node_modules/@scope/inner/package.json",
            &manifest("@scope/inner", ", \"author\": {\"name\": \"Ada\"}"),
        ),
        (
            "/usr/lib/node_modules/.bin/package.json",
            &manifest("hidden", ""),
        ),
        ("/usr/lib/node_modules/broken/package.json", "{"),
        (
            "/srv/app/node_modules/left-pad/package.json",
            &manifest("left-pad", ", \"author\": \"Grace\""),
        ),
    ]);
    let packages = root.path().join("usr/lib/node_modules/npm/node_modules");
    std::os::unix::fs::symlink("../../npm", packages.join("circle")).unwrap();
    let output = query(&engine, "SELECT * FROM npm_packages");
    assert_eq!(output.warnings.len(), 1, "{:?}", output.warnings);
    let columns = ["name", "author", "license", "depth", "directory"];
    let found = values(
        &rows(&engine, "SELECT * FROM npm_packages ORDER BY depth, name"),
        columns,
    );
    assert_eq!(found[0], ["npm", "", "MIT", "0", "/usr/lib"]);
    assert!(found.contains(&["@scope/inner", "Ada", "", "1", "/usr/lib"].map(str::to_owned)));
    assert!(found.len() <= 4, "{found:?}");
    assert_eq!(
        values(
            &rows(
                &engine,
                "SELECT * FROM npm_packages WHERE directory = '/srv/app'"
            ),
            columns
        ),
        [["left-pad", "Grace", "", "0", "/srv/app"]]
    );
    assert_eq!(
        rows(&engine, "SELECT * FROM npm_packages WHERE max_depth = 0").len(),
        1
    );
}

#[test]
fn apt_sources_carry_what_apt_learned_about_them() {
    let (_root, engine) = machine(&[
        (
            "/etc/apt/sources.list",
            "deb [trusted=yes] http://deb.example/debian bookworm main\n# deb http://off.example x y\n",
        ),
        (
            "/etc/apt/sources.list.d/new.sources",
            "Types: deb\nURIs: https://new.example/\nSuites: stable\nComponents: main\n",
        ),
        (
            "/etc/apt/sources.list.d/ignored.save",
            "deb http://ignored.example x main\n",
        ),
        (
            "/var/lib/apt/lists/deb.example_debian_dists_bookworm_InRelease",
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\nVersion: 12.9\nCodename: bookworm\n\
             Architectures: amd64 arm64\nComponents: main contrib\nSHA256:\n 00 1 x\n-----BEGIN PGP SIGNATURE-----\nVersion: 9\n",
        ),
    ]);
    let columns = [
        "name",
        "base_uri",
        "release",
        "version",
        "maintainer",
        "components",
        "architectures",
    ];
    assert_eq!(
        values(&rows(&engine, "SELECT * FROM apt_sources"), columns),
        [
            [
                "deb.example/debian bookworm",
                "http://deb.example/debian",
                "bookworm",
                "12.9",
                "Debian",
                "main contrib",
                "amd64 arm64"
            ],
            [
                "new.example stable",
                "https://new.example",
                "",
                "",
                "",
                "",
                ""
            ],
        ]
    );
}

#[test]
fn encrypted_devices_are_told_by_the_device_mapper() {
    let (root, engine) = machine(&[
        ("/sys/devices/vda/size", "2048\n"),
        ("/sys/devices/vda/vda1/partition", "1\n"),
        ("/sys/devices/vda/vda1/size", "1024\n"),
        ("/sys/devices/dm-0/dm/uuid", "CRYPT-LUKS2-0011-vault\n"),
        ("/sys/devices/dm-0/slaves/vda1/x", ""),
    ]);
    let class = root.path().join("sys/class/block");
    std::fs::create_dir_all(&class).unwrap();
    for (name, target) in [
        ("vda", "../../devices/vda"),
        ("vda1", "../../devices/vda/vda1"),
        ("dm-0", "../../devices/dm-0"),
    ] {
        std::os::unix::fs::symlink(target, class.join(name)).unwrap();
    }
    let columns = ["name", "encrypted", "type", "encryption_status"];
    assert_eq!(
        values(&rows(&engine, "SELECT * FROM disk_encryption"), columns),
        [
            ["/dev/dm-0", "1", "LUKS2", "encrypted"],
            ["/dev/vda", "0", "", "not encrypted"],
            ["/dev/vda1", "0", "", "not encrypted"],
        ]
    );
    assert_eq!(
        values(
            &rows(
                &engine,
                "SELECT * FROM block_devices WHERE name = '/dev/vda1'"
            ),
            ["parent", "size"]
        ),
        [["/dev/vda", "1024"]]
    );
}

#[test]
fn a_named_pipe_in_place_of_a_file_does_not_hold_up_a_query() {
    let (root, engine) = machine(&[("/etc/hosts", "")]);
    let pipe = root.path().join("etc/services");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let output = query(&engine, "SELECT * FROM etc_services");
    assert!(
        output.warnings[0].ends_with("not a regular file"),
        "{:?}",
        output.warnings
    );
}

#[test]
fn another_processes_namespace_is_refused_with_a_reason() {
    let (_root, engine) = machine(&[("/etc/hosts", "192.0.2.1 a\n")]);
    let own = query(
        &engine,
        "SELECT address FROM etc_hosts WHERE pid_with_namespace = 0",
    );
    assert_eq!((own.rows.len(), own.warnings.len()), (1, 0));
    let other = query(
        &engine,
        "SELECT address FROM etc_hosts WHERE pid_with_namespace = 17",
    );
    assert!(other.rows.is_empty());
    assert_eq!(
        other.warnings,
        ["etc_hosts: reading another process's mount namespace is not supported"]
    );
}
