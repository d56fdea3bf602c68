//! The engine: limits, what is refused, functions, warnings.

use std::time::{Duration, Instant};

use muster_tables::{
    AgentFacts, CancelFlag, Cell, ColumnType, Constraints, Context, Engine, EngineOptions,
    FlagFact, LimitKind, Limits, QueryError, RowSink, Table, TableError, TableSpec, column,
};

/// Counts from 1 without end.
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";

fn engine() -> Engine {
    Engine::new(EngineOptions::default()).expect("an engine with this machine's tables")
}

fn one(sql: &str) -> String {
    let output = engine()
        .query(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!((output.rows.len(), output.columns.len()), (1, 1), "{sql}");
    output.to_string_rows()[0][0].clone()
}

fn limited(limits: Limits, sql: &str) -> QueryError {
    engine()
        .query_with(sql, &limits, &CancelFlag::new())
        .expect_err(sql)
}

fn exceeded(error: &QueryError) -> Option<LimitKind> {
    match error {
        QueryError::LimitExceeded { limit, .. } => Some(*limit),
        _ => None,
    }
}

#[test]
fn a_query_that_never_ends_is_stopped_at_its_wall_time() {
    let started = Instant::now();
    let limits = Limits {
        wall_time: Duration::from_millis(100),
        ..Limits::default()
    };
    let error = limited(limits, &format!("{ENDLESS} SELECT count(*) FROM n"));
    assert_eq!(exceeded(&error), Some(LimitKind::WallTime));
    assert_eq!(
        error.to_string(),
        "the query was stopped: more than 100 ms of wall time"
    );
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn more_rows_than_allowed_are_refused_or_clipped() {
    let limits = Limits {
        rows: 10,
        ..Limits::default()
    };
    let sql = format!("{ENDLESS} SELECT i FROM n");
    assert_eq!(
        exceeded(&limited(limits.clone(), &sql)),
        Some(LimitKind::Rows)
    );
    let clip = Limits {
        clip: true,
        ..limits
    };
    let output = engine()
        .query_with(&sql, &clip, &CancelFlag::new())
        .unwrap();
    assert_eq!(output.rows.len(), 10);
    assert_eq!(output.clipped, Some(LimitKind::Rows));
    let exactly = format!("{ENDLESS} SELECT i FROM n LIMIT 10");
    let output = engine()
        .query_with(&exactly, &clip, &CancelFlag::new())
        .unwrap();
    assert_eq!((output.rows.len(), output.clipped), (10, None));
}

#[test]
fn more_bytes_than_allowed_are_refused() {
    let limits = Limits {
        bytes: 100_000,
        ..Limits::default()
    };
    let sql = format!("{ENDLESS} SELECT hex(zeroblob(1000)) FROM n");
    assert_eq!(exceeded(&limited(limits, &sql)), Some(LimitKind::Bytes));
}

#[test]
fn more_memory_than_allowed_is_refused_wherever_sqlite_or_a_table_would_hold_it() {
    let limits = Limits {
        memory_bytes: 8 * 1024 * 1024,
        ..Limits::default()
    };
    for sql in [
        format!("{ENDLESS} SELECT i FROM n ORDER BY -i"),
        format!("{ENDLESS} SELECT count(DISTINCT zeroblob(100000) || i) FROM n"),
        format!("{ENDLESS} SELECT max(length(group_concat(i))) OVER () FROM n GROUP BY i"),
    ] {
        let error = limited(limits.clone(), &sql);
        assert_eq!(exceeded(&error), Some(LimitKind::Memory), "{sql}: {error}");
    }
}

#[test]
fn a_single_value_cannot_become_huge() {
    for sql in [
        "SELECT zeroblob(1000000000)",
        "SELECT replace(hex(zeroblob(100000)), '0', 'xxxxxxxxxxxxxxxx')",
        "SELECT hex(randomblob(600000))",
    ] {
        let error = engine().query(sql).expect_err(sql);
        assert!(matches!(error, QueryError::Sql { .. }), "{sql}: {error}");
    }
}

#[test]
fn one_operation_cannot_outlast_the_wall_time_by_much() {
    let limits = Limits {
        wall_time: Duration::from_millis(200),
        ..Limits::default()
    };
    // Each of these makes SQLite or a function compare every part of one text with another.
    for sql in [
        format!(
            "{ENDLESS} SELECT sum(instr(hex(zeroblob(200000)), hex(zeroblob(100000)) || i)) FROM n"
        ),
        format!(
            "{ENDLESS} SELECT sum(hex(zeroblob(400000)) LIKE replace(hex(zeroblob(200)), '0', '0%') || i) FROM n"
        ),
        format!(
            "{ENDLESS} SELECT sum(regex_match(hex(zeroblob(30000)) || i, '(0?){{99}}1', 0)) FROM n"
        ),
    ] {
        let started = Instant::now();
        let error = limited(limits.clone(), &sql);
        assert_eq!(
            exceeded(&error),
            Some(LimitKind::WallTime),
            "{sql}: {error}"
        );
        let elapsed = started.elapsed();
        assert!(elapsed < Duration::from_secs(60), "{sql}: {elapsed:?}");
    }
    for sql in [
        "SELECT regex_match(hex(zeroblob(100000)), '0', 0)",
        "SELECT regex_match('a', '((((a{100}){100}){100}){100}){100}', 0)",
    ] {
        let refused = engine().query(sql);
        assert!(matches!(refused, Err(QueryError::Sql { .. })), "{sql}");
    }
}

#[test]
fn a_query_is_cancelled_from_another_thread() {
    let cancel = CancelFlag::new();
    let query = std::thread::spawn({
        let cancel = cancel.clone();
        move || {
            engine().query_with(
                &format!("{ENDLESS} SELECT count(*) FROM n"),
                &Limits::default(),
                &cancel,
            )
        }
    });
    cancel.cancel();
    assert_eq!(query.join().unwrap(), Err(QueryError::Cancelled));
}

#[test]
fn an_engine_answers_again_after_it_stopped_a_query() {
    let engine = engine();
    let limits = Limits {
        wall_time: Duration::from_millis(20),
        ..Limits::default()
    };
    let endless = format!("{ENDLESS} SELECT count(*) FROM n");
    for _ in 0..3 {
        assert!(
            engine
                .query_with(&endless, &limits, &CancelFlag::new())
                .is_err()
        );
        assert_eq!(engine.query("SELECT 1").unwrap().to_string_rows(), [["1"]]);
    }
}

#[test]
fn whatever_does_not_only_read_is_denied() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("written.db");
    let engine = engine();
    for sql in [
        format!("ATTACH '{}' AS other", file.display()),
        format!("VACUUM INTO '{}'", file.display()),
        "VACUUM".to_owned(),
        "DETACH temp".to_owned(),
        "CREATE TABLE t (x)".to_owned(),
        "CREATE TEMP VIEW v AS SELECT 1".to_owned(),
        "CREATE VIRTUAL TABLE f USING fts5(x)".to_owned(),
        "DROP TABLE processes".to_owned(),
        "DROP TABLE temp.uptime".to_owned(),
        "DELETE FROM uptime".to_owned(),
        "INSERT INTO uptime (days) VALUES (1)".to_owned(),
        "UPDATE uptime SET days = 1".to_owned(),
        "DELETE FROM sqlite_temp_master".to_owned(),
        "ALTER TABLE uptime RENAME TO downtime".to_owned(),
        "BEGIN".to_owned(),
        "SAVEPOINT s".to_owned(),
        "ANALYZE".to_owned(),
        "PRAGMA writable_schema = 1".to_owned(),
        "PRAGMA temp_store_directory = '/'".to_owned(),
        "PRAGMA temp_store = FILE".to_owned(),
        "PRAGMA hard_heap_limit = 1".to_owned(),
        "PRAGMA user_version".to_owned(),
        "SELECT * FROM pragma_user_version".to_owned(),
        "SELECT load_extension('libevil.so')".to_owned(),
        "SELECT fts3_tokenizer('simple')".to_owned(),
    ] {
        let Err(error) = engine.query(&sql) else {
            panic!("{sql} was answered");
        };
        // SQLite itself refuses what does not exist and what is not a table that could be written to.
        let refused = matches!(error, QueryError::Denied { .. })
            || ["no such", "may not be modified"]
                .iter()
                .any(|words| error.to_string().contains(words));
        assert!(refused, "{sql}: {error:?}");
    }
    assert!(!file.exists());
    let error = engine.query("PRAGMA writable_schema = 1").unwrap_err();
    assert_eq!(
        error.to_string(),
        "queries only read: PRAGMA writable_schema is not allowed"
    );
    assert!(
        !engine
            .query("SELECT * FROM uptime")
            .unwrap()
            .rows
            .is_empty()
    );
}

#[test]
fn the_schema_may_be_asked_for() {
    let engine = engine();
    let columns = engine
        .query("SELECT name, type FROM pragma_table_info('uptime')")
        .unwrap();
    assert_eq!(columns.to_string_rows()[0], ["days", "INTEGER"]);
    let tables = engine
        .query("SELECT name FROM sqlite_temp_master WHERE name = 'uptime'")
        .unwrap();
    assert_eq!(tables.to_string_rows(), [["uptime"]]);
    assert!(
        engine
            .schema("UPTIME")
            .unwrap()
            .starts_with("CREATE TABLE \"uptime\"")
    );
    assert_eq!(engine.schema("nothing"), None);
    let explained = engine
        .query("EXPLAIN QUERY PLAN SELECT * FROM uptime")
        .unwrap();
    assert!(!explained.rows.is_empty());
}

#[test]
fn a_query_is_one_statement() {
    let engine = engine();
    assert_eq!(
        engine.query("SELECT 1; SELECT 2"),
        Err(QueryError::SeveralStatements)
    );
    assert_eq!(engine.query(" ; -- nothing"), Err(QueryError::Empty));
    assert_eq!(
        engine
            .query("SELECT ';' AS semicolon;;")
            .unwrap()
            .to_string_rows(),
        [[";"]]
    );
}

#[test]
fn wrong_sql_is_told_with_sqlites_words() {
    for (sql, words) in [
        ("SELEC 1", "near \"SELEC\": syntax error"),
        ("SELECT * FROM no_such", "no such table: no_such"),
        ("SELECT no_such FROM uptime", "no such column: no_such"),
        ("SELECT regex_match('a', '(', 0)", "bad regular expression"),
    ] {
        let error = engine().query(sql).unwrap_err();
        assert!(matches!(error, QueryError::Sql { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn functions_of_osquery_answer() {
    for (sql, answer) in [
        (
            "SELECT regex_match('release 12.5', '([0-9]+)\\.([0-9]+)', 2)",
            "5",
        ),
        ("SELECT regex_match('abc', 'x', 0) IS NULL", "1"),
        ("SELECT regex_split('a1b22c', '[0-9]+', 2)", "c"),
        ("SELECT split('/usr//bin', '/', 1)", "bin"),
        ("SELECT split('a', '/', 3) IS NULL", "1"),
        ("SELECT concat('a', NULL, 1)", "a1"),
        ("SELECT concat_ws('-', 'a', NULL, 'b')", "a-b"),
        ("SELECT md5('abc')", "900150983cd24fb0d6963f7d28e17f72"),
        (
            "SELECT sha1('abc')",
            "a9993e364706816aba3e25717850c26c9cd0d89d",
        ),
        (
            "SELECT sha256('abc')",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        ("SELECT to_base64('abc')", "YWJj"),
        ("SELECT from_base64('YWJj')", "abc"),
        ("SELECT from_base64('!') IS NULL", "1"),
        ("SELECT version_compare('1.10', '1.9')", "1"),
        ("SELECT inet_aton('1.2.3.4')", "16909060"),
        ("SELECT sqrt(16)", "4.0"),
        ("SELECT power(2, 10)", "1024.0"),
        ("SELECT sqrt(-1) IS NULL", "1"),
        ("SELECT '1.10' > '1.9' COLLATE version", "1"),
        ("SELECT '1.0~rc1' < '1.0' COLLATE version_dpkg", "1"),
        ("SELECT json_extract('{\"a\": [1, 2]}', '$.a[1]')", "2"),
    ] {
        assert_eq!(one(sql), answer, "{sql}");
    }
}

#[test]
fn columns_of_other_systems_are_there_hidden_and_null() {
    let engine = engine();
    let all = engine.query("SELECT * FROM os_version").unwrap();
    assert!(!all.columns.iter().any(|name| name == "install_date"));
    assert_eq!(
        one("SELECT install_date IS NULL AND pid_with_namespace = 0 FROM os_version"),
        "1"
    );
    assert_eq!(one("SELECT date_time = datetime FROM time"), "1");
}

#[test]
fn flags_of_the_agent_show_in_their_table() {
    let engine = Engine::new(EngineOptions {
        facts: AgentFacts {
            flags: vec![FlagFact {
                name: "distributed_interval".to_owned(),
                kind: "uint64".to_owned(),
                value: "10".to_owned(),
                ..FlagFact::default()
            }],
            ..AgentFacts::default()
        },
        ..EngineOptions::default()
    })
    .unwrap();
    let sql = "SELECT value FROM osquery_flags WHERE name = 'distributed_interval'";
    assert_eq!(engine.query(sql).unwrap().to_string_rows(), [["10"]]);
    engine
        .facts()
        .update(|facts| facts.flags[0].value = "60".to_owned());
    assert_eq!(engine.query(sql).unwrap().to_string_rows(), [["60"]]);
}

/// A table that behaves as its `key` says.
struct Odd;

static ODD: TableSpec = TableSpec {
    name: "odd",
    description: "For these tests.",
    columns: &[
        column("key", ColumnType::Text).required().index(),
        column("value", ColumnType::Integer),
    ],
};

impl Table for Odd {
    fn spec(&self) -> &'static TableSpec {
        &ODD
    }

    fn generate(
        &self,
        constraints: &Constraints,
        context: &Context<'_>,
        rows: &mut RowSink<'_>,
    ) -> Result<(), TableError> {
        let pattern = constraints.like("key");
        let key = constraints.text("key").or(pattern).unwrap_or_default();
        rows.row().set("key", key).set("value", 1).push()?;
        match key {
            "panic" => panic!("as asked"),
            "fail" => Err(TableError::unsupported("does not want to")),
            "busy" => loop {
                context.check()?;
            },
            "grow" => loop {
                rows.row().set("key", "x".repeat(1_000)).push()?;
            },
            _ => Ok(()),
        }
    }
}

fn odd_engine() -> Engine {
    Engine::new(EngineOptions {
        extra_tables: vec![Box::new(Odd)],
        ..EngineOptions::default()
    })
    .expect("an engine with one more table")
}

#[test]
fn a_table_that_fails_gives_a_warning_and_the_rows_it_had() {
    let engine = odd_engine();
    let output = engine
        .query("SELECT value FROM odd WHERE key = 'fail'")
        .unwrap();
    assert_eq!(output.rows, [[Cell::Integer(1)]]);
    assert_eq!(output.warnings, ["odd: does not want to"]);
    let output = engine
        .query("SELECT value FROM odd WHERE key = 'panic'")
        .unwrap();
    assert_eq!(
        output.warnings,
        ["odd: reading it failed because of a mistake in the agent"]
    );
    assert_eq!(engine.query("SELECT 1").unwrap().warnings, [""; 0]);
}

#[test]
fn a_required_constraint_may_come_from_equality_a_list_a_pattern_or_a_join() {
    let engine = odd_engine();
    for (sql, rows) in [
        ("SELECT key FROM odd WHERE key = 'a'", 1),
        ("SELECT key FROM odd WHERE key IN ('a', 'b', 'c')", 3),
        ("SELECT key FROM odd WHERE key LIKE 'a%'", 1),
        (
            "SELECT odd.key FROM (SELECT 'a' AS k UNION SELECT 'b') JOIN odd ON odd.key = k",
            2,
        ),
        (
            "SELECT (SELECT value FROM odd WHERE key = u.days) FROM uptime AS u",
            1,
        ),
        ("SELECT key FROM odd WHERE key = NULL", 0),
    ] {
        let output = engine.query(sql).unwrap();
        assert_eq!(output.rows.len(), rows, "{sql}");
        assert_eq!(output.warnings, [""; 0], "{sql}");
    }
    let output = engine.query("SELECT * FROM odd WHERE value = 1").unwrap();
    assert!(output.rows.is_empty());
    assert_eq!(
        output.warnings,
        ["odd: needs a constraint on key, such as `WHERE key = …`"]
    );
}

#[test]
fn a_table_that_takes_too_long_or_too_much_is_stopped_inside_its_reader() {
    let engine = odd_engine();
    let limits = Limits {
        wall_time: Duration::from_millis(50),
        ..Limits::default()
    };
    let error = engine
        .query_with(
            "SELECT * FROM odd WHERE key = 'busy'",
            &limits,
            &CancelFlag::new(),
        )
        .unwrap_err();
    assert_eq!(exceeded(&error), Some(LimitKind::WallTime));
    let error = engine
        .query("SELECT * FROM odd WHERE key = 'grow'")
        .unwrap_err();
    assert_eq!(exceeded(&error), Some(LimitKind::Memory));
}

#[test]
fn two_tables_of_one_name_are_refused() {
    let options = EngineOptions {
        extra_tables: vec![Box::new(Odd), Box::new(Odd)],
        ..EngineOptions::default()
    };
    let error = Engine::new(options).unwrap_err();
    assert_eq!(error.to_string(), "two tables are called `odd`");
}
