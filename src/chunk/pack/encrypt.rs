//! Records that are encrypted on their way in.

use crate::chunk::cipher::{Envelope, Key, Purpose};
use crate::chunk::codec::Codec;
use crate::chunk::pack::NewRecord;
use crate::chunk::record::{RecordHeader, associated};

impl NewRecord {
    /// Encrypts what is stored of the chunk with its domain's data key: in place what a codec made, into a buffer of its own
    /// what is stored as it came, since others hold that.
    pub fn encrypt(&mut self, key: &Key) {
        let mut envelope = Envelope::fresh();
        self.envelope = Some(envelope);
        let header = self.header().encode();
        let associated = associated(&header);
        match &mut self.encoded {
            Some((_, stored)) => key.seal_in_place(Purpose::Record, &mut envelope, associated, stored),
            None => {
                let mut stored = vec![0; self.raw.len()];
                key.seal(Purpose::Record, &mut envelope, associated, &self.raw, &mut stored);
                self.encoded = Some((Codec::Raw, stored));
            }
        }
        self.envelope = Some(envelope);
    }

    /// Its header, the CRC not computed yet.
    pub(super) fn header(&self) -> RecordHeader {
        let (codec, payload_len) = match &self.encoded {
            Some((codec, stored)) => (*codec, stored.len()),
            None => (Codec::Raw, self.raw.len()),
        };
        RecordHeader {
            domain: self.domain,
            id: self.id,
            codec,
            raw_len: self.raw.len() as u32,
            payload_len: payload_len as u32,
            written_at: self.written_at,
            payload_crc: 0,
            envelope: self.envelope,
        }
    }
}
