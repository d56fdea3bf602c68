//! What a check found: where, what, and what to do.

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

use super::document::display_name;
use super::yaml::Place;

/// The most findings of one check that are told.
pub(crate) const MAX_FINDINGS: usize = 50;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CollectorConfigFindingSeverity)]
pub enum Severity {
    /// An agent would not run this, so it is neither kept nor sent.
    Error,
    /// It may be wrong.
    Warning,
}

impl Severity {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Something that a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CollectorConfigFinding)]
pub struct Finding {
    /// `error` or `warning`.
    pub severity: Severity,
    /// In which file; absent when it is about all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// In which line, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// In which column, counted in characters from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", display_name(file))?;
        }
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, "{line}:{column}:")?;
        }
        if self.file.is_some() {
            f.write_str(" ")?;
        }
        write!(f, "{}: {}", self.severity.name(), self.message)
    }
}

/// Collects findings, in the order of their places.
pub(crate) struct Findings<'a> {
    names: &'a [String],
    list: Vec<(Option<Place>, Finding)>,
}

impl<'a> Findings<'a> {
    pub(crate) fn new(names: &'a [String]) -> Self {
        Self {
            names,
            list: Vec::new(),
        }
    }

    pub(crate) fn add(
        &mut self,
        severity: Severity,
        place: Option<Place>,
        message: impl Into<String>,
    ) {
        let file = place.and_then(|place| self.names.get(place.file)).cloned();
        let finding = Finding {
            severity,
            line: place.map(|place| place.line),
            column: place.map(|place| place.column),
            file,
            message: message.into(),
        };
        self.list.push((place, finding));
    }

    pub(crate) fn error(&mut self, place: impl Into<Option<Place>>, message: impl Into<String>) {
        self.add(Severity::Error, place.into(), message);
    }

    pub(crate) fn warning(&mut self, place: impl Into<Option<Place>>, message: impl Into<String>) {
        self.add(Severity::Warning, place.into(), message);
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.list
            .iter()
            .any(|(_, finding)| finding.severity == Severity::Error)
    }

    /// Whether there are far more than are told, so that more need not be well put.
    pub(crate) fn are_many(&self) -> bool {
        self.list.len() >= 4 * MAX_FINDINGS
    }

    /// All findings, errors first. Of very many only the first are told.
    pub(crate) fn finish(mut self) -> Vec<Finding> {
        self.list
            .sort_by_key(|(place, finding)| (finding.severity, *place));
        self.list.dedup_by(|a, b| a.1 == b.1);
        let total = self.list.len();
        let mut findings: Vec<Finding> = self
            .list
            .into_iter()
            .map(|(_, finding)| finding)
            .take(MAX_FINDINGS)
            .collect();
        if total > MAX_FINDINGS {
            findings.push(Finding {
                severity: findings[MAX_FINDINGS - 1].severity,
                file: None,
                line: None,
                column: None,
                message: format!("and {} more", total - MAX_FINDINGS),
            });
        }
        findings
    }
}

/// Whether anything was found that keeps it from being kept or sent.
pub fn has_errors(findings: &[Finding]) -> bool {
    findings
        .iter()
        .any(|finding| finding.severity == Severity::Error)
}
