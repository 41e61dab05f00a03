//! Continuation tokens: the place where a listing goes on, sealed with a key that is kept in the store, so that a
//! token survives a restart and cannot be made up, changed, or used for another listing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use s3s::S3Error;

use crate::limits;
use crate::s3::error::invalid_argument;

const MAC_BYTES: usize = 32;
/// A key, its MAC, and what base64 adds.
const TOKEN_BYTES_MAX: usize = (limits::KEY_BYTES_MAX + MAC_BYTES).div_ceil(3) * 4;

pub(super) struct Tokens {
    key: [u8; 32],
}

/// What the token belongs to: the operation and its bucket (or, of ListBuckets, the caller).
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub operation: &'static str,
    pub of: &'a str,
}

impl Tokens {
    pub(super) fn new(store_secret: &[u8; 32]) -> Self {
        Self {
            key: blake3::derive_key("cairn 2026 continuation tokens", store_secret),
        }
    }

    pub(super) fn seal(&self, scope: Scope<'_>, place: &str) -> String {
        let mut bytes = Vec::with_capacity(MAC_BYTES + place.len());
        bytes.extend_from_slice(self.mac(scope, place.as_bytes()).as_bytes());
        bytes.extend_from_slice(place.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(super) fn open(&self, scope: Scope<'_>, token: &str) -> Result<String, S3Error> {
        self.try_open(scope, token)
            .ok_or_else(|| invalid_argument("The continuation token provided is incorrect."))
    }

    fn try_open(&self, scope: Scope<'_>, token: &str) -> Option<String> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (mac, place) = bytes.split_first_chunk::<MAC_BYTES>()?;
        // blake3 compares its hashes in constant time.
        if self.mac(scope, place) != blake3::Hash::from_bytes(*mac) {
            return None;
        }
        String::from_utf8(place.to_vec()).ok()
    }

    fn mac(&self, scope: Scope<'_>, place: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for field in [scope.operation.as_bytes(), scope.of.as_bytes()] {
            hasher.update(&(field.len() as u64).to_be_bytes());
            hasher.update(field);
        }
        hasher.update(place);
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::{Scope, Tokens};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    const SCOPE: Scope<'static> = Scope {
        operation: "ListObjectsV2",
        of: "media",
    };

    proptest! {
        #[test]
        fn a_token_opens_only_where_it_was_made(place in any::<String>(), at in any::<proptest::sample::Index>(), bit in 0u8..8) {
            let place: String = place.chars().take(200).collect();
            let tokens = Tokens::new(&[7; 32]);
            let token = tokens.seal(SCOPE, &place);
            prop_assert_eq!(Tokens::new(&[7; 32]).open(SCOPE, &token).unwrap(), place);
            prop_assert!(Tokens::new(&[8; 32]).open(SCOPE, &token).is_err());
            let others = [Scope { of: "medi", ..SCOPE }, Scope { operation: "ListBuckets", ..SCOPE }];
            prop_assert!(others.into_iter().all(|other| tokens.open(other, &token).is_err()));
            let mut changed = token.clone().into_bytes();
            let at = at.index(changed.len());
            changed[at] ^= 1 << bit;
            if let Ok(changed) = String::from_utf8(changed) {
                prop_assert!(tokens.open(SCOPE, &changed).is_err());
            }
        }

        #[test]
        fn any_token_is_refused(token in any::<String>(), bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            use base64::Engine;
            let tokens = Tokens::new(&[7; 32]);
            prop_assert!(tokens.open(SCOPE, &token).is_err());
            prop_assert!(tokens.open(SCOPE, &base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)).is_err());
        }
    }

    #[test]
    fn a_key_of_full_length_fits() {
        let tokens = Tokens::new(&[7; 32]);
        let place = "k".repeat(crate::limits::KEY_BYTES_MAX);
        assert_eq!(tokens.open(SCOPE, &tokens.seal(SCOPE, &place)).unwrap(), place);
    }
}
