//! Every served table has the columns that osquery has on Linux: names, order, types, collations, options.

use std::collections::BTreeMap;

use muster_tables::Collation;
use serde::Deserialize;

use crate::support::{engine, query};

/// osquery's tables as it publishes them, without descriptions.
const OSQUERY: &str = include_str!("../data/osquery-tables.json");

/// Tables that are not osquery's own.
const EXTENSIONS: [&str; 1] = ["orbit_info"];

#[derive(Debug, Deserialize)]
struct Published {
    tables: BTreeMap<String, PublishedTable>,
}

#[derive(Debug, Deserialize)]
struct PublishedTable {
    columns: Vec<PublishedColumn>,
}

#[derive(Debug, Deserialize)]
struct PublishedColumn {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    platforms: Option<String>,
    collate: Option<String>,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    index: bool,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    additional: bool,
    #[serde(default)]
    optimized: bool,
    #[serde(default)]
    hidden: bool,
}

impl PublishedColumn {
    fn is_on_linux(&self) -> bool {
        self.platforms
            .as_deref()
            .is_none_or(|platforms| platforms == "posix" || platforms.contains("linux"))
    }
}

fn published() -> BTreeMap<String, PublishedTable> {
    serde_json::from_str::<Published>(OSQUERY)
        .expect("the published tables are JSON")
        .tables
}

#[test]
fn every_table_has_the_columns_that_osquery_has() {
    let published = published();
    for table in engine().tables() {
        if EXTENSIONS.contains(&table.name) {
            continue;
        }
        let theirs = &published[table.name];
        let ours: Vec<_> = table
            .columns
            .iter()
            .map(|column| {
                (
                    (column.name, column.column_type.name()),
                    column.collation.map(Collation::name),
                    (
                        column.index,
                        column.required,
                        column.additional,
                        column.optimized,
                    ),
                    (column.hidden, column.foreign),
                    column.aliases.to_vec(),
                )
            })
            .collect();
        let theirs: Vec<_> = theirs
            .columns
            .iter()
            .map(|column| {
                (
                    (column.name.as_str(), column.kind.as_str()),
                    column.collate.as_deref(),
                    (
                        column.index,
                        column.required,
                        column.additional,
                        column.optimized,
                    ),
                    (column.hidden, !column.is_on_linux()),
                    column
                        .aliases
                        .iter()
                        .map(String::as_str)
                        .collect::<Vec<_>>(),
                )
            })
            .collect();
        assert_eq!(ours, theirs, "{}", table.name);
    }
}

#[test]
fn a_select_of_everything_shows_what_osquery_shows_on_linux() {
    let engine = engine();
    for (table, columns) in published() {
        let shown = query(&engine, &format!("SELECT * FROM {table} LIMIT 0")).columns;
        let expected: Vec<String> = columns
            .columns
            .iter()
            .filter(|column| column.is_on_linux() && !column.hidden)
            .map(|column| column.name.clone())
            .collect();
        assert_eq!(shown, expected, "{table}");
    }
}

#[test]
fn every_published_table_is_served_and_described() {
    let engine = engine();
    let served: Vec<&str> = engine.tables().map(|table| table.name).collect();
    for table in published().keys().map(String::as_str).chain(EXTENSIONS) {
        assert!(served.contains(&table), "{table} is not served");
    }
    for table in engine.tables() {
        assert!(
            table.description.ends_with('.') && table.description.len() > 20,
            "{}: {:?}",
            table.name,
            table.description
        );
        let schema = engine
            .schema(table.name)
            .expect("a served table has a schema");
        assert!(
            schema.contains(&format!("\"{}\"", table.columns[0].name)),
            "{schema}"
        );
    }
}

#[test]
fn the_registry_names_every_table() {
    let engine = engine();
    let listed = query(
        &engine,
        "SELECT name FROM osquery_registry WHERE registry = 'table' AND active = 1 ORDER BY name",
    );
    let listed: Vec<String> = listed.to_string_rows().concat();
    let served: Vec<&str> = engine.tables().map(|table| table.name).collect();
    assert_eq!(listed, served);
}
