//! Prints the reference page of tables.

use std::process::ExitCode;

use muster_tables::{Engine, EngineOptions, TableSpec};

fn main() -> ExitCode {
    let engine = match Engine::new(EngineOptions::default()) {
        Ok(engine) => engine,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("# Tables of the agent");
    println!();
    println!("<!-- Written by `cargo xtask docs` from crates/tables. Change it there. -->");
    println!();
    println!(
        "Names, order and types of columns are osquery's, so queries written for osquery run as they are. Columns"
    );
    println!(
        "in bold must be constrained (`WHERE path = …`), else there are no rows. Columns of other operating systems"
    );
    println!("exist, hidden and NULL, and are not listed.");
    for table in engine.tables() {
        println!();
        print!("{}", section(table));
    }
    ExitCode::SUCCESS
}

fn section(table: &TableSpec) -> String {
    let shown = |required: bool| {
        let columns = table.columns.iter();
        let of_kind = columns.filter(move |column| !column.foreign && column.required == required);
        of_kind.map(move |column| {
            let name = if required {
                format!("**`{}`**", column.name)
            } else {
                format!("`{}`", column.name)
            };
            let hidden = if column.hidden { ", hidden" } else { "" };
            format!("{name} {}{hidden}", column.column_type.name())
        })
    };
    let columns: Vec<String> = shown(true).chain(shown(false)).collect();
    format!(
        "## `{}`\n\n{}\n\n{}\n",
        table.name,
        table.description,
        columns.join(" · ")
    )
}
