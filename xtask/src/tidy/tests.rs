//! Each rule on a small fixture that breaks it and one that keeps it.

use super::{Finding, TextFile, layers, manifests, reach, text, words};

fn file(path: &str, text: &str) -> TextFile {
    TextFile::new(path, text)
}

fn lines(findings: &[Finding]) -> Vec<usize> {
    findings.iter().map(|finding| finding.line).collect()
}

#[test]
fn a_finding_is_printed_as_editors_read_it() {
    let finding = Finding::new("crates/a/src/lib.rs", 7, "word", "do it");
    assert_eq!(finding.to_string(), "crates/a/src/lib.rs:7: word: do it");
}

#[test]
fn a_long_file_needs_a_reason() {
    let long = "//! Doc.\n".to_owned() + &"fn a() {}\n".repeat(600);
    assert!(text::file_length(&file("a.rs", &long)).is_some());
    assert!(text::file_length(&file("a.md", &long)).is_none());
    assert!(text::file_length(&file("a.rs", &"fn a() {}\n".repeat(600))).is_none());
    let reasoned = format!("// tidy: long because it is one table of columns\n{long}");
    assert!(text::file_length(&file("a.rs", &reasoned)).is_none());
    let unreasoned = format!("// tidy: long because so\n{long}");
    assert!(text::file_length(&file("a.rs", &unreasoned)).is_some());
    let too_late = format!("{long}// tidy: long because it is one table of columns\n");
    assert!(text::file_length(&file("a.rs", &too_late)).is_some());
}

#[test]
fn a_wide_line_is_found_by_characters_not_bytes() {
    let text = format!("// {}\n// {}\n", "ä".repeat(127), "ä".repeat(128));
    assert_eq!(lines(&text::line_length(&file("a.rs", &text))), [2]);
    assert!(text::line_length(&file("a.md", &text)).is_empty());
}

#[test]
fn modules_are_not_named_for_nothing() {
    for path in [
        "crates/common/src/lib.rs",
        "crates/a/src/utils.rs",
        "crates/a/src/misc/b.rs",
    ] {
        assert_eq!(text::names(&file(path, "")).len(), 1, "{path}");
    }
    assert_eq!(lines(&text::names(&file("a.rs", "\nmod util {\n}"))), [2]);
    assert!(
        text::names(&file(
            "crates/a/src/commons.rs",
            "mod utility { let common = 1; }"
        ))
        .is_empty()
    );
}

#[test]
fn lints_are_expected_and_tests_run() {
    let text = "#![allow(dead_code)]\n#[allow(unused)]\n#[cfg_attr(a, allow(b))]\n\
                #[ignore = \"slow\"]\nfn f() {}\n/// ```ignore\n// ```ignore\n";
    let broken = file("a.rs", text);
    assert_eq!(lines(&text::allowed_lints(&broken)), [1, 2, 3]);
    assert_eq!(lines(&text::ignored_tests(&broken)), [4, 6]);
    let text = "#[expect(dead_code, reason = \"r\")]\nfn allow(ignore: [u8; 1]) { allow([ignore]); } // #[allow(x)]\n";
    let kept = file("a.rs", text);
    assert!(text::allowed_lints(&kept).is_empty());
    assert!(text::ignored_tests(&kept).is_empty());
}

#[test]
fn unfinished_marks_are_found_as_whole_words() {
    let text = "// TODO: later\nlet a = todo!();\nlet todos = \"mktemp aXXXXXX\";\n";
    assert_eq!(
        lines(&words::banned(&file("crates/a/src/lib.rs", text))),
        [1, 2]
    );
    assert!(words::banned(&file("recording.json", text)).is_empty());
}

#[test]
fn paths_of_a_machine_are_found_where_a_path_begins() {
    let here = [
        String::from("/srv/clones/muster"),
        String::from("/home/alice"),
    ];
    let text = "see /srv/clones/muster/target\n/srv/clones/muster-two\nhttps://x/srv/clones/muster\n\
                (/home/alice)\n/home/alice2\n\"/work/notes.md\"\n/homework/a\nnet/work/b\n";
    assert_eq!(
        lines(&words::paths(&file("docs/a.md", text), &here)),
        [1, 4, 6]
    );
}

#[test]
fn sql_stands_in_store_modules_and_migrations_only() {
    let statement = "fn f() {\n    q(\"SELECT 1\");\n    q(\"\n  UPDATE a\n SET b = 1\");\n}\n";
    let found = |path: &str| lines(&layers::sql_outside_store(&file(path, statement)));
    assert_eq!(found("crates/hosts/src/service.rs"), [2, 3]);
    assert_eq!(found("apps/server/src/main.rs"), [2, 3]);
    for path in [
        "crates/hosts/src/store.rs",
        "crates/hosts/src/store/label.rs",
        "crates/hosts/src/migrations.rs",
        "crates/hosts/src/detail/software.rs",
        "crates/hosts/tests/hosts/main.rs",
        "crates/hosts/src/service/tests.rs",
        "crates/store/src/migrate.rs",
        "crates/tables/src/lib.rs",
        "apps/agent/src/main.rs",
        "testing/swarm/src/main.rs",
        "xtask/src/main.rs",
    ] {
        assert!(found(path).is_empty(), "{path}");
    }
}

#[test]
fn what_only_looks_like_sql_is_none() {
    let text = "// \"SELECT 1\"\nconst A: &str = \"SELECTED hosts\";\nconst B: &str = \"UPDATE failed\";\n\
                const C: &str = \"select a host\";\n\
                #[schema(example = \"SELECT 1\")]\nstruct S;\n\
                #[cfg(test)]\nmod tests { const D: &str = \"SELECT 1\"; }\n";
    assert!(layers::sql_outside_store(&file("crates/a/src/service.rs", text)).is_empty());
    let marked = "// tidy: osquery SQL\nconst A: &str = \"SELECT name FROM processes\";\n";
    assert!(layers::sql_outside_store(&file("crates/a/src/labels.rs", marked)).is_empty());
    let with = "const A: &str = \"WITH due AS (SELECT 1) SELECT * FROM due\";";
    assert_eq!(
        layers::sql_outside_store(&file("crates/a/src/labels.rs", with)).len(),
        1
    );
}

#[test]
fn a_crate_touches_its_own_tables_only() {
    let crates = [
        String::from("hosts_"),
        String::from("queries_"),
        String::from("wire_fleet_"),
    ];
    let found = |text: &str| {
        let findings = layers::foreign_tables(&file("crates/queries/src/store.rs", text), &crates);
        lines(&findings)
    };
    assert_eq!(found("\"SELECT * FROM hosts_hosts\""), [1]);
    assert_eq!(
        found("\"SELECT 1\";\n\" LEFT JOIN hosts_labels l ON\""),
        [2]
    );
    assert_eq!(found("\"UPDATE hosts_hosts SET a = 1\""), [1]);
    assert_eq!(
        found("\"CREATE TABLE IF NOT EXISTS campaigns (id BIGINT)\""),
        [1]
    );
    assert!(found("\"CREATE TABLE IF NOT EXISTS queries_campaigns (id BIGINT)\"").is_empty());
    assert!(
        found("\"WITH due AS (SELECT 1) SELECT * FROM due JOIN queries_queries q ON 1\"")
            .is_empty()
    );
    assert!(
        found("\"SELECT a FROM json_each($1)\"; \"FROM {table}\"; // FROM hosts_hosts").is_empty()
    );
}

#[test]
fn only_http_and_wire_crates_name_old_versions() {
    let text = "use crate::v1::Host;\nfn f() { initial::g(); }\nlet v2 = w::v; // v1::a\n";
    let found = |path: &str| lines(&layers::old_versions(&file(path, text)));
    assert_eq!(found("crates/hosts/src/service.rs"), [1, 2]);
    for path in [
        "crates/hosts/src/http.rs",
        "crates/hosts/src/http/fleet.rs",
        "crates/wire-fleet/src/lib.rs",
        "crates/hosts/tests/it.rs",
    ] {
        assert!(found(path).is_empty(), "{path}");
    }
}

#[test]
fn a_crate_begins_with_what_it_promises() {
    let short = "//! One line.\n\nmod a;\n";
    assert!(manifests::crate_comment(&file("crates/a/src/lib.rs", short)).is_some());
    assert!(manifests::crate_comment(&file("crates/a/src/b.rs", short)).is_none());
    let enough = "//! One.\n//!\n//! Three.\n";
    assert!(manifests::crate_comment(&file("crates/a/src/lib.rs", enough)).is_none());
}

#[test]
fn a_package_inherits_lints_and_versions() {
    let kept = "[package]\nname = \"a\"\n[dependencies]\nb.workspace = true\n\
                c = { workspace = true, features = [\n  \"d=1\",\n] }\n\
                [dev-dependencies.e]\nworkspace = true\n\
                [dev-dependencies]\na = { path = \".\" }\n[lints]\nworkspace = true\n";
    let kept = file("crates/a/Cargo.toml", kept);
    assert!(manifests::lints(&kept).is_none());
    assert!(manifests::dependencies(&kept).is_empty());
    let broken = "[package]\nname = \"a\"\n[target.'cfg(unix)'.dependencies]\nb = \"1\"\n\
                  [dev-dependencies]\nc = { path = \"../c\" }\n";
    let broken = file("crates/a/Cargo.toml", broken);
    assert!(manifests::lints(&broken).is_some());
    assert_eq!(lines(&manifests::dependencies(&broken)), [4, 6]);
    let root = file(
        "Cargo.toml",
        "[workspace]\n[workspace.dependencies]\nb = \"1\"\n",
    );
    assert!(manifests::lints(&root).is_none());
    assert!(manifests::dependencies(&root).is_empty());
}

#[test]
fn the_readme_shows_the_two_commands() {
    assert_eq!(manifests::readme(&[]).len(), 2);
    let readme = file("README.md", "    cargo xtask up\n    cargo xtask test\n");
    assert!(manifests::readme(&[readme]).is_empty());
}

#[test]
fn a_file_that_no_module_declares_is_dead() {
    let package = "[package]\nname = \"a\"\n[[test]]\nname = \"a\"\npath = \"tests/a/start.rs\"\n";
    let files = [
        file("crates/a/Cargo.toml", package),
        file(
            "crates/a/src/lib.rs",
            "mod b;\nmod inline { mod c; }\n// mod dead;\n\"mod dead;\";\n",
        ),
        file(
            "crates/a/src/b.rs",
            "mod d;\n#[path = \"other.rs\"]\nmod e;\n",
        ),
        file("crates/a/src/b/d.rs", ""),
        file("crates/a/src/other.rs", ""),
        file("crates/a/src/inline/c.rs", ""),
        file("crates/a/src/bin/tool.rs", ""),
        file("crates/a/tests/a/start.rs", "mod near;\n"),
        file("crates/a/tests/a/near.rs", ""),
        file("crates/a/src/dead.rs", "mod buried;\n"),
        file("crates/a/src/dead/buried.rs", ""),
    ];
    let findings = reach::dead_files(&files);
    let dead: Vec<&str> = findings
        .iter()
        .map(|finding| finding.path.as_str())
        .collect();
    assert_eq!(
        dead,
        ["crates/a/src/dead.rs", "crates/a/src/dead/buried.rs"]
    );
}

#[test]
fn pages_are_linked_and_links_lead_somewhere() {
    let files = [
        file(
            "README.md",
            "[docs](docs/README.md) [site](https://example.org/x)\n",
        ),
        file(
            "docs/README.md",
            "[a](a.md#part)\n[gone](gone.md)\n```\n[no](link.md)\n```\n`[no](link.md)` [here](#top)\n",
        ),
        file("docs/a.md", "[b](sub/b.md) [folder](../crates/)\n"),
        file("docs/sub/b.md", "[up](../README.md)\n"),
        file("docs/lost.md", ""),
        file("crates/a/notes.md", ""),
    ];
    let findings = reach::pages(&files);
    let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "docs/README.md:2: broken-link: `docs/gone.md` is not in the repository",
            "docs/lost.md:1: unlinked-page: link it from docs/README.md",
        ]
    );
}

#[test]
fn tests_that_a_page_names_exist() {
    let files = [
        file(
            "crates/a/tests/a.rs",
            "on_both! { async fn it_is_kept(db: Db) {} }\nfn it_is_told() {}\n",
        ),
        file(
            "docs/a.md",
            "`not_in_a_table`\n\n| What | Tests |\n|---|---|\n\
             | `a_column` | `a::b::it_is_kept`, `it_is_told` of `a` |\n| x | `a::it_is_gone` |\n\n\
             | What | Means |\n|---|---|\n| x | `some_name` |\n",
        ),
    ];
    let findings = reach::named_tests(&files);
    let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        ["docs/a.md:6: lost-test: there is no test `it_is_gone`: name the one that shows this"]
    );
}
