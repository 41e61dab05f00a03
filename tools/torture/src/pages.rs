//! A file's bytes as sparse 4 KiB pages that clones share.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

pub const PAGE_BYTES: u64 = 4096;
pub const SECTOR_BYTES: u64 = 512;

type Page = [u8; PAGE_BYTES as usize];

#[derive(Clone, Default)]
pub struct Pages {
    pub size: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Pages {
    /// Writes without touching the size: whoever calls decides whether the file grew.
    pub fn write(&mut self, offset: u64, mut data: &[u8]) {
        let mut at = offset;
        while !data.is_empty() {
            let within = (at % PAGE_BYTES) as usize;
            let (now, later) = data.split_at(data.len().min(PAGE_BYTES as usize - within));
            let page = self
                .pages
                .entry(at / PAGE_BYTES)
                .or_insert_with(|| Arc::new([0; PAGE_BYTES as usize]));
            if let Some(target) = Arc::make_mut(page).get_mut(within..within + now.len()) {
                target.copy_from_slice(now);
            }
            at += now.len() as u64;
            data = later;
        }
    }

    pub fn zero(&mut self, offset: u64, length: u64) {
        let end = offset.saturating_add(length);
        let touched: Vec<u64> = self
            .pages
            .range(offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES))
            .map(|(index, _)| *index)
            .collect();
        for index in touched {
            let from = offset.max(index * PAGE_BYTES);
            let to = end.min((index + 1) * PAGE_BYTES);
            if to - from == PAGE_BYTES {
                self.pages.remove(&index);
            } else {
                self.write(from, &vec![0; (to - from) as usize]);
            }
        }
    }

    /// Sets the size; bytes beyond it are gone.
    pub fn resize(&mut self, size: u64) {
        self.zero(size, u64::MAX - size);
        self.size = size;
    }

    pub fn load(file: &File) -> io::Result<Self> {
        let mut pages = Self {
            size: file.metadata()?.len(),
            ..Self::default()
        };
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            let length = file.read_at(&mut buffer, at)?;
            let data = buffer.get(..length).unwrap_or_default();
            if data.is_empty() {
                return Ok(pages);
            }
            for (index, chunk) in data.chunks(PAGE_BYTES as usize).enumerate() {
                if chunk.iter().any(|byte| *byte != 0) {
                    pages.write(at + index as u64 * PAGE_BYTES, chunk);
                }
            }
            at += length as u64;
        }
    }

    /// Writes the file with holes for the pages that are not there.
    pub fn store(&self, file: &File) -> io::Result<()> {
        let mut run: Vec<u8> = Vec::new();
        let mut run_at = 0;
        for (index, page) in &self.pages {
            let at = index * PAGE_BYTES;
            if run_at + run.len() as u64 != at || run.len() >= 1 << 20 {
                file.write_all_at(&run, run_at)?;
                run.clear();
                run_at = at;
            }
            run.extend_from_slice(page.as_slice());
        }
        file.write_all_at(&run, run_at)?;
        file.set_len(self.size)
    }

    /// Whether both hold the same bytes.
    pub fn same(&self, other: &Self) -> bool {
        const ZERO: Page = [0; PAGE_BYTES as usize];
        let covered = |one: &Self, two: &Self| {
            one.pages
                .iter()
                .all(|(index, page)| two.pages.get(index).map_or(&ZERO, |page| page) == page.as_ref())
        };
        self.size == other.size && covered(self, other) && covered(other, self)
    }
}
