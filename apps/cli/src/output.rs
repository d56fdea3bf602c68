//! Tables, JSON lines and CSV. Nothing that a host said can move the cursor or hide a line.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use serde_json::{Map, Value, json};

use crate::arguments::Format;
use crate::error::CliError;

/// A column of a table is at most so wide for alignment; longer values stick out.
const MAX_ALIGNED_WIDTH: usize = 40;

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Table,
    Json,
    Csv,
}

impl From<Format> for Style {
    fn from(format: Format) -> Self {
        match format {
            Format { json: true, .. } => Self::Json,
            Format { csv: true, .. } => Self::Csv,
            Format { .. } => Self::Table,
        }
    }
}

/// A column of a list: its title and the members that it shows, the first that is there.
pub(crate) struct Column(pub(crate) &'static str, pub(crate) &'static [&'static str]);

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    Ok(())
}

/// Says something beside the output.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable_lines(text));
}

/// A whole list.
pub(crate) fn list(style: Style, columns: &[Column], items: &[Value]) -> Result<(), CliError> {
    print(&listed(style, columns, items))
}

/// The text of a whole list.
pub(crate) fn listed(style: Style, columns: &[Column], items: &[Value]) -> String {
    if style == Style::Json {
        return items.iter().fold(String::new(), |mut text, item| {
            let _ = writeln!(text, "{item}");
            text
        });
    }
    let head: Vec<String> = columns.iter().map(|column| column.0.to_owned()).collect();
    let rows = items.iter().map(|item| {
        let cells = columns.iter().map(|Column(_, members)| {
            let value = members.iter().map(|member| member_of(item, member));
            let says = |value: &&Value| !value.is_null() && *value != "";
            cell(value.flatten().find(says))
        });
        cells.collect::<Vec<String>>()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let mut text = String::new();
    if style == Style::Csv {
        csv_line(&mut text, &head);
        for row in &rows {
            csv_line(&mut text, row);
        }
        return text;
    }
    let head: Vec<String> = head.iter().map(|title| title.to_uppercase()).collect();
    let mut table = Table::default();
    table.widen(&head);
    for row in &rows {
        table.widen(row);
    }
    table.line(&mut text, &head);
    for row in &rows {
        table.line(&mut text, row);
    }
    text
}

/// `hosts.answered` is the member of a member.
pub(crate) fn member_of<'a>(item: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .try_fold(item, |value, name| value.get(name))
}

/// One thing: its plain members, each on a line, then its lists of things as tables with a heading.
pub(crate) fn thing(value: &Value) -> String {
    let Value::Object(members) = value else {
        return format!("{value}\n");
    };
    let (lists, plain): (Vec<_>, Vec<_>) = members
        .iter()
        .map(|(name, value)| (name, value, rows_of(value)))
        .partition(|(_, _, rows)| !rows.is_empty());
    let width = plain.iter().map(|(name, ..)| name.chars().count()).max();
    let mut text = String::new();
    for (name, value, _) in plain {
        let shown = printable(&cell(Some(value)));
        let line = format!(
            "{:<width$}  {shown}",
            printable(name),
            width = width.unwrap_or(0)
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    for (name, _, rows) in lists {
        let columns = columns_of(&rows);
        let shown = |row: &Map<String, Value>| -> Vec<String> {
            columns.iter().map(|name| cell(row.get(name))).collect()
        };
        let lines: Vec<Vec<String>> = rows.iter().map(|row| shown(row)).collect();
        let mut table = Table::default();
        let heads: Vec<String> = columns.iter().map(|name| heading(name)).collect();
        table.widen(&heads);
        for line in &lines {
            table.widen(line);
        }
        let _ = writeln!(text, "\n{}:", printable(name));
        table.line(&mut text, &heads);
        for line in &lines {
            table.line(&mut text, line);
        }
    }
    text
}

/// The things in a list of nothing else.
fn rows_of(value: &Value) -> Vec<&Map<String, Value>> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let things: Vec<_> = items.iter().filter_map(Value::as_object).collect();
    if things.len() == items.len() {
        things
    } else {
        Vec::new()
    }
}

/// A column's name as its heading.
fn heading(name: &str) -> String {
    name.replace('_', " ").to_uppercase()
}

/// A value as text: times to the second, lists with commas.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => to_the_second(text),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "no".to_owned(),
        Some(Value::Array(items)) => {
            let items: Vec<String> = items.iter().map(|item| cell(Some(item))).collect();
            items.join(", ")
        }
        Some(Value::Object(members)) => match members.get("name") {
            Some(name) => cell(Some(name)),
            None => Value::Object(members.clone()).to_string(),
        },
        Some(other) => other.to_string(),
    }
}

/// A time to the second; other text as it is.
pub(crate) fn to_the_second(text: &str) -> String {
    shortened_time(text).unwrap_or_else(|| text.to_owned())
}

/// `2026-11-23T10:00:00.123456Z` without what is behind the seconds.
fn shortened_time(text: &str) -> Option<String> {
    let pattern = "dddd-dd-ddTdd:dd:dd";
    let (head, tail) = text.split_at_checked(pattern.len())?;
    let fits = head.chars().zip(pattern.chars()).all(|(found, wanted)| {
        if wanted == 'd' {
            found.is_ascii_digit()
        } else {
            found == wanted
        }
    });
    let fraction = tail.strip_prefix('.')?.strip_suffix('Z')?;
    (fits && fraction.chars().all(|c| c.is_ascii_digit())).then(|| format!("{head}Z"))
}

/// Characters that a terminal acts upon are written out.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            c if c.is_control() || is_reordering(c) => {
                let _ = write!(shown, "{}", c.escape_unicode());
            }
            c => shown.push(c),
        }
    }
    shown
}

/// The same for text of several lines.
pub(crate) fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(printable).collect();
    lines.join("\n")
}

/// Characters that change the order of what is around them.
fn is_reordering(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Columns that line up.
#[derive(Default)]
struct Table {
    widths: Vec<usize>,
}

impl Table {
    fn widen(&mut self, cells: &[String]) {
        self.widths.resize(self.widths.len().max(cells.len()), 0);
        for (width, cell) in self.widths.iter_mut().zip(cells) {
            *width = (*width).max(printable(cell).chars().count().min(MAX_ALIGNED_WIDTH));
        }
    }

    fn line(&self, text: &mut String, cells: &[String]) {
        let mut line = String::new();
        for (index, cell) in cells.iter().enumerate() {
            let width = self.widths.get(index).copied().unwrap_or(0);
            let gap = if index == 0 { "" } else { "  " };
            let _ = write!(line, "{gap}{:<width$}", printable(cell));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn csv_line(text: &mut String, cells: &[String]) {
    for (index, cell) in cells.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        if cell.contains(['"', ',', '\n', '\r']) {
            let _ = write!(text, "\"{}\"", cell.replace('"', "\"\""));
        } else {
            text.push_str(cell);
        }
    }
    text.push_str("\r\n");
}

/// Rows of hosts, printed as they come.
pub(crate) struct Rows {
    style: Style,
    to_terminal: bool,
    columns: Vec<String>,
    table: Table,
    left_out: bool,
}

impl Rows {
    pub(crate) fn new(style: Style) -> Self {
        Self {
            style,
            to_terminal: io::stdout().is_terminal(),
            columns: Vec::new(),
            table: Table::default(),
            left_out: false,
        }
    }

    /// The text for what one host answered.
    pub(crate) fn add(&mut self, host_id: &Value, host: &str, rows: &[Value]) -> String {
        let rows: Vec<&Map<String, Value>> = rows.iter().filter_map(Value::as_object).collect();
        let mut text = String::new();
        match self.style {
            Style::Json => {
                for row in rows {
                    let line = json!({ "host": host, "host_id": host_id, "row": row });
                    let _ = writeln!(text, "{line}");
                }
            }
            Style::Csv => self.add_csv(&mut text, host, &rows),
            Style::Table => self.add_table(&mut text, host, &rows),
        }
        text
    }

    fn add_csv(&mut self, text: &mut String, host: &str, rows: &[&Map<String, Value>]) {
        if rows.is_empty() {
            return;
        }
        let found = columns_of(rows);
        let visible = |cells: Vec<String>, to_terminal: bool| -> Vec<String> {
            if to_terminal {
                cells.iter().map(|cell| printable(cell)).collect()
            } else {
                cells
            }
        };
        if self.columns.is_empty() {
            self.columns.clone_from(&found);
            csv_line(text, &visible(with_host("host", found), self.to_terminal));
        } else if !self.left_out && found.iter().any(|name| !self.columns.contains(name)) {
            self.left_out = true;
            say(
                "muster: some hosts have columns that the first one does not have; CSV leaves them out, --json shows them",
            );
        }
        for row in rows {
            let cells = with_host(host, cells_of(row, &self.columns));
            csv_line(text, &visible(cells, self.to_terminal));
        }
    }

    fn add_table(&mut self, text: &mut String, host: &str, rows: &[&Map<String, Value>]) {
        if rows.is_empty() {
            return;
        }
        let found = columns_of(rows);
        let is_new = found != self.columns;
        let lines: Vec<Vec<String>> = rows
            .iter()
            .map(|row| with_host(host, cells_of(row, &found)))
            .collect();
        if is_new {
            if !self.columns.is_empty() {
                text.push('\n');
            }
            self.columns.clone_from(&found);
            self.table = Table::default();
            let head = with_host("HOST", found);
            self.table.widen(&head);
            for line in &lines {
                self.table.widen(line);
            }
            self.table.line(text, &head);
        } else {
            for line in &lines {
                self.table.widen(line);
            }
        }
        for line in &lines {
            self.table.line(text, line);
        }
    }
}

fn columns_of(rows: &[&Map<String, Value>]) -> Vec<String> {
    let mut columns: Vec<String> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for name in rows.iter().flat_map(|row| row.keys()) {
        if seen.insert(name) {
            columns.push(name.clone());
        }
    }
    columns
}

fn cells_of(row: &Map<String, Value>, columns: &[String]) -> Vec<String> {
    let text = |value: Option<&Value>| match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    columns.iter().map(|name| text(row.get(name))).collect()
}

fn with_host(host: &str, cells: Vec<String>) -> Vec<String> {
    std::iter::once(host.to_owned()).chain(cells).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        Column("id", &["id"]),
        Column("name", &["display_name", "name"]),
        Column("seen", &["seen_at"]),
        Column("answered", &["hosts.answered"]),
    ];

    fn items() -> Vec<Value> {
        vec![
            json!({"id": 1, "name": "web \"1\", main", "seen_at": "2026-11-23T10:00:00.123456Z", "hosts": {"answered": 4}}),
            json!({"id": 20, "display_name": "evil\u{1b}[2J\nname", "name": "x", "later": true}),
        ]
    }

    #[test]
    fn lists_are_printed_in_three_ways() {
        insta::assert_snapshot!("table", listed(Style::Table, COLUMNS, &items()));
        insta::assert_snapshot!(
            "csv",
            listed(Style::Csv, COLUMNS, &items()).replace('\r', "<CR>")
        );
        insta::assert_snapshot!("json", listed(Style::Json, COLUMNS, &items()));
    }

    #[test]
    fn rows_stream_with_their_host_and_a_new_head_when_columns_change() {
        let first = [
            json!({"pid": "1", "name": "init"}),
            json!({"pid": "22222", "name": "a,b"}),
        ];
        let other = [json!({"pid": "7", "name": "sshd", "state": "S"})];
        for (name, style) in [
            ("rows_table", Style::Table),
            ("rows_json", Style::Json),
            ("rows_csv", Style::Csv),
        ] {
            let mut rows = Rows::new(style);
            rows.to_terminal = false;
            let mut text = rows.add(&json!(1), "web-1", &first);
            text += &rows.add(&json!(2), "a-host-with-a-longer-name", &first[..1]);
            text += &rows.add(&json!(3), "none", &[]);
            text += &rows.add(&json!(4), "db-1", &other);
            insta::assert_snapshot!(name, text.replace('\r', "<CR>"));
        }
    }

    #[test]
    fn what_a_terminal_would_act_upon_is_written_out() {
        assert_eq!(
            printable("a\u{1b}]0;x\u{7}b\u{202e}\u{9b}"),
            "a\\u{1b}]0;x\\u{7}b\\u{202e}\\u{9b}"
        );
        assert_eq!(printable("Grüße, 世界 🙂"), "Grüße, 世界 🙂");
    }
}
