//! Which statements may run.
//!
//! Two gates: the text holds one statement (found without preparing the rest, since preparing is already work), and
//! SQLite's authorizer allows only what reads. A statement that SQLite does not call read-only is refused as well.

use rusqlite::hooks::{AuthAction, Authorization};

use crate::error::QueryError;

/// Pragmas that only tell something about the schema or about SQLite.
const READ_ONLY_PRAGMAS: [&str; 9] = [
    "table_info",
    "table_xinfo",
    "table_list",
    "function_list",
    "module_list",
    "pragma_list",
    "collation_list",
    "compile_options",
    "database_list",
];

/// Functions that reach outside the statement.
const REFUSED_FUNCTIONS: [&str; 2] = ["load_extension", "fts3_tokenizer"];

/// Decides on one action; `Err` says in words what was refused. Virtual tables of SQLite itself that can be read without
/// being made first (`json_each`, `pragma_…`) only compute; making others takes statements that are refused.
pub(crate) fn authorize(action: AuthAction<'_>) -> Result<(), String> {
    match action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => Ok(()),
        AuthAction::Function { function_name } => {
            if REFUSED_FUNCTIONS
                .iter()
                .any(|name| name.eq_ignore_ascii_case(function_name))
            {
                Err(format!("the function {function_name}"))
            } else {
                Ok(())
            }
        }
        AuthAction::Pragma { pragma_name, .. } => {
            if READ_ONLY_PRAGMAS
                .iter()
                .any(|name| name.eq_ignore_ascii_case(pragma_name))
            {
                Ok(())
            } else {
                Err(format!("PRAGMA {pragma_name}"))
            }
        }
        AuthAction::Insert { table_name } => Err(format!("writing to {table_name}")),
        AuthAction::Update { table_name, .. } => Err(format!("changing {table_name}")),
        AuthAction::Delete { table_name } => Err(format!("deleting from {table_name}")),
        AuthAction::Attach { .. } => Err("ATTACH".to_owned()),
        AuthAction::Detach { .. } => Err("DETACH".to_owned()),
        AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => {
            Err("a transaction".to_owned())
        }
        AuthAction::CreateVtable { .. }
        | AuthAction::CreateTable { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateView { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::CreateIndex { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTrigger { .. }
        | AuthAction::CreateTempTrigger { .. } => Err("CREATE".to_owned()),
        AuthAction::DropVtable { .. }
        | AuthAction::DropTable { .. }
        | AuthAction::DropTempTable { .. }
        | AuthAction::DropView { .. }
        | AuthAction::DropTempView { .. }
        | AuthAction::DropIndex { .. }
        | AuthAction::DropTempIndex { .. }
        | AuthAction::DropTrigger { .. }
        | AuthAction::DropTempTrigger { .. } => Err("DROP".to_owned()),
        AuthAction::AlterTable { .. } => Err("ALTER TABLE".to_owned()),
        AuthAction::Reindex { .. } => Err("REINDEX".to_owned()),
        AuthAction::Analyze { .. } => Err("ANALYZE".to_owned()),
        _ => Err("this statement".to_owned()),
    }
}

/// As SQLite wants the answer.
pub(crate) fn answer(decision: &Result<(), String>) -> Authorization {
    if decision.is_ok() {
        Authorization::Allow
    } else {
        Authorization::Deny
    }
}

/// The single statement in `sql`, without the semicolon.
pub(crate) fn single(sql: &str) -> Result<&str, QueryError> {
    let end = end_of_statement(sql);
    let (statement, rest) = sql.split_at(end);
    if is_blank(statement) {
        return match rest.strip_prefix(';') {
            Some(rest) => single_after_empty(rest),
            None => Err(QueryError::Empty),
        };
    }
    let mut rest = rest;
    while let Some(after) = rest.strip_prefix(';') {
        let end = end_of_statement(after);
        if !is_blank(&after[..end]) {
            return Err(QueryError::SeveralStatements);
        }
        rest = &after[end..];
    }
    Ok(statement)
}

/// Skips empty statements in front, without recursion: there may be many.
fn single_after_empty(mut sql: &str) -> Result<&str, QueryError> {
    loop {
        let end = end_of_statement(sql);
        if !is_blank(&sql[..end]) {
            return single(sql);
        }
        match sql[end..].strip_prefix(';') {
            Some(rest) => sql = rest,
            None => return Err(QueryError::Empty),
        }
    }
}

/// Whether there is nothing but white space and comments.
fn is_blank(sql: &str) -> bool {
    let mut rest = sql;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return true;
        }
        match comment_length(rest.as_bytes()) {
            Some(length) => rest = &rest[length..],
            None => return false,
        }
    }
}

/// The position of the first `;` that ends a statement, or the end of the text.
fn end_of_statement(sql: &str) -> usize {
    let bytes = sql.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += match byte {
            b';' => return at,
            b'\'' | b'"' | b'`' => quoted_length(&bytes[at..], *byte),
            b'[' => quoted_length(&bytes[at..], b']'),
            _ => comment_length(&bytes[at..]).unwrap_or(1),
        };
    }
    bytes.len()
}

/// The length of a quoted text, quotes included. A doubled quote reads as two texts, which comes to the same.
fn quoted_length(bytes: &[u8], close: u8) -> usize {
    bytes[1..]
        .iter()
        .position(|byte| *byte == close)
        .map_or(bytes.len(), |position| position + 2)
}

/// The length of the comment at the start, if there is one.
fn comment_length(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(b"--") {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        Some(end.map_or(bytes.len(), |position| position + 1))
    } else if bytes.starts_with(b"/*") {
        let end = bytes[2..].windows(2).position(|pair| pair == b"*/");
        Some(end.map_or(bytes.len(), |position| position + 4))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_single_statement_may_be_followed_by_semicolons_and_comments() {
        for sql in [
            "SELECT 1",
            "SELECT 1;",
            " SELECT 1 ; ; -- done",
            ";; SELECT 1",
            "/* why */ SELECT ';', \"a;b\", `c;d`, [e;f] -- ; not a second one\n;/* end */",
            "SELECT 'it''s; fine'",
        ] {
            assert!(single(sql).is_ok(), "{sql}");
        }
    }

    #[test]
    fn several_statements_and_none_are_told_apart() {
        for sql in ["SELECT 1; SELECT 2", ";SELECT 1;;DELETE FROM x", "a;b;c"] {
            assert_eq!(single(sql), Err(QueryError::SeveralStatements), "{sql}");
        }
        for sql in ["", "  ", ";", ";;-- nothing\n;", "/* unclosed"] {
            assert_eq!(single(sql), Err(QueryError::Empty), "{sql}");
        }
        let many = "SELECT 1;".repeat(20_000);
        assert_eq!(single(&many), Err(QueryError::SeveralStatements));
        assert_eq!(single(&";".repeat(200_000)), Err(QueryError::Empty));
    }

    #[test]
    fn an_unclosed_quote_is_left_to_sqlite() {
        assert_eq!(single("SELECT 'a; b"), Ok("SELECT 'a; b"));
        assert_eq!(single("SELECT '"), Ok("SELECT '"));
    }
    proptest! {
        #[test]
        fn what_is_taken_for_one_statement_is_one_to_sqlite(sql in r#"[1a;'"`\[\]/*\n -]{0,40}"#) {
            let sql = format!("SELECT 1 {sql}");
            let Ok(statement) = single(&sql) else {
                return Ok(());
            };
            // rusqlite prepares what follows the first statement as well, and says so when there is something.
            let connection = rusqlite::Connection::open_in_memory().unwrap();
            let prepared = connection.prepare(statement);
            prop_assert!(!matches!(prepared, Err(rusqlite::Error::MultipleStatement)), "{statement}");
        }
    }
}
