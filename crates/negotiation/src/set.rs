//! Sets of capabilities as they are said on an exchange.

use std::collections::BTreeSet;

use crate::Capability;

/// How many bytes of a header are read; what follows is ignored.
pub const MAX_HEADER_BYTES: usize = 8 * 1024;
/// How many names are kept; what follows is ignored.
pub const MAX_NAMES: usize = 64;
/// The longest name that is kept, in bytes; longer ones are ignored.
pub const MAX_NAME_BYTES: usize = 64;

/// What a peer said that it can do. Names that we do not know are kept; the order has no meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapabilitySet {
    names: BTreeSet<String>,
}

impl CapabilitySet {
    /// A peer that said nothing.
    pub const fn empty() -> Self {
        Self {
            names: BTreeSet::new(),
        }
    }

    /// Reads the values of all headers of that name. Never fails: what cannot be a name is ignored, and what exceeds
    /// the limits too. Spaces around names are forgiven.
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut names = BTreeSet::new();
        let mut left = MAX_HEADER_BYTES;
        for value in values {
            // The limit may fall into a name: what is left of it would be another name, perhaps one that means something.
            let whole = value.len() <= left;
            let value = &value[..value.len().min(left)];
            left -= value.len();
            let complete = if whole {
                value.len()
            } else {
                value.iter().rposition(|byte| *byte == b',').unwrap_or(0)
            };
            for name in value[..complete]
                .split(|byte| *byte == b',')
                .map(<[u8]>::trim_ascii)
            {
                let printable = name.iter().all(|byte| (0x21..0x7f).contains(byte));
                if name.is_empty()
                    || name.len() > MAX_NAME_BYTES
                    || !printable
                    || names.len() == MAX_NAMES
                {
                    continue;
                }
                names.insert(String::from_utf8_lossy(name).into_owned());
            }
        }
        Self { names }
    }

    /// Reads what [`to_header_value`](Self::to_header_value) wrote, as it is kept in databases.
    pub fn from_text(text: &str) -> Self {
        Self::parse([text.as_bytes()])
    }

    /// Whether the peer can do this.
    pub fn has(&self, capability: Capability) -> bool {
        self.names.contains(capability.name())
    }

    /// Whether the peer said nothing.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// All names, those that we do not know included, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// What both say: what may be relied on while processes of several releases answer in turn.
    pub fn intersection(&self, other: &Self) -> Self {
        Self {
            names: self.names.intersection(&other.names).cloned().collect(),
        }
    }

    /// The header's value: known names in the registry's order, then the others; one comma between, no spaces, since
    /// the readers that are out there do not trim.
    pub fn to_header_value(&self) -> String {
        let known = Capability::ALL.iter().map(|capability| capability.name());
        let known: Vec<&str> = known.filter(|name| self.names.contains(*name)).collect();
        let others = self
            .names()
            .filter(|name| Capability::by_name(name).is_none());
        known
            .iter()
            .copied()
            .chain(others)
            .collect::<Vec<_>>()
            .join(",")
    }
}

impl FromIterator<Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        Self {
            names: capabilities
                .into_iter()
                .map(|capability| capability.name().to_owned())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(value: &str) -> CapabilitySet {
        CapabilitySet::parse([value.as_bytes()])
    }

    #[test]
    fn order_and_repetition_have_no_meaning() {
        assert_eq!(
            parse("escrow_buddy,setup_experience"),
            parse("setup_experience,escrow_buddy,escrow_buddy")
        );
        let two = CapabilitySet::parse([b"a".as_slice(), b"b".as_slice()]);
        assert_eq!(two, parse("a,b"));
    }

    #[test]
    fn what_is_not_a_name_is_ignored() {
        assert!(parse("").is_empty() && parse(" , ,,").is_empty());
        assert_eq!(
            parse("a b, token_rotation ,\u{e9}").to_header_value(),
            "token_rotation"
        );
        assert!(
            !parse("TOKEN_ROTATION").has(Capability::TokenRotation),
            "names are written in lower case"
        );
        assert!(parse(&"x".repeat(MAX_NAME_BYTES + 1)).is_empty());
    }

    #[test]
    fn limits_hold_for_hostile_headers() {
        let many = (0..10_000)
            .map(|number| format!("name_{number}"))
            .collect::<Vec<_>>()
            .join(",");
        assert!(parse(&many).names().count() <= MAX_NAMES);
        let long = format!("{},token_rotation", "x,".repeat(MAX_HEADER_BYTES));
        assert!(!parse(&long).has(Capability::TokenRotation));
    }

    #[test]
    fn a_name_that_the_limit_cuts_is_no_shorter_name() {
        let name = Capability::TokenRotation.name();
        let filler = ",".repeat(MAX_HEADER_BYTES - name.len());
        assert!(parse(&format!("{filler}{name}")).has(Capability::TokenRotation));
        assert!(parse(&format!("{filler}{name}_not_this_one")).is_empty());
        let values = [filler.as_bytes(), b"token_rotation_x", b"end_user_email"];
        assert!(CapabilitySet::parse(values).is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_within_the_limits(values in proptest::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let set = CapabilitySet::parse(values.iter().map(Vec::as_slice));
            prop_assert!(set.names().count() <= MAX_NAMES);
            prop_assert!(set.names().all(|name| name.len() <= MAX_NAME_BYTES));
            prop_assert_eq!(&parse(&set.to_header_value()), &set);
        }

        #[test]
        fn what_is_written_reads_the_same(names in proptest::collection::vec("[a-z_]{1,20}", 0..MAX_NAMES)) {
            let set = parse(&names.join(","));
            prop_assert_eq!(&set, &parse(&set.to_header_value()));
            prop_assert!(!set.to_header_value().contains(' '));
            for name in names {
                prop_assert!(set.names().any(|kept| kept == name), "unknown names survive");
            }
        }
    }
}
