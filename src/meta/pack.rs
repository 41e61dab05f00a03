//! `pack` rows: the state and the placement of a pack.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::meta::record::{Malformed, Reader, UnknownFields, Writer};

const RECORD: &str = "pack";
const FORMAT: u8 = 1;
const TAG_CONDEMNED: u8 = 1;

/// A pack's life, downward only (invariant I4); the numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PackState {
    /// Chunk rows may come to point to it.
    Active = 1,
    /// Its live records are being moved; no chunk row comes to point to it any more.
    Evacuating = 2,
    /// No chunk row points to it; its file is deleted once the restore window lets it go.
    Condemned = 3,
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
            unknown: UnknownFields::default(),
        }
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
        self.unknown.write(&mut writer);
        writer.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::open(RECORD, FORMAT, bytes)?;
        let byte = reader.u8()?;
        let state = [PackState::Active, PackState::Evacuating, PackState::Condemned]
            .into_iter()
            .find(|state| *state as u8 == byte)
            .ok_or_else(|| reader.malformed("unknown state"))?;
        let created = Timestamp::from_unix_ms(reader.u64()?);
        if reader.u8()? != Layout::Single as u8 {
            return Err(reader.malformed("unknown layout"));
        }
        let mut placement = Vec::new();
        for _ in 0..reader.varint()? {
            if reader.u8()? != Backend::Local as u8 {
                return Err(reader.malformed("unknown backend"));
            }
            placement.push(Backend::Local);
        }
        let (mut condemned, mut unknown) = (None, UnknownFields::default());
        while let Some((tag, bytes)) = reader.field()? {
            if tag == TAG_CONDEMNED {
                condemned = Some(Timestamp::from_unix_ms(Reader::bare(RECORD, bytes).u64()?));
            } else {
                unknown.keep(tag, bytes);
            }
        }
        Ok(Self {
            state,
            layout: Layout::Single,
            placement,
            created,
            condemned,
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
            state in prop::sample::select(vec![PackState::Active, PackState::Evacuating, PackState::Condemned]),
            created in any::<u64>(),
            copies in 0usize..4,
            condemned in any::<Option<u64>>(),
            unknown in unknown_fields(),
        ) {
            let created = Timestamp::from_unix_ms(created);
            let row = PackRow { state, layout: Layout::Single, placement: vec![Backend::Local; copies], created, condemned: condemned.map(Timestamp::from_unix_ms), unknown };
            prop_assert_eq!(PackRow::decode(row.encode()).unwrap(), row);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = PackRow::decode(Bytes::from(bytes));
        }
    }
}
