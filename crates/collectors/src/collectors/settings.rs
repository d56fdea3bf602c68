//! What operators decided for all agents, as it is now.

use std::sync::{Arc, PoisonError};

use crate::Collectors;
use crate::service::Settings;

impl Collectors {
    /// As it is at this moment; take it once for what belongs together.
    pub(super) fn settings(&self) -> Arc<Settings> {
        let settings = self.0.settings.read();
        Arc::clone(&settings.unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on offers name these authorities, as PEM. Without any no keys are offered over TLS.
    pub fn set_authority(&self, pem: Option<String>) {
        let mut current = self
            .0
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let offers = current.offers.as_ref();
        if offers.is_none_or(|offers| offers.authority_pem == pem) {
            return;
        }
        let mut settings = Settings::clone(&current);
        if let Some(offers) = &mut settings.offers {
            offers.authority_pem = pem;
        }
        *current = Arc::new(settings);
    }
}
