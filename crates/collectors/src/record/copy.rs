//! What is copied when it is changed, and not before.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A value of which copies are the same until one of them is changed. Most messages change nothing of what is kept of their
/// agent, and each is looked at on a copy.
#[derive(Debug, Clone)]
pub struct CopyOnWrite<T>(Arc<T>);

impl<T: Clone> CopyOnWrite<T> {
    /// The value, copied when others have it too.
    pub fn into_inner(self) -> T {
        Arc::unwrap_or_clone(self.0)
    }
}

impl<T> From<T> for CopyOnWrite<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T> Deref for CopyOnWrite<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for CopyOnWrite<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T: PartialEq> PartialEq for CopyOnWrite<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_same_until_it_is_changed_and_the_other_stays_as_it_was() {
        let first = CopyOnWrite::from(vec![1, 2]);
        let mut second = first.clone();
        assert_eq!(second.len(), 2);
        assert!(Arc::ptr_eq(&first.0, &second.0) && first == second);
        second.push(3);
        assert_eq!(
            (first.as_slice(), second.into_inner()),
            ([1, 2].as_slice(), vec![1, 2, 3])
        );
    }
}
