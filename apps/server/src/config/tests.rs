//! The configuration as people write it.

use std::fmt::Write as _;
use std::path::Path;

use super::*;

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn with_file(text: &str) -> Result<Layered, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("muster.toml");
    std::fs::write(&path, text).unwrap();
    Layered::resolve(&[], &pairs(&[]), Some(&path)).map_err(|error| {
        error
            .to_string()
            .replace(folder.path().to_str().unwrap(), "FOLDER")
    })
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().to_str().unwrap();
    let file = "listen = '127.0.0.1:1'\nmax_connections = 7\n[log]\nlevel = 'debug'\n[database]\ntimeout = '9s'\n";
    std::fs::write(folder.path().join("muster.toml"), file).unwrap();
    let environment = pairs(&[
        ("MUSTER_DATA_DIR", data_dir),
        ("MUSTER_LISTEN", "127.0.0.1:2"),
        ("MUSTER_LOG_LEVEL", "warn"),
        ("MUSTER_TEST_POSTGRES", "postgres://x"),
        ("HOME", "/"),
    ]);
    let layers =
        Layered::resolve(&pairs(&[("listen", "127.0.0.1:3")]), &environment, None).unwrap();
    let mut shown = String::new();
    for resolved in layers
        .iter()
        .filter(|resolved| resolved.origin != Origin::Default)
    {
        let _ = writeln!(
            shown,
            "{} = {} ({})",
            resolved.key.name,
            resolved.shown(),
            resolved.origin
        );
    }
    insta::assert_snapshot!(shown.replace(data_dir, "FOLDER"), @r"
    data_dir = FOLDER ($MUSTER_DATA_DIR)
    listen = 127.0.0.1:3 (--listen)
    database.timeout = 9s (FOLDER/muster.toml:6)
    max_connections = 7 (FOLDER/muster.toml:2)
    log.level = warn ($MUSTER_LOG_LEVEL)
    ");
    let settings = Settings::from_layers(&layers).unwrap();
    assert_eq!(settings.listen.port(), 3);
    assert_eq!(settings.database_timeout.as_secs(), 9);
    assert_eq!(
        settings.database.to_string(),
        format!("sqlite://{data_dir}/muster.db")
    );
}

#[test]
fn an_unknown_key_is_an_error_that_suggests_the_right_one() {
    let mut errors = String::new();
    for text in [
        "lisen = 'x'",
        "[database]\nmax_conections = 1",
        "[databse]\nurl = 'x'",
        "colour = 'red'",
        "listen = 1.5",
    ] {
        let _ = writeln!(errors, "{}", with_file(text).unwrap_err());
    }
    let _ = writeln!(
        errors,
        "{}",
        with_file("[database]\nurl = \"postgres://u:hunter2@h/d\n").unwrap_err()
    );
    for variable in ["MUSTER_LISTN", "MUSTER_DATABASE_PASSWORD"] {
        let error = Layered::resolve(&[], &pairs(&[(variable, "x")]), None).unwrap_err();
        let _ = writeln!(errors, "{error}");
    }
    assert!(!errors.contains("hunter2"), "{errors}");
    insta::assert_snapshot!(errors);
}

#[test]
fn a_wrong_value_says_where_it_stands_and_what_would_be_right() {
    let cases = [
        ("listen", "8443"),
        ("public_url", "muster.example.com"),
        ("public_url", "https://muster.example.com/path"),
        ("url_prefix", "muster"),
        ("database.url", "mysql://root:hunter2@db/x"),
        ("database.max_connections", "0"),
        ("database.timeout", "5"),
        ("tls.enabled", "maybe"),
        ("tls.certificate", "cert.pem"),
        ("trusted_proxies", "10.0.0.0/33"),
        ("log.format", "xml"),
        ("sink.max_file_size", "1 elephant"),
        ("metrics.access", "everyone"),
        ("emulate", "new"),
        ("emulate", "9.9.9"),
        ("without_capability", "token_rotations"),
        ("without_capability", "end_user_email, TOKEN_ROTATION"),
        ("without_capability", "setup_experience"),
        ("without_capability", "colour"),
    ];
    let mut errors = String::new();
    for (name, value) in cases {
        let layers = Layered::resolve(&pairs(&[(name, value)]), &pairs(&[]), None).unwrap();
        let _ = writeln!(errors, "{}", Settings::from_layers(&layers).unwrap_err());
    }
    assert!(!errors.contains("hunter2"), "{errors}");
    // The newest release that can be emulated is this one, whichever it is.
    let own = concat!("newer than ", env!("CARGO_PKG_VERSION"), "\n");
    assert!(errors.contains(own), "{errors}");
    insta::assert_snapshot!(errors.replace(own, "newer than [own version]\n"));
}

#[test]
fn secrets_are_not_shown() {
    let flags = pairs(&[("database.url", "postgres://u:hunter2@h/d")]);
    let layers = Layered::resolve(&flags, &pairs(&[]), None).unwrap();
    assert!(
        layers
            .iter()
            .all(|resolved| !resolved.shown().contains("hunter2"))
    );
    let settings = Settings::from_layers(&layers).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let missing = Layered::resolve(&[], &pairs(&[]), Some(Path::new("does/not/exist.toml")));
    assert!(matches!(missing, Err(ConfigError::File { .. })));
}

#[test]
fn every_key_can_be_set_in_all_three_ways_and_stands_on_the_page() {
    let page = markdown();
    for key in KEYS {
        assert!(page.contains(&key.variable()) && page.contains(&format!("--{}`", key.flag())));
        assert!(!key.help.is_empty());
    }
    Settings::from_layers(&Layered::resolve(&[], &pairs(&[]), None).unwrap())
        .expect("the defaults are right");
}
