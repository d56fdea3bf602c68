//! After how many days hosts are deleted that stay away (a rule for all, and rules of teams), collectors that do, and entries of
//! the audit log.

use std::time::Duration;

use muster_collectors::CollectorExpirySource;
use muster_hosts::{ExpiryRules, ExpirySource};
use muster_identity::AuditExpirySource;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{SettingsError, SettingsService};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A team's rule. One that is off is none: the rule for all holds then, as Fleet has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TeamExpiry {
    /// Whether the team has a rule of its own.
    pub enabled: bool,
    /// After how many days without a word its hosts are deleted.
    pub days: u32,
}

impl TeamExpiry {
    /// Whether it makes sense.
    pub(crate) fn check(self) -> Result<(), SettingsError> {
        if self.enabled && self.days == 0 {
            let reason = "When enabling host expiry, host expiry window must be set to a positive number of days.";
            return Err(SettingsError::invalid(
                "host_expiry_settings.host_expiry_window",
                reason,
            ));
        }
        Ok(())
    }
}

/// No days is no rule: nobody wants everything gone at once.
fn after(enabled: bool, days: u32) -> Option<Duration> {
    (enabled && days > 0).then(|| DAY * days)
}

impl AuditExpirySource for SettingsService {
    fn audit_expiry(&self) -> Option<Duration> {
        let organisation = &self.current().documents.organisation;
        after(
            organisation.audit_expiry_enabled,
            organisation.audit_expiry_days,
        )
    }
}

impl CollectorExpirySource for SettingsService {
    fn collector_expiry(&self) -> Option<Duration> {
        let organisation = &self.current().documents.organisation;
        after(
            organisation.collector_expiry_enabled,
            organisation.collector_expiry_days,
        )
    }
}

impl ExpirySource for SettingsService {
    fn expiry(&self) -> ExpiryRules {
        let current = self.current();
        let organisation = &current.documents.organisation;
        ExpiryRules {
            everybody: after(
                organisation.host_expiry_enabled,
                organisation.host_expiry_days,
            ),
            teams: current
                .team_expiry
                .iter()
                .filter_map(|(team, own)| Some((*team, after(own.enabled, own.days)?)))
                .collect(),
        }
    }
}
