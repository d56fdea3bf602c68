//! Files and hashes as coreutils tell them; certificates as they were made.

use muster_clock::Timestamp;

use crate::support::{engine, rows, run, same};

#[test]
fn hashes_agree_with_coreutils() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("empty"), "").unwrap();
    std::fs::write(path("with a space"), "abc\n").unwrap();
    let large: Vec<u8> = (0..1_000_003_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    std::fs::write(path("large"), large).unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    let engine = engine();
    let sql = format!(
        "SELECT * FROM hash WHERE directory = '{}'",
        folder.path().display()
    );
    let found = rows(&engine, &sql);
    assert_eq!(found.len(), 3);
    for row in found {
        for (program, column) in [
            ("md5sum", "md5"),
            ("sha1sum", "sha1"),
            ("sha256sum", "sha256"),
        ] {
            let theirs = run("coreutils", program, &[&row["path"]]);
            assert_eq!(
                Some(row[column].as_str()),
                theirs.split(' ').next(),
                "{}",
                row["path"]
            );
        }
    }
    let one = rows(
        &engine,
        &format!("SELECT * FROM hash WHERE path = '{}'", path("large")),
    );
    assert_eq!(one.len(), 1);
    assert_eq!(one[0]["directory"], folder.path().to_string_lossy());
}

#[test]
fn files_agree_with_stat() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("plain"), "text").unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    std::fs::write(path("folder/inner"), "more text").unwrap();
    std::os::unix::fs::symlink("plain", path("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    let engine = engine();
    let everything = format!(
        "SELECT * FROM file WHERE path LIKE '{}/%%'",
        folder.path().display()
    );
    let mut found = rows(&engine, &everything);
    found.extend(rows(
        &engine,
        "SELECT * FROM file WHERE path IN ('/', '/dev/null', '/etc/passwd')",
    ));
    assert_eq!(found.len(), 9);
    for row in found {
        let follow = if row["symlink_target_path"] == "nowhere" {
            "-c"
        } else {
            "-Lc"
        };
        let theirs = run(
            "coreutils",
            "stat",
            &[follow, "%i %u %g %a %s %h %Y %Z %o", &row["path"]],
        );
        let ours = [
            row["inode"].as_str(),
            &row["uid"],
            &row["gid"],
            row["mode"].trim_start_matches('0'),
            &row["size"],
            &row["hard_links"],
            &row["mtime"],
            &row["ctime"],
            &row["block_size"],
        ]
        .join(" ");
        assert_eq!(ours, theirs.trim(), "{}", row["path"]);
        let kind = run("coreutils", "stat", &[follow, "%F", &row["path"]]);
        let expected = match kind.trim() {
            "regular file" | "regular empty file" => "regular",
            "character special file" => "character",
            "symbolic link" => "symlink",
            other => other,
        };
        assert_eq!(row["type"], expected, "{}", row["path"]);
    }
    let links = rows(
        &engine,
        &format!(
            "SELECT filename, symlink_target_path FROM file WHERE directory = '{}' AND symlink = 1 ORDER BY 1",
            folder.path().display()
        ),
    );
    let targets: Vec<&str> = links
        .iter()
        .map(|row| row["symlink_target_path"].as_str())
        .collect();
    assert_eq!(targets, ["nowhere", "plain"]);
}

#[test]
fn patterns_find_what_they_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "a.conf",
        "b.conf",
        "c.txt",
        "sub/d.conf",
        "sub/deep/e.conf",
        ".hidden.conf",
    ] {
        crate::support::write(folder.path(), name, "");
    }
    let base = folder.path().display().to_string();
    let engine = engine();
    for (condition, names) in [
        (
            "path LIKE '{}/%.conf'",
            vec![".hidden.conf", "a.conf", "b.conf"],
        ),
        ("path LIKE '{}/%/d.conf'", vec!["d.conf"]),
        ("path LIKE '{}/sub/%%'", vec!["d.conf", "deep", "e.conf"]),
        ("path LIKE '{}/c.txt'", vec!["c.txt"]),
        ("directory LIKE '{}/s%'", vec!["d.conf", "deep"]),
        (
            "path LIKE '{}/%.conf' AND filename <> 'a.conf'",
            vec![".hidden.conf", "b.conf"],
        ),
        (
            "path = '{}/a.conf' OR path = '{}/c.txt'",
            vec!["a.conf", "c.txt"],
        ),
        ("path = '{}/missing'", vec![]),
    ] {
        let sql = format!(
            "SELECT filename FROM file WHERE {} ORDER BY filename",
            condition.replace("{}", &base)
        );
        let found: Vec<String> = rows(&engine, &sql)
            .into_iter()
            .map(|row| row["filename"].clone())
            .collect();
        assert_eq!(found, names, "{condition}");
    }
}

#[test]
fn a_certificate_is_told_as_it_was_made() {
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair,
        KeyUsagePurpose, SerialNumber, date_time_ymd,
    };
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::CountryName, "DE");
    parameters
        .distinguished_name
        .push(DnType::OrganizationName, "Example, Inc.");
    parameters
        .distinguished_name
        .push(DnType::CommonName, "Example Root");
    parameters.not_before = date_time_ymd(2026, 1, 2);
    parameters.not_after = date_time_ymd(2036, 1, 2);
    parameters.serial_number = Some(SerialNumber::from(vec![0x0A, 0xBC, 0xDE]));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.pem");
    std::fs::write(
        &path,
        format!("{}{}", certificate.pem(), key.serialize_pem()),
    )
    .unwrap();
    std::fs::write(folder.path().join("der.crt"), certificate.der()).unwrap();
    let engine = engine();
    let found = rows(
        &engine,
        &format!(
            "SELECT * FROM certificates WHERE path = '{}'",
            path.display()
        ),
    );
    assert_eq!(found.len(), 1);
    let path = path.to_string_lossy();
    for (column, value) in [
        ("common_name", "Example Root"),
        ("subject", "/C=DE/O=Example, Inc./CN=Example Root"),
        (
            "subject2",
            "C = DE, O = \"Example, Inc.\", CN = Example Root",
        ),
        ("issuer", "/C=DE/O=Example, Inc./CN=Example Root"),
        ("ca", "1"),
        ("self_signed", "1"),
        ("not_valid_before", "1767312000"),
        ("not_valid_after", "2082844800"),
        ("signing_algorithm", "ecdsa-with-SHA256"),
        ("key_algorithm", "id-ecPublicKey"),
        ("key_strength", "prime256v1"),
        ("key_usage", "CRL Sign, Key Cert Sign"),
        ("serial", "0ABCDE"),
        ("path", &*path),
    ] {
        assert_eq!(found[0][column], value, "{column}");
    }
    let sha1 = run(
        "coreutils",
        "sha1sum",
        &[&folder.path().join("der.crt").to_string_lossy()],
    );
    assert_eq!(Some(found[0]["sha1"].as_str()), sha1.split(' ').next());
    let folder_sql = format!(
        "SELECT sha1 FROM certificates WHERE path = '{}'",
        folder.path().display()
    );
    assert_eq!(rows(&engine, &folder_sql).len(), 2);
}

#[test]
fn the_certificates_that_this_machine_trusts_agree_with_openssl() {
    const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
    let Ok(bundle) = std::fs::read_to_string(BUNDLE) else {
        // A machine that trusts nobody, or keeps its trust elsewhere.
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let single = folder.path().join("one.pem");
    let mut theirs = Vec::new();
    for part in bundle.split_inclusive("-----END CERTIFICATE-----") {
        if !part.contains("-----BEGIN CERTIFICATE-----") {
            continue;
        }
        std::fs::write(&single, part).unwrap();
        let arguments = [
            "x509",
            "-noout",
            "-in",
            &single.to_string_lossy(),
            "-subject",
            "-issuer",
            "-serial",
            "-fingerprint",
            "-sha1",
            "-dates",
            "-dateopt",
            "iso_8601",
            "-nameopt",
            "oneline,-esc_msb,utf8",
        ];
        let text = run("openssl", "openssl", &arguments);
        let field = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.to_lowercase().starts_with(name));
            line.and_then(|line| line.split_once('='))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let seconds = |name: &str| {
            let at: Timestamp = field(name).replace(' ', "T").parse().unwrap();
            at.as_seconds().to_string()
        };
        theirs.push([
            field("subject"),
            field("issuer"),
            field("serial"),
            field("sha1 fingerprint").replace(':', "").to_lowercase(),
            seconds("notbefore"),
            seconds("notafter"),
        ]);
    }
    let columns = [
        "subject2",
        "issuer2",
        "serial",
        "sha1",
        "not_valid_before",
        "not_valid_after",
    ];
    let ours = rows(
        &engine(),
        &format!("SELECT * FROM certificates WHERE path = '{BUNDLE}'"),
    )
    .into_iter()
    .map(|row| columns.map(|name| row[name].clone()))
    .collect();
    same(ours, theirs).unwrap();
}
