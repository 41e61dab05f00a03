//! A growable buffer whose bytes begin at a multiple of 4,096, as O_DIRECT wants it.

use super::frame::BLOCK_BYTES;

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Page([u8; BLOCK_BYTES]);

const ZERO: Page = Page([0; BLOCK_BYTES]);

pub(super) struct AlignedBuffer {
    pages: Vec<Page>,
    len: usize,
}

impl AlignedBuffer {
    pub fn new() -> Self {
        Self {
            pages: Vec::new(),
            len: 0,
        }
    }

    /// `bytes` zeros.
    pub fn zeroed(bytes: usize) -> Self {
        Self {
            pages: vec![ZERO; bytes.div_ceil(BLOCK_BYTES)],
            len: bytes,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Makes the buffer `bytes` zeros long, keeping at most `keep_bytes` of memory for the next use.
    pub fn reset(&mut self, bytes: usize, keep_bytes: usize) {
        if self.pages.len() * BLOCK_BYTES > keep_bytes {
            self.pages = Vec::new();
        }
        self.len = 0;
        self.extend(bytes, |target| target.fill(0));
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.extend(bytes.len(), |target| target.copy_from_slice(bytes));
    }

    /// Fills the last page up with zeros.
    pub fn pad(&mut self) {
        let missing = self.len.next_multiple_of(BLOCK_BYTES) - self.len;
        self.extend(missing, |target| target.fill(0));
    }

    pub fn as_slice(&self) -> &[u8] {
        self.all().get(..self.len).unwrap_or_default()
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let len = self.len;
        self.all_mut().get_mut(..len).unwrap_or_default()
    }

    fn extend(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) {
        let end = self.len + bytes;
        let pages = end.div_ceil(BLOCK_BYTES);
        if pages > self.pages.len() {
            self.pages.resize(pages, ZERO);
        }
        let start = self.len;
        if let Some(target) = self.all_mut().get_mut(start..end) {
            fill(target);
        }
        self.len = end;
    }

    fn all(&self) -> &[u8] {
        // SAFETY: a `Page` is exactly BLOCK_BYTES initialized bytes without padding, and the vector owns that many.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast::<u8>(), self.pages.len() * BLOCK_BYTES) }
    }

    fn all_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `all`; the borrow of `self` is exclusive, and every byte pattern is a valid `Page`.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_mut_ptr().cast::<u8>(), self.pages.len() * BLOCK_BYTES) }
    }
}
