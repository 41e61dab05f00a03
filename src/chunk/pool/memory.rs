//! The one place where the pool touches raw memory: page-aligned, zeroed, fixed-size blocks.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use crate::blob::local::ALIGNMENT;

/// A block of zeroed memory that starts on a page.
pub struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a block owns its memory alone and hands it out only through `&self` and `&mut self`.
unsafe impl Send for Block {}
// SAFETY: as above; shared access is read-only.
unsafe impl Sync for Block {}

impl Block {
    /// A block of `bytes`, rounded up to whole pages and at least one.
    pub fn new(bytes: usize) -> Self {
        let rounded = bytes.max(1).next_multiple_of(ALIGNMENT);
        // The sizes are the pool's classes, all far below isize::MAX, and the alignment is a power of two.
        #[allow(clippy::expect_used)]
        let layout = Layout::from_size_align(rounded, ALIGNMENT).expect("a pool class is a valid layout");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => Self { start, layout },
            None => handle_alloc_error(layout),
        }
    }

    pub fn capacity(&self) -> usize {
        self.layout.size()
    }

    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the allocation is `layout.size()` bytes, initialised by alloc_zeroed, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}
