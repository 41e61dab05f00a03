//! Whether two sets are equal, without holding either in memory or looking one up in the other.

use std::hash::{Hash, Hasher};

/// A set as the sum of its items' hashes: equal sets have equal sums, in whatever order they are read, and 128 bits leave no
/// room for chance. Items are ids, which are keyed hashes, and places: nobody outside can choose a collision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    items: u64,
    hashes: u128,
}

impl Sum {
    pub fn add(&mut self, item: &impl Hash) {
        self.items = self.items.wrapping_add(1);
        self.hashes = self.hashes.wrapping_add(number(item));
    }

    /// What is left of the set without the items of `other`.
    pub fn without(self, other: Self) -> Self {
        Self {
            items: self.items.wrapping_sub(other.items),
            hashes: self.hashes.wrapping_sub(other.hashes),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn number(item: &impl Hash) -> u128 {
    let mut wide = Wide(blake3::Hasher::new());
    item.hash(&mut wide);
    let hash = wide.0.finalize();
    hash.as_bytes()
        .first_chunk()
        .map_or(0, |bytes| u128::from_be_bytes(*bytes))
}

/// Takes the bytes of any item that can be hashed.
struct Wide(blake3::Hasher);

impl Hasher for Wide {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        hash.as_bytes()
            .first_chunk()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn of<'a>(items: impl IntoIterator<Item = &'a Vec<u8>>) -> Sum {
        let mut sum = Sum::default();
        items.into_iter().for_each(|item| sum.add(item));
        sum
    }

    proptest! {
        #[test]
        fn sets_are_equal_when_their_sums_are(
            left: BTreeSet<Vec<u8>>,
            right: BTreeSet<Vec<u8>>,
        ) {
            prop_assert_eq!(of(&left) == of(&right), left == right);
            prop_assert_eq!(of(&left), of(left.iter().rev()));
            let rest = of(left.difference(&right));
            prop_assert_eq!(of(&left).without(of(left.intersection(&right))), rest);
            prop_assert_eq!(rest.is_empty(), left.is_subset(&right));
        }
    }
}
