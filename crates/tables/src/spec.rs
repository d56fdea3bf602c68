//! What a table is called and which columns it has.
//!
//! A [`TableSpec`] is written by hand beside the code that reads the table, and compared with osquery's published
//! schema by a test: names, order, types, collations and constraint options are facts that other people's queries
//! rely on. Descriptions are ours.

use std::fmt::Write as _;

/// The declared type of a column. SQLite uses it as affinity, so `pid = '1'` finds process 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// Text, UTF-8.
    Text,
    /// A number that fits in 32 bits.
    Integer,
    /// A number of 64 bits.
    BigInt,
    /// A number of 64 bits without sign.
    UnsignedBigInt,
    /// A floating point number.
    Double,
    /// A point in time, in seconds since 1970.
    DateTime,
}

impl ColumnType {
    /// The name as in osquery's schema.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::BigInt => "bigint",
            Self::UnsignedBigInt => "unsigned_bigint",
            Self::Double => "double",
            Self::DateTime => "datetime",
        }
    }

    fn declaration(self) -> &'static str {
        match self {
            Self::Text => "TEXT",
            Self::Integer => "INTEGER",
            Self::BigInt => "BIGINT",
            Self::UnsignedBigInt => "UNSIGNED BIGINT",
            Self::Double => "DOUBLE",
            Self::DateTime => "DATETIME",
        }
    }
}

/// How texts of a column are compared and ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collation {
    /// ASCII letters compare without case.
    NoCase,
    /// As dotted version numbers: `1.10` comes after `1.9`.
    Version,
    /// As Debian package versions.
    VersionDpkg,
    /// As rpm versions.
    VersionRhel,
}

impl Collation {
    /// The name as in osquery's schema.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoCase => "nocase",
            Self::Version => "version",
            Self::VersionDpkg => "version_dpkg",
            Self::VersionRhel => "version_rhel",
        }
    }
}

/// One column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnSpec {
    /// Its name.
    pub name: &'static str,
    /// Its declared type.
    pub column_type: ColumnType,
    /// How its texts compare, when not byte by byte.
    pub collation: Option<Collation>,
    /// An equality (or `LIKE`) on this column makes the table read less.
    pub index: bool,
    /// Without an equality (or `LIKE`) on one of the required columns there are no rows.
    pub required: bool,
    /// An equality on this column changes what the table reads.
    pub additional: bool,
    /// osquery evaluates the constraint as a set of values; kept as a fact of the schema.
    pub optimized: bool,
    /// Not part of `SELECT *`.
    pub hidden: bool,
    /// Belongs to other operating systems: hidden and always NULL here, so that a query written for all of them runs.
    pub foreign: bool,
    /// Further names of the same column; each is hidden.
    pub aliases: &'static [&'static str],
}

/// Starts the description of a column.
pub const fn column(name: &'static str, column_type: ColumnType) -> ColumnSpec {
    ColumnSpec {
        name,
        column_type,
        collation: None,
        index: false,
        required: false,
        additional: false,
        optimized: false,
        hidden: false,
        foreign: false,
        aliases: &[],
    }
}

impl ColumnSpec {
    /// Compares texts by `collation`.
    pub const fn collate(mut self, collation: Collation) -> Self {
        self.collation = Some(collation);
        self
    }

    /// Marks the column as one whose equality makes the table read less.
    pub const fn index(mut self) -> Self {
        self.index = true;
        self
    }

    /// Marks the column as one of those that a query has to constrain.
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Marks the column as one whose equality changes what is read.
    pub const fn additional(mut self) -> Self {
        self.additional = true;
        self
    }

    /// Marks the column as optimized in osquery's schema.
    pub const fn optimized(mut self) -> Self {
        self.optimized = true;
        self
    }

    /// Leaves the column out of `SELECT *`.
    pub const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// Marks the column as one of other operating systems.
    pub const fn foreign(mut self) -> Self {
        self.foreign = true;
        self
    }

    /// Gives the column further names.
    pub const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// Whether the table wants to know the values that a query asks for.
    pub const fn takes_constraints(&self) -> bool {
        self.index || self.required || self.additional
    }

    /// Whether `SELECT *` shows the column.
    pub const fn is_visible(&self) -> bool {
        !self.hidden && !self.foreign
    }
}

/// A table: its name, what it tells, and its columns in the order of `SELECT *`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSpec {
    /// Its name.
    pub name: &'static str,
    /// One sentence on what its rows are.
    pub description: &'static str,
    /// Its columns, hidden ones included.
    pub columns: &'static [ColumnSpec],
}

impl TableSpec {
    /// The table as a `CREATE TABLE` statement, hidden columns included, as `.schema` shows it.
    pub fn schema(&self) -> String {
        let mut sql = format!("CREATE TABLE \"{}\" (", self.name);
        let mut first = true;
        let mut declare = |name: &str, column: &ColumnSpec, hidden: bool| {
            let separator = if first { "" } else { ", " };
            first = false;
            let kind = column.column_type.declaration();
            let collate = column
                .collation
                .map(|collation| format!(" COLLATE {}", collation.name()))
                .unwrap_or_default();
            // SQLite looks for the word in the type.
            let hidden = if hidden { " HIDDEN" } else { "" };
            // Writing to a String cannot fail.
            let _ = write!(sql, "{separator}\"{name}\" {kind}{hidden}{collate}");
        };
        for column in self.columns {
            declare(column.name, column, !column.is_visible());
        }
        for (alias, column) in self.alias_columns() {
            declare(alias, column, true);
        }
        sql.push(')');
        sql
    }

    /// The further names of columns, in the order in which they follow the real columns.
    pub(crate) fn alias_columns(
        &self,
    ) -> impl Iterator<Item = (&'static str, &'static ColumnSpec)> + use<> {
        self.columns
            .iter()
            .flat_map(|column| column.aliases.iter().map(move |alias| (*alias, column)))
    }

    /// The position of the column called `name`, trying `hint` first.
    pub(crate) fn position(&self, name: &str, hint: usize) -> Option<usize> {
        if self
            .columns
            .get(hint)
            .is_some_and(|column| column.name == name)
        {
            return Some(hint);
        }
        self.columns.iter().position(|column| column.name == name)
    }

    /// The columns of which a query has to constrain at least one; empty for most tables.
    pub fn required_columns(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.columns
            .iter()
            .filter(|column| column.required)
            .map(|column| column.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_names_types_collations_and_hidden_columns() {
        static SPEC: TableSpec = TableSpec {
            name: "sample",
            description: "For this test.",
            columns: &[
                column("id", ColumnType::BigInt).index(),
                column("version", ColumnType::Text)
                    .collate(Collation::Version)
                    .aliases(&["release"]),
                column("secret", ColumnType::Integer).hidden(),
            ],
        };
        assert_eq!(
            SPEC.schema(),
            "CREATE TABLE \"sample\" (\"id\" BIGINT, \"version\" TEXT COLLATE version, \
             \"secret\" INTEGER HIDDEN, \"release\" TEXT HIDDEN COLLATE version)"
        );
    }
}
