//! What a server can do, and what it says of that.
//!
//! Both are sets of capabilities of the registry. Names that this program does not know stand in neither: what a server says
//! is part of what it can do itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Capability, CapabilitySet, Family, Release, Sender};

/// What a server offers, of all families: a bit for each capability, in the order of the registry.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Offer(u64);

const _: () = assert!(
    Capability::ALL.len() <= u64::BITS as usize,
    "an offer has a bit for each capability"
);

const fn bit(capability: Capability) -> u64 {
    1 << capability as u64
}

impl Offer {
    /// Of a server that offers nothing.
    pub const NOTHING: Self = Self(0);

    /// What a server of a release offers.
    pub fn of(release: Release) -> Self {
        let can = |capability: &Capability| {
            let since = capability.since(Sender::Server);
            since.is_some_and(|since| since <= release)
        };
        Capability::ALL.iter().copied().filter(can).collect()
    }

    /// Whether it has this.
    pub const fn has(self, capability: Capability) -> bool {
        self.0 & bit(capability) != 0
    }

    /// What stands in it, in the order of the registry.
    pub fn capabilities(self) -> impl Iterator<Item = Capability> {
        let all = Capability::ALL.iter().copied();
        all.filter(move |capability| self.has(*capability))
    }

    /// All of it but these.
    #[must_use]
    pub fn without(self, left_out: &[Capability]) -> Self {
        let left_out: Self = left_out.iter().copied().collect();
        Self(self.0 & !left_out.0)
    }

    /// What both offer.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether the other one has all of it.
    pub const fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// What is said of it on a family's exchanges.
    #[must_use]
    pub fn on(self, family: Family) -> Self {
        let capabilities = self.capabilities();
        capabilities
            .filter(|capability| capability.declaration().family == family)
            .collect()
    }

    /// The same as a set that is written into headers.
    pub fn set(self) -> CapabilitySet {
        self.capabilities().collect()
    }

    /// As it is kept where other servers read it: names with commas. The registry tells on whose exchanges each is said.
    pub fn to_text(self) -> String {
        self.set().to_header_value()
    }

    /// Reads what [`to_text`](Self::to_text) wrote, perhaps of a newer release: names that are not known here are left out.
    pub fn from_text(text: &str) -> Self {
        let set = CapabilitySet::from_text(text);
        set.names().filter_map(Capability::by_name).collect()
    }
}

impl FromIterator<Capability> for Offer {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        let bits = capabilities.into_iter().map(bit);
        Self(bits.fold(0, |all, bit| all | bit))
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.capabilities().map(Capability::name))
            .finish()
    }
}

/// What a server says now. Read at every exchange and changed seldom, so that reading takes no lock. Cheap to clone; all
/// clones are one.
#[derive(Debug, Clone)]
pub struct Spoken(Arc<AtomicU64>);

impl Spoken {
    /// Says this.
    pub fn new(offer: Offer) -> Self {
        Self(Arc::new(AtomicU64::new(offer.0)))
    }

    /// What is said now.
    pub fn now(&self) -> Offer {
        Offer(self.0.load(Ordering::Relaxed))
    }

    /// Says something else from now on; gives what was said before.
    pub fn change(&self, offer: Offer) -> Offer {
        Offer(self.0.swap(offer.0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_what_the_release_knew_and_survives_being_kept() {
        assert_eq!(Offer::of(Release::new(0, 0, 9)), Offer::NOTHING);
        let first = Offer::of(Release::new(0, 1, 0));
        let text = "orbit_endpoints,token_rotation,end_user_email,muster_notify";
        assert_eq!(first.to_text(), text);
        assert_eq!(Offer::from_text(text), first);
        let newer = format!("{text},something_of_a_later_release");
        assert_eq!(Offer::from_text(&newer), first);
        assert_eq!(Offer::from_text(""), Offer::NOTHING);
    }

    #[test]
    fn offers_are_narrowed_down() {
        let first = Offer::of(Release::new(0, 1, 0));
        let less = first.without(&[Capability::TokenRotation, Capability::EscrowBuddy]);
        assert_eq!(
            less.to_text(),
            "orbit_endpoints,end_user_email,muster_notify"
        );
        assert!(less.is_within(first) && !first.is_within(less));
        let other: Offer = [Capability::TokenRotation, Capability::Notify]
            .into_iter()
            .collect();
        assert_eq!(less.intersection(other).to_text(), "muster_notify");
        assert_eq!(first.on(Family::Device), Offer::NOTHING);
        assert_eq!(first.on(Family::Orbit), first);
    }

    #[test]
    fn all_clones_say_the_same() {
        let spoken = Spoken::new(Offer::NOTHING);
        let first = Offer::of(Release::new(0, 1, 0));
        let clone = spoken.clone();
        assert_eq!(spoken.change(first), Offer::NOTHING);
        assert_eq!(clone.now(), first);
    }
}
