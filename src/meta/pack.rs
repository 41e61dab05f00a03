//! `pack` rows: the state and the placement of a pack.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::meta::record::{Malformed, Reader, UnknownFields, Writer};

const RECORD: &str = "pack";
const FORMAT: u8 = 1;
const TAG_CONDEMNED: u8 = 1;
const TAG_BYTES: u8 = 2;
const TAG_OTHER: u8 = 3;

/// A pack's life, from `Pending` to `Active` and then downward only (invariant I4); the numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PackState {
    /// Chunk rows may come to point to it.
    Active = 1,
    /// Its live records are being moved; no chunk row comes to point to it any more.
    Evacuating = 2,
    /// No chunk row points to it; its file is deleted once the restore window lets it go.
    Condemned = 3,
    /// It is being put into the cloud, or was; no chunk row points to it yet.
    Pending = 4,
}

impl PackState {
    pub const ALL: [Self; 4] = [Self::Active, Self::Evacuating, Self::Condemned, Self::Pending];
}

/// How the copies of a pack are laid out; the numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Layout {
    Single = 0,
}

/// Where the file is; the numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Backend {
    /// `packs/` of the data directory.
    Local = 0,
    /// The place that `cloud.url` names.
    Cloud = 1,
}

impl Backend {
    pub const ALL: [Self; 2] = [Self::Local, Self::Cloud];

    fn from_u8(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| *backend as u8 == byte)
    }
}

/// A `pack` row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackRow {
    pub state: PackState,
    pub layout: Layout,
    /// One for each copy or stripe of the layout.
    pub placement: Vec<Backend>,
    pub created: Timestamp,
    /// When it was condemned.
    pub condemned: Option<Timestamp>,
    /// Of a pack that is, or is to be, in the cloud, where nobody asks for lengths at a start: its bytes.
    pub bytes: Option<u64>,
    /// Where a second copy may be, whole or not, while the pack moves from one backend to the other.
    pub other: Option<Backend>,
    pub unknown: UnknownFields,
}

impl PackRow {
    /// A pack in the data directory.
    pub fn local(created: Timestamp) -> Self {
        Self {
            state: PackState::Active,
            layout: Layout::Single,
            placement: vec![Backend::Local],
            created,
            condemned: None,
            bytes: None,
            other: None,
            unknown: UnknownFields::default(),
        }
    }

    /// A pack of so many bytes that is about to be put into the cloud.
    pub fn pending(created: Timestamp, bytes: u64) -> Self {
        Self {
            state: PackState::Pending,
            placement: vec![Backend::Cloud],
            bytes: Some(bytes),
            ..Self::local(created)
        }
    }

    pub fn backend(&self) -> Backend {
        self.placement.first().copied().unwrap_or(Backend::Local)
    }

    /// Whether the cloud may have a copy, whole or not.
    pub fn may_be_in_cloud(&self) -> bool {
        self.backend() == Backend::Cloud || self.other == Some(Backend::Cloud)
    }

    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT);
        writer
            .u8(self.state as u8)
            .u64(self.created.unix_ms())
            .u8(self.layout as u8);
        writer.varint(self.placement.len() as u64);
        for backend in &self.placement {
            writer.u8(*backend as u8);
        }
        if let Some(condemned) = self.condemned {
            writer.field(TAG_CONDEMNED, &condemned.unix_ms().to_le_bytes());
        }
        if let Some(bytes) = self.bytes {
            writer.field(TAG_BYTES, &bytes.to_le_bytes());
        }
        if let Some(other) = self.other {
            writer.field(TAG_OTHER, &[other as u8]);
        }
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let byte = reader.u8()?;
        let state = PackState::ALL
            .into_iter()
            .find(|state| *state as u8 == byte)
            .ok_or_else(|| reader.malformed("unknown state"))?;
        let created = Timestamp::from_unix_ms(reader.u64()?);
        if reader.u8()? != Layout::Single as u8 {
            return Err(reader.malformed("unknown layout"));
        }
        let mut placement = Vec::new();
        for _ in 0..reader.varint()? {
            let backend = Backend::from_u8(reader.u8()?);
            placement.push(backend.ok_or_else(|| reader.malformed("unknown backend"))?);
        }
        let (mut condemned, mut length, mut other) = (None, None, None);
        let mut unknown = UnknownFields::default();
        while let Some((tag, bytes)) = reader.field()? {
            match tag {
                TAG_CONDEMNED => {
                    condemned = Some(Timestamp::from_unix_ms(Reader::bare(RECORD, bytes).u64()?));
                }
                TAG_BYTES => length = Some(Reader::bare(RECORD, bytes).u64()?),
                TAG_OTHER => {
                    let backend = Backend::from_u8(Reader::bare(RECORD, bytes).u8()?);
                    other = Some(backend.ok_or_else(|| reader.malformed("unknown backend"))?);
                }
                _ => unknown.keep(tag, bytes),
            }
        }
        Ok(Self {
            state,
            layout: Layout::Single,
            placement,
            created,
            condemned,
            bytes: length,
            other,
            unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::record::tests::unknown_fields;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pack_rows_round_trip(
            state in prop::sample::select(PackState::ALL.to_vec()),
            created in any::<u64>(),
            placement in prop::collection::vec(prop::sample::select(Backend::ALL.to_vec()), 0..4),
            condemned in any::<Option<u64>>(),
            bytes in any::<Option<u64>>(),
            other in prop::option::of(prop::sample::select(Backend::ALL.to_vec())),
            unknown in unknown_fields(),
        ) {
            let (created, condemned) = (Timestamp::from_unix_ms(created), condemned.map(Timestamp::from_unix_ms));
            let row = PackRow { state, layout: Layout::Single, placement, created, condemned, bytes, other, unknown };
            prop_assert_eq!(PackRow::decode(row.encode()).unwrap(), row);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = PackRow::decode(Bytes::from(bytes));
        }
    }
}
