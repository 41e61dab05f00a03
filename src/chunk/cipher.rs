//! AES-256-GCM over single payloads. `docs/encryption.md` has the keys and the reasons.
//!
//! No key encrypts two things: each gets a key of its own, derived from 64 random bits, and 96 random bits of nonce.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use zeroize::Zeroizing;

pub const KEY_BYTES: usize = 32;
const REFERENCE_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// What a box has beside its content.
pub const BOX_BYTES: usize = REFERENCE_BYTES + NONCE_BYTES + TAG_BYTES;

/// What a key is used for. One that opens the one never opens another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// The store's key, under a master key.
    Store = 1,
    /// A domain's keys, under the store's.
    Domain = 2,
    /// The payload of a record, under its domain's data key.
    Record = 3,
    /// The body of a small object, under its domain's data key.
    Body = 4,
}

/// A secret key. It shows itself to nobody and is overwritten when it goes.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(hidden)")
    }
}

/// What has to be known besides the key to open what it sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// From which the payload's own key is derived.
    pub reference: [u8; REFERENCE_BYTES],
    pub nonce: [u8; NONCE_BYTES],
    pub tag: [u8; TAG_BYTES],
}

impl Envelope {
    /// For a payload that is to be sealed.
    pub fn fresh() -> Self {
        Self {
            reference: random(),
            nonce: random(),
            tag: [0; TAG_BYTES],
        }
    }
}

/// The bytes are not what was sealed with this key, under this envelope and these associated data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it fails its cipher's tag")]
pub struct Forged;

impl Key {
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub fn random() -> Self {
        Self::new(random())
    }

    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Encrypts `plain` into `out`, which has its length, and sets the envelope's tag. The rest of `envelope` is fresh.
    pub fn seal(&self, purpose: Purpose, envelope: &mut Envelope, associated: &[u8], plain: &[u8], out: &mut [u8]) {
        let nonce = Nonce::assume_unique_for_key(envelope.nonce);
        let sealed = self.derived(purpose, &envelope.reference).and_then(|key| {
            key.seal_out_of_place_scatter(nonce, Aad::from(associated), plain, out, &[], &mut envelope.tag)
        });
        sealed_or_nothing(sealed);
    }

    /// As `seal`, where the plaintext stands.
    pub fn seal_in_place(&self, purpose: Purpose, envelope: &mut Envelope, associated: &[u8], bytes: &mut [u8]) {
        let nonce = Nonce::assume_unique_for_key(envelope.nonce);
        let sealed = self
            .derived(purpose, &envelope.reference)
            .and_then(|key| key.seal_in_place_scatter(nonce, Aad::from(associated), bytes, &[], &mut envelope.tag));
        sealed_or_nothing(sealed);
    }

    /// Decrypts `bytes` where they stand. After a failure they are worth nothing.
    pub fn open(
        &self,
        purpose: Purpose,
        envelope: &Envelope,
        associated: &[u8],
        bytes: &mut [u8],
    ) -> Result<(), Forged> {
        let nonce = Nonce::assume_unique_for_key(envelope.nonce);
        let key = self.derived(purpose, &envelope.reference).map_err(|_| Forged)?;
        key.open_in_place_separate_tag(nonce, Aad::from(associated), &envelope.tag, bytes)
            .map_err(|_| Forged)?;
        Ok(())
    }

    /// `plain` as one string of bytes with its envelope: reference, nonce, tag, ciphertext.
    pub fn seal_box(&self, purpose: Purpose, associated: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut envelope = Envelope::fresh();
        let mut boxed = vec![0; BOX_BYTES + plain.len()];
        let Some((head, out)) = boxed.split_at_mut_checked(BOX_BYTES) else {
            return boxed;
        };
        self.seal(purpose, &mut envelope, associated, plain, out);
        let fields = envelope.reference.iter().chain(&envelope.nonce).chain(&envelope.tag);
        head.iter_mut().zip(fields).for_each(|(to, from)| *to = *from);
        boxed
    }

    /// What `seal_box` was given.
    pub fn open_box(&self, purpose: Purpose, associated: &[u8], boxed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Forged> {
        let (reference, rest) = boxed.split_first_chunk().ok_or(Forged)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or(Forged)?;
        let (tag, rest) = rest.split_first_chunk().ok_or(Forged)?;
        let envelope = Envelope {
            reference: *reference,
            nonce: *nonce,
            tag: *tag,
        };
        let mut plain = Zeroizing::new(rest.to_vec());
        self.open(purpose, &envelope, associated, &mut plain)?;
        Ok(plain)
    }

    /// The key of one payload: BLAKE3 of purpose and reference, keyed.
    fn derived(&self, purpose: Purpose, reference: &[u8; REFERENCE_BYTES]) -> Result<LessSafeKey, Unspecified> {
        let mut name = [0; 1 + REFERENCE_BYTES];
        let parts = std::iter::once(purpose as u8).chain(*reference);
        name.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        let key = Zeroizing::new(*blake3::keyed_hash(&self.0, &name).as_bytes());
        Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key)?))
    }
}

/// A payload that cannot be sealed must not be stored as it is, and there is no reason why it could not be.
#[allow(clippy::expect_used)]
fn sealed_or_nothing(outcome: Result<(), Unspecified>) {
    outcome.expect("AES-256-GCM of some MiB, into a buffer of the right length");
}

/// Without entropy there are no secret keys, and without them no store.
#[allow(clippy::expect_used)]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system's random source");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_cipher_is_frozen() {
        let mut envelope = Envelope {
            reference: *b"referenc",
            nonce: [7; 12],
            tag: [0; 16],
        };
        let mut bytes = *b"what is sealed";
        Key::new([1; 32]).seal_in_place(Purpose::Record, &mut envelope, b"header", &mut bytes);
        let told = hex::encode(bytes) + &hex::encode(envelope.tag);
        assert_eq!(told, FROZEN);
    }
    const FROZEN: &str = "92d3e7a3edc1ea7e9076234c63c5f31244c90f7c9f2ef56450214bd00960";

    #[test]
    fn a_key_does_not_show_itself() {
        assert_eq!(format!("{:?}", Key::new([0x41; 32])), "Key(hidden)");
    }

    #[test]
    fn nothing_is_sealed_twice_alike() {
        let key = Key::random();
        let boxes: std::collections::HashSet<Vec<u8>> = (0..1000)
            .map(|_| key.seal_box(Purpose::Body, b"", b"same")[..20].to_vec())
            .collect();
        assert_eq!(boxes.len(), 1000);
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_only_so(
            plain in prop::collection::vec(any::<u8>(), 0..300),
            associated in prop::collection::vec(any::<u8>(), 0..200),
            bit in any::<prop::sample::Index>(),
        ) {
            let key = Key::random();
            let boxed = key.seal_box(Purpose::Body, &associated, &plain);
            prop_assert_eq!(boxed.len(), BOX_BYTES + plain.len());
            prop_assert_eq!(&**key.open_box(Purpose::Body, &associated, &boxed).unwrap(), &plain[..]);
            prop_assert_eq!(key.open_box(Purpose::Domain, &associated, &boxed), Err(Forged));
            prop_assert_eq!(Key::random().open_box(Purpose::Body, &associated, &boxed), Err(Forged));
            let mut other = associated.clone();
            other.push(0);
            prop_assert_eq!(key.open_box(Purpose::Body, &other, &boxed), Err(Forged));
            let mut flipped = boxed.clone();
            let bit = bit.index(boxed.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(key.open_box(Purpose::Body, &associated, &flipped), Err(Forged));
            prop_assert_eq!(key.open_box(Purpose::Body, &associated, &boxed[..boxed.len() - 1]), Err(Forged));
        }

        #[test]
        fn both_ways_to_seal_open_alike(plain in prop::collection::vec(any::<u8>(), 1..300)) {
            let key = Key::random();
            let (mut first, mut second) = (Envelope::fresh(), Envelope::fresh());
            let (mut out, mut in_place) = (vec![0; plain.len()], plain.clone());
            key.seal(Purpose::Record, &mut first, b"header", &plain, &mut out);
            key.seal_in_place(Purpose::Record, &mut second, b"header", &mut in_place);
            for (envelope, mut sealed) in [(first, out), (second, in_place)] {
                prop_assert!(plain.len() < 16 || sealed != plain);
                key.open(Purpose::Record, &envelope, b"header", &mut sealed).unwrap();
                prop_assert_eq!(&sealed, &plain);
            }
        }
    }
}
