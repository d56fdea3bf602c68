//! What a later release wrote that this one does not know: no reason to be unable to serve the agent at all.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::{Part, Progress, Standing};

/// What is not known of parts is told again when the release that knows it asks for it.
pub(super) fn parts<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<Part, String>, D::Error> {
    let said = BTreeMap::<String, String>::deserialize(from)?;
    let known = |name: &str| Part::ALL.into_iter().find(|part| part.name() == name);
    Ok(said
        .into_iter()
        .filter_map(|(name, digest)| Some((known(&name)?, digest)))
        .collect())
}

/// Nothing is taken from an agent of which we do not know what it may do, and nothing is told to it.
impl<'de> Deserialize<'de> for Standing {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        let known = [Self::Enrolled, Self::Waiting, Self::Revoked];
        let mut known = known.into_iter();
        Ok(known
            .find(|one| one.name() == name)
            .unwrap_or(Self::Waiting))
    }
}

impl<'de> Deserialize<'de> for Progress {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        let known = [Self::Applied, Self::Applying, Self::Failed];
        let mut known = known.into_iter();
        Ok(known.find(|one| one.name() == name).unwrap_or(Self::Unset))
    }
}
