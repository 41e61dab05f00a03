//! Page-aligned, zeroed, fixed-size blocks, each a mapping of its own: one that is dropped is the system's again at once,
//! where an allocator would keep it for a while beside the blocks of other sizes that take its place.

use std::alloc::{Layout, handle_alloc_error};

use memmap2::MmapMut;

use crate::blob::local::ALIGNMENT;

/// A block of zeroed memory that starts on a page.
pub struct Block(MmapMut);

impl Block {
    /// A block of `bytes`, rounded up to whole pages and at least one.
    pub fn new(bytes: usize) -> Self {
        let rounded = bytes.max(1).next_multiple_of(ALIGNMENT);
        match MmapMut::map_anon(rounded) {
            Ok(memory) => Self(memory),
            Err(_) => handle_alloc_error(Layout::array::<u8>(rounded).unwrap_or(Layout::new::<u8>())),
        }
    }

    pub fn capacity(&self) -> usize {
        self.0.len()
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
