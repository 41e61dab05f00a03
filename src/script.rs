//! Arbitrary bytes read as a sequence of choices: how a fuzz target builds an input that has a shape. What is behind the
//! end reads as zeros, so that every input is whole.

pub(crate) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (now, later) = self.0.split_at(most.min(self.0.len()));
        self.0 = later;
        now
    }

    pub fn u8(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    pub fn bit(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub fn u64(&mut self) -> u64 {
        let mut wide = [0; 8];
        wide.iter_mut().zip(self.bytes(8)).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(wide)
    }

    /// `usual`, or once in a while another number: a neighbour, one near the end of its range, any.
    pub fn number(&mut self, usual: u64) -> u64 {
        match self.u8() {
            0xFF => self.u64(),
            0xFE => u64::MAX - u64::from(self.u8()),
            0xFD => u64::from(u32::MAX) - u64::from(self.u8()),
            0xFC => usual.wrapping_add(u64::from(self.u8())),
            0xFB => usual.wrapping_sub(u64::from(self.u8())),
            0xFA => u64::from(self.u16()),
            _ => usual,
        }
    }
}

/// What a text parser gets: invalid UTF-8 becomes a text that is valid and odd.
pub(crate) fn text(data: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(data)
}
