//! Labels.

use muster_clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::reading::{names, or_default};

/// A label. Written by servers, read by clients. The last four members are left out where labels stand in a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Label {
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// The SQL that decides; empty for manual labels.
    pub query: String,
    /// The platform on which it is asked; empty: all.
    pub platform: String,
    /// Who made it.
    pub label_type: LabelType,
    /// Who decides which hosts bear it.
    pub label_membership_type: MembershipType,
    /// How many hosts bear it; left out when none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_count: Option<u64>,
    /// The name again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_text: Option<String>,
    /// How many hosts bear it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The hosts of a manual label, when one is asked for or made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_ids: Option<Vec<i64>>,
}

impl Label {
    /// With the members that labels have on their own, outside a host.
    pub fn counted(mut self, hosts: u64) -> Self {
        self.host_count = (hosts > 0).then_some(hosts);
        self.display_text = Some(self.name.clone());
        self.count = Some(hosts);
        self
    }
}

/// Who made a label. Written by servers and fleetctl, read by both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelType {
    /// An operator.
    #[default]
    Regular,
    /// It is always there.
    Builtin,
}

impl LabelType {
    /// Whether an operator made it: such documents leave the member out.
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_regular(&self) -> bool {
        *self == Self::Regular
    }
}

/// Who decides which hosts bear a label. Written by servers and clients, read by both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MembershipType {
    /// A query on each host.
    #[default]
    Dynamic,
    /// An operator.
    Manual,
}

/// One label. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelAnswer {
    /// The label.
    pub label: Label,
}

/// `GET …/labels`. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelsAnswer {
    /// The labels.
    pub labels: Vec<Label>,
}

/// A label in short lists. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelSummary {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Who made it.
    pub label_type: LabelType,
}

/// `GET …/labels/summary`. Written by servers, read by clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelSummaryAnswer {
    /// The labels.
    pub labels: Vec<LabelSummary>,
}

/// `POST …/labels` and `PATCH …/labels/{id}`; absent members stay as they are. Written by clients, read by servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LabelRequest {
    /// Its name.
    pub name: Option<String>,
    /// Its description.
    pub description: Option<String>,
    /// The SQL that decides; cannot be changed later.
    pub query: Option<String>,
    /// The platform on which it is asked; cannot be changed later.
    pub platform: Option<String>,
    /// The hosts of a manual label, by what identifies them.
    pub hosts: Option<Vec<String>>,
    /// The hosts of a manual label, by number.
    pub host_ids: Option<Vec<i64>>,
}

/// `POST` and `DELETE …/hosts/{id}/labels`: manual labels of one host. Written by clients, read by servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HostLabelsRequest {
    /// The labels' names.
    #[serde(deserialize_with = "names")]
    pub labels: Vec<String>,
}

/// A document of kind label. Written by fleetctl and servers, read by both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelSpec {
    /// Its number; 0 in documents that people write.
    #[serde(deserialize_with = "or_default")]
    pub id: i64,
    /// The name, which is the key.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Its description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// The SQL that decides.
    #[serde(deserialize_with = "or_default")]
    pub query: String,
    /// The platform on which it is asked; left out for all.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub platform: String,
    /// Who made it; left out for those of operators.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "LabelType::is_regular"
    )]
    pub label_type: LabelType,
    /// Who decides.
    #[serde(deserialize_with = "or_default")]
    pub label_membership_type: MembershipType,
    /// The hosts of a manual label, by what identifies them; `null` for others.
    pub hosts: Option<Vec<String>>,
}
