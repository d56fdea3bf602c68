//! Where apt gets packages from, with what it last learned about each source.

use std::path::{Path, PathBuf};

use super::super::glob;
use super::{control_fields, paragraphs};
use crate::error::TableError;
use crate::spec::Collation::VersionDpkg;
use crate::spec::ColumnType::{Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink, read_text};

pub(crate) static APT_SOURCES: TableSpec = TableSpec {
    name: "apt_sources",
    description: "The package sources that apt is configured with.",
    columns: &[
        column("name", Text),
        column("source", Text),
        column("base_uri", Text),
        column("release", Text),
        column("version", Text).collate(VersionDpkg),
        column("maintainer", Text),
        column("components", Text),
        column("architectures", Text),
        column("pid_with_namespace", Integer).additional().hidden(),
    ],
};

/// Where apt keeps what it downloaded about its sources.
const LISTS: &str = "/var/lib/apt/lists";

pub(crate) fn apt_sources(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = Path::new("/etc/apt/sources.list.d");
    if context.path(parts).is_dir() {
        files.extend(
            glob::names_in(context, parts)
                .into_iter()
                .map(|name| parts.join(name)),
        );
    }
    for file in files {
        context.check()?;
        let extension = file.extension().and_then(|extension| extension.to_str());
        let parse = match extension {
            Some("list") => parse_lines,
            Some("sources") => parse_paragraphs,
            _ => continue,
        };
        let text = match read_text(&context.path(&file)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                context.warn(TableError::unreadable(&file, error));
                continue;
            }
        };
        for source in parse(&text) {
            add_source(context, rows, &file, &source)?;
        }
    }
    Ok(())
}

/// A place to get binary packages from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    uri: String,
    suite: String,
}

impl Source {
    fn new(uri: &str, suite: &str) -> Option<Self> {
        uri.contains(':').then(|| Self {
            uri: uri.trim_end_matches('/').to_owned(),
            suite: suite.to_owned(),
        })
    }

    /// The address without its scheme.
    fn place(&self) -> &str {
        self.uri
            .split_once("://")
            .map_or(self.uri.as_str(), |(_, place)| place)
    }

    /// How the names of apt's files about this source begin.
    fn list_name(&self) -> String {
        let path = if self.suite.ends_with('/') {
            format!("{}/{}", self.place(), self.suite.trim_end_matches('/'))
        } else {
            format!("{}/dists/{}", self.place(), self.suite)
        };
        path.trim_end_matches('/').replace('/', "_")
    }
}

/// The one-line style: `deb [options] uri suite component…`.
fn parse_lines(text: &str) -> Vec<Source> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next().unwrap_or_default().trim();
            let rest = line.strip_prefix("deb")?;
            let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
            let rest = match rest.strip_prefix('[') {
                Some(options) => options.split_once(']')?.1,
                None => rest,
            };
            let mut words = rest.split_whitespace();
            Source::new(words.next()?, words.next()?)
        })
        .collect()
}

/// The style of paragraphs with fields.
fn parse_paragraphs(text: &str) -> Vec<Source> {
    // Lines of comments may stand within a paragraph.
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| [line.trim_end(), "\n"])
        .collect();
    let mut sources = Vec::new();
    for paragraph in paragraphs(&text) {
        let fields = control_fields(paragraph);
        let words = |name: &str| {
            fields
                .get(name)
                .map(|value| value.split_whitespace().collect::<Vec<_>>())
                .unwrap_or_default()
        };
        let is_off = fields.get("enabled").is_some_and(|value| {
            matches!(
                value.to_ascii_lowercase().as_str(),
                "no" | "false" | "off" | "0" | "without" | "disable"
            )
        });
        if is_off || !words("types").contains(&"deb") {
            continue;
        }
        for uri in words("uris") {
            sources.extend(
                words("suites")
                    .into_iter()
                    .filter_map(|suite| Source::new(uri, suite)),
            );
        }
    }
    sources
}

fn add_source(
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
    file: &Path,
    source: &Source,
) -> Result<(), TableError> {
    let list = source.list_name();
    // A source that was never updated has no release file.
    let release = ["InRelease", "Release"]
        .into_iter()
        .find_map(|kind| read_text(&context.path(format!("{LISTS}/{list}_{kind}"))).ok())
        .unwrap_or_default();
    let text: String = release
        .lines()
        .skip_while(|line| {
            line.starts_with("-----BEGIN") || line.starts_with("Hash:") || line.is_empty()
        })
        .take_while(|line| !line.starts_with("-----BEGIN"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let fields = control_fields(&text);
    let field = |name: &str| fields.get(name).copied();
    rows.row()
        .set("name", format!("{} {}", source.place(), source.suite))
        .set("source", file.to_string_lossy())
        .set("base_uri", source.uri.as_str())
        .set("release", field("codename"))
        .set("version", field("version"))
        .set("maintainer", field("origin"))
        .set("components", field("components"))
        .set("architectures", field("architectures"))
        .push()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_of_sources_are_understood() {
        let lines = parse_lines(
            "# deb http://old.example/ x main\n\
             deb [arch=amd64 signed-by=/k.gpg] https://deb.example/debian/ bookworm main contrib # why\n\
             deb-src https://deb.example/debian bookworm main\n\
             deb\thttps://flat.example/repo ./\n",
        );
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].uri, "https://deb.example/debian");
        assert_eq!(lines[0].list_name(), "deb.example_debian_dists_bookworm");
        assert_eq!(lines[1].suite, "./");
        let fields = parse_paragraphs(
            "Types: deb deb-src\nURIs: http://a.example/ http://b.example/x\nSuites: one two\n# note\nComponents: main\n\n\
             Types: deb\nEnabled: no\nURIs: http://c.example\nSuites: x\n\nTypes: deb-src\nURIs: http://d.example\nSuites: x\n",
        );
        let names: Vec<String> = fields.iter().map(Source::list_name).collect();
        assert_eq!(
            names,
            [
                "a.example_dists_one",
                "a.example_dists_two",
                "b.example_x_dists_one",
                "b.example_x_dists_two"
            ]
        );
    }
}
