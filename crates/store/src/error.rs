//! What can go wrong with the database, sorted by what a caller does about it.

use crate::row::ColumnError;

/// What a caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Locked, gone, full or too slow. Passing: answer 503 and let the peer come again.
    Unavailable,
    /// A unique rule was violated: somebody was first.
    Duplicate,
    /// A row that is referred to does not exist, or is still referred to.
    Reference,
    /// A text cannot be kept: it has a NUL, which PostgreSQL refuses. SQLite would take it, but then two databases would
    /// differ in what they hold.
    Unstorable,
    /// The statement or the way a row was read is wrong: a defect of the program.
    Defect,
}

/// A statement failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StoreError(Box<Failure>);

#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
struct Failure {
    attempt: &'static str,
    kind: ErrorKind,
    constraint: Option<String>,
    #[source]
    source: Source,
}

#[derive(Debug, thiserror::Error)]
enum Source {
    #[error(transparent)]
    Driver(sqlx::Error),
    #[error(transparent)]
    Column(ColumnError),
    #[error("{0}")]
    Text(String),
}

impl StoreError {
    pub(crate) fn driver(attempt: &'static str, source: sqlx::Error) -> Self {
        let kind = kind_of(&source);
        let constraint = match &source {
            sqlx::Error::Database(error) => error
                .constraint()
                .map(str::to_owned)
                .or_else(|| Some(error.message().to_owned())),
            _ => None,
        };
        Self(Box::new(Failure {
            attempt,
            kind,
            constraint,
            source: Source::Driver(source),
        }))
    }

    /// No connection was to be had, or it is not known what became of the work: that passes, whatever the reason.
    pub(crate) fn away(attempt: &'static str, source: sqlx::Error) -> Self {
        let mut error = Self::driver(attempt, source);
        error.0.kind = ErrorKind::Unavailable;
        error
    }

    /// An earlier statement of the unit of work failed.
    pub(crate) fn broken(kind: ErrorKind) -> Self {
        Self(Box::new(Failure {
            attempt: "go on with a transaction",
            kind,
            constraint: None,
            source: Source::Text("an earlier statement of it failed".to_owned()),
        }))
    }

    pub(crate) fn unstorable() -> Self {
        Self(Box::new(Failure {
            attempt: "keep a text",
            kind: ErrorKind::Unstorable,
            constraint: None,
            source: Source::Text("it has a NUL character".to_owned()),
        }))
    }

    pub(crate) fn silent(attempt: &'static str, patience: std::time::Duration) -> Self {
        let text = format!("no answer within {} s", patience.as_secs_f64());
        Self(Box::new(Failure {
            attempt,
            kind: ErrorKind::Unavailable,
            constraint: None,
            source: Source::Text(text),
        }))
    }

    pub(crate) fn column(source: ColumnError) -> Self {
        Self(Box::new(Failure {
            attempt: "read a column",
            kind: ErrorKind::Defect,
            constraint: None,
            source: Source::Column(source),
        }))
    }

    /// A row was found, but its content cannot be what the program wrote.
    pub fn corrupt(attempt: &'static str, what: impl Into<String>) -> Self {
        let source = Source::Text(what.into());
        Self(Box::new(Failure {
            attempt,
            kind: ErrorKind::Defect,
            constraint: None,
            source,
        }))
    }

    /// What others are told whose work was not even tried, since this failed: it is as bad for them.
    pub fn for_others(&self, attempt: &'static str) -> Self {
        let source = Source::Text(format!("not tried, since another's failed: {self}"));
        Self(Box::new(Failure {
            attempt,
            kind: self.0.kind,
            constraint: None,
            source,
        }))
    }

    /// What a caller does about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether it will pass by itself: locked, gone, full or too slow.
    pub fn is_unavailable(&self) -> bool {
        self.0.kind == ErrorKind::Unavailable
    }

    /// Whether a unique rule was violated.
    pub fn is_duplicate(&self) -> bool {
        self.0.kind == ErrorKind::Duplicate
    }

    /// Whether a unique rule over this column (`table.column`) was violated. SQLite names columns, PostgreSQL the
    /// constraint, which by our custom contains the column's name.
    pub fn is_duplicate_of(&self, column: &str) -> bool {
        self.is_duplicate()
            && self
                .0
                .constraint
                .as_deref()
                .is_some_and(|constraint| constraint.contains(column))
    }
}

fn kind_of(error: &sqlx::Error) -> ErrorKind {
    use sqlx::error::ErrorKind as Db;
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => ErrorKind::Unavailable,
        sqlx::Error::Database(database) => match database.kind() {
            Db::UniqueViolation => ErrorKind::Duplicate,
            Db::ForeignKeyViolation => ErrorKind::Reference,
            _ => match database.code().as_deref() {
                Some(code) if is_passing(code) => ErrorKind::Unavailable,
                _ => ErrorKind::Defect,
            },
        },
        _ => ErrorKind::Defect,
    }
}

/// Codes that pass by themselves. SQLite's are numbers (primary code in the low byte): busy 5, locked 6, out of
/// memory 7, read-only 8, interrupted 9, I/O 10, corrupt 11, full 13, cannot open 14, not a database 26. PostgreSQL's are
/// classes of SQLSTATE: 08 connection, 25006 read-only (a replica that was promoted away), 28 login (a password that is
/// being changed), 40 rollback (serialisation, deadlock), 42501 rights, 53 resources, 55 state (locks among them), 57
/// operator (shutting down), 58 system, XX within the server; 3D000 means that the database is away.
fn is_passing(code: &str) -> bool {
    if let Ok(number) = code.parse::<i64>()
        && code.len() < 5
    {
        return matches!(number & 0xff, 5..=11 | 13 | 14 | 26);
    }
    ["08", "28", "40", "53", "55", "57", "58", "XX"]
        .iter()
        .any(|class| code.starts_with(class))
        || matches!(code, "25006" | "42501" | "3D000")
}

#[cfg(test)]
mod tests {
    use super::is_passing;

    #[test]
    fn codes_that_pass_are_told_from_defects() {
        for code in [
            "5", "6", "261", "517", "10", "2570", "13", "14", "08006", "57P01", "40001", "53300",
            "55P03", "55000", "28P01", "42501", "XX001",
        ] {
            assert!(is_passing(code), "{code}");
        }
        for code in ["1", "19", "2067", "42601", "42P01", "23505", "22P02"] {
            assert!(!is_passing(code), "{code}");
        }
    }
}
