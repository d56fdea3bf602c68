//! Packages as dpkg and rpm list them; units as systemctl lists them.

use std::path::Path;

use crate::support::{engine, engine_below, eventually, query, rows, run, same};

#[test]
fn deb_packages_agree_with_dpkg_query() {
    const FORMAT: &str = "${Package}\\t${Version}\\t${Installed-Size}\\t${Architecture}\\t${Status}\\t${Maintainer}\\t\
                          ${Section}\\t${Priority}\\n";
    let engine = engine();
    eventually(|| {
        let theirs = run("dpkg", "dpkg-query", &["-W", "-f", FORMAT])
            .lines()
            .map(|line| line.split('\t').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let ours = rows(&engine, "SELECT * FROM deb_packages")
            .into_iter()
            .map(|row| {
                [
                    "name",
                    "version",
                    "size",
                    "arch",
                    "status",
                    "maintainer",
                    "section",
                    "priority",
                ]
                .map(|name| row[name].clone())
                .to_vec()
            })
            .collect();
        same(ours, theirs)
    });
}

/// A package without files, as rpmbuild takes it.
fn spec(name: &str, tags: &str) -> String {
    format!(
        "Name: {name}\nVersion: 1.2.3\nRelease: 4\nSummary: For a test\nLicense: MIT\n{tags}\n\
         %description\nFor a test.\n%files\n"
    )
}

#[test]
fn rpm_packages_agree_with_rpm() {
    const FORMAT: &str = "%{NAME}\\t%{VERSION}\\t%{RELEASE}\\t%{SOURCERPM}\\t%{SIZE}\\t%{SHA1HEADER}\\t%{ARCH}\\t\
                          %{EPOCH}\\t%{INSTALLTIME}\\t%{VENDOR}\\t%{GROUP}\\n";
    let root = tempfile::tempdir().unwrap();
    let build = tempfile::tempdir().unwrap();
    let database = root.path().join("var/lib/rpm");
    std::fs::create_dir_all(&database).unwrap();
    let database_path = database.to_string_lossy();
    let rpm = |arguments: &[&str]| {
        let fixed = [
            "--define",
            "_db_backend sqlite",
            "--dbpath",
            &*database_path,
        ];
        run("rpm", "rpm", &[&fixed, arguments].concat())
    };
    rpm(&["--initdb"]);
    for (name, tags) in [
        ("plain", "BuildArch: noarch"),
        (
            "with-epoch",
            "Epoch: 7\nVendor: Example & Söhne\nGroup: Applications/System",
        ),
    ] {
        let file = build.path().join(format!("{name}.spec"));
        std::fs::write(&file, spec(name, tags)).unwrap();
        let top = format!("_topdir {}", build.path().display());
        run(
            "rpm",
            "rpmbuild",
            &["-bb", "--quiet", "--define", &top, &file.to_string_lossy()],
        );
    }
    let built = find_rpms(&build.path().join("RPMS"));
    assert_eq!(built.len(), 2);
    for package in &built {
        rpm(&["-i", "--justdb", "--nodeps", "--ignorearch", package]);
    }
    let theirs: Vec<Vec<String>> = rpm(&["-qa", "--queryformat", FORMAT])
        .lines()
        .map(|line| {
            line.split('\t')
                .map(|field| field.replace("(none)", ""))
                .collect()
        })
        .collect();
    assert_eq!(theirs.len(), 2);
    let engine = engine_below(root.path());
    let columns = [
        "name",
        "version",
        "release",
        "source",
        "size",
        "sha1",
        "arch",
        "epoch",
        "install_time",
        "vendor",
        "package_group",
    ];
    let ours = rows(&engine, "SELECT * FROM rpm_packages")
        .into_iter()
        .map(|row| columns.map(|name| row[name].clone()).to_vec())
        .collect();
    same(ours, theirs).unwrap();
    let one = rows(
        &engine,
        "SELECT epoch, vendor FROM rpm_packages WHERE name = 'with-epoch'",
    );
    assert_eq!(one.len(), 1);
    assert_eq!(
        (one[0]["epoch"].as_str(), one[0]["vendor"].as_str()),
        ("7", "Example & Söhne")
    );
    assert!(
        query(&engine, "SELECT * FROM rpm_packages WHERE name = 'absent'")
            .rows
            .is_empty()
    );
}

fn find_rpms(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).expect("the folder of what rpmbuild built");
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(find_rpms(&path));
        } else {
            found.push(path.to_string_lossy().into_owned());
        }
    }
    found
}

#[test]
fn systemd_units_agree_with_systemctl_where_systemd_runs() {
    let engine = engine();
    if !Path::new("/run/systemd/system").is_dir() {
        let output = query(&engine, "SELECT * FROM systemd_units");
        assert!(output.rows.is_empty());
        assert_eq!(
            output.warnings,
            ["systemd_units: systemd is not running on this machine"]
        );
        return;
    }
    eventually(|| {
        let listed = run(
            "systemd",
            "systemctl",
            &[
                "list-units",
                "--all",
                "--plain",
                "--no-legend",
                "--no-pager",
                "--full",
            ],
        );
        let theirs = listed
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                [0, 1, 2, 3].map(|index| words[index].to_owned())
            })
            .collect();
        let ours = rows(&engine, "SELECT * FROM systemd_units")
            .into_iter()
            .map(|row| {
                ["id", "load_state", "active_state", "sub_state"].map(|name| row[name].clone())
            })
            .collect();
        same(ours, theirs)
    });
}
