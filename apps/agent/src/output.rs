//! Rows for people and for other programs.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use muster_tables::QueryOutput;
use serde_json::{Map, Value};

use crate::config::Mode;

/// Prints an answer.
pub fn print(out: &mut impl Write, output: &QueryOutput, mode: Mode) -> io::Result<()> {
    let rows = output.to_string_rows();
    match mode {
        Mode::Table => {
            let mut table = Table::new();
            table
                .load_preset(presets::ASCII_MARKDOWN)
                .set_content_arrangement(ContentArrangement::Disabled);
            table.set_header(&output.columns);
            table.add_rows(rows);
            writeln!(out, "{table}")
        }
        Mode::Json => {
            let object = |row: Vec<String>| {
                let members = output
                    .columns
                    .iter()
                    .cloned()
                    .zip(row.into_iter().map(Value::String));
                Value::Object(members.collect::<Map<_, _>>())
            };
            writeln!(out, "[")?;
            let last = rows.len().saturating_sub(1);
            for (index, row) in rows.into_iter().enumerate() {
                writeln!(
                    out,
                    "  {}{}",
                    object(row),
                    if index == last { "" } else { "," }
                )?;
            }
            writeln!(out, "]")
        }
        Mode::Csv => {
            csv(out, &output.columns)?;
            rows.iter().try_for_each(|row| csv(out, row))
        }
        Mode::Line => {
            let width = output
                .columns
                .iter()
                .map(|name| name.chars().count())
                .max()
                .unwrap_or(0);
            for (index, row) in rows.iter().enumerate() {
                if index > 0 {
                    writeln!(out)?;
                }
                for (name, value) in output.columns.iter().zip(row) {
                    writeln!(out, "{name:>width$} = {value}")?;
                }
            }
            Ok(())
        }
    }
}

/// One line as RFC 4180 has it, but for the line's end.
fn csv(out: &mut impl Write, cells: &[String]) -> io::Result<()> {
    let quoted = cells.iter().map(|cell| {
        if cell.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.clone()
        }
    });
    writeln!(out, "{}", quoted.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use muster_tables::{Engine, EngineOptions};

    use super::*;

    fn printed(sql: &str, mode: Mode) -> String {
        let output = Engine::new(EngineOptions::default())
            .unwrap()
            .query(sql)
            .unwrap();
        let mut bytes = Vec::new();
        print(&mut bytes, &output, mode).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn rows_are_printed_as_a_table_json_csv_and_lines() {
        let sql = "SELECT 'a,b' AS text, 'say \"hi\"' AS more, NULL AS empty UNION ALL SELECT 'c', 'd', 1";
        assert_eq!(
            printed(sql, Mode::Json),
            "[\n  {\"text\":\"a,b\",\"more\":\"say \\\"hi\\\"\",\"empty\":\"\"},\n  \
             {\"text\":\"c\",\"more\":\"d\",\"empty\":\"1\"}\n]\n"
        );
        assert_eq!(
            printed(sql, Mode::Csv),
            "text,more,empty\n\"a,b\",\"say \"\"hi\"\"\",\nc,d,1\n"
        );
        assert_eq!(
            printed("SELECT 1 AS one, 2 AS three", Mode::Line),
            "  one = 1\nthree = 2\n"
        );
        let table = printed("SELECT 1 AS one", Mode::Table);
        assert_eq!(table, "| one |\n|-----|\n| 1   |\n");
        assert_eq!(printed("SELECT 1 WHERE 1 = 0", Mode::Json), "[\n]\n");
    }
}
