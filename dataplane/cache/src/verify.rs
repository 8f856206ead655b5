//! Proves pages against their checksums before their first use.

use crate::{CachedFile, Error, Store, device, index::Index};
use forebay_kv::Batch;
use forebay_types::{PageIndex, page};
use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// Bytes read at a time.
const VERIFY_CHUNK: u64 = 1 << 18;

impl Store {
    /// Compares the checksums of unverified pages in `pages`; drops the wrong ones (they count as
    /// missing from then on). Cheap when nothing is unverified.
    pub fn verify(&self, file: &Arc<CachedFile>, pages: Range<PageIndex>) -> Result<(), Error> {
        let todo = {
            let mut state = file.state.lock();
            let todo = state.pages.unverified(pages);
            if todo.is_empty() {
                return Ok(());
            }
            state.check(file.id())?;
            // Keeps the pages in place meanwhile.
            state.leases += 1;
            todo
        };
        let result = self.verify_pages(file, &todo);
        self.release(file);
        result
    }

    fn verify_pages(&self, file: &Arc<CachedFile>, pages: &[PageIndex]) -> Result<(), Error> {
        let (id, size) = (file.id(), file.size());
        let disk = file.file()?;
        let mut buffer = vec![0; VERIFY_CHUNK.min(size) as usize];
        for page in pages {
            let expected = self.index().page(id, *page)?;
            let found = checksum(&disk, page::bytes_of(*page..page + 1, size), &mut buffer);
            match found {
                Ok(found) if Some(found) == expected => {
                    file.state.lock().pages.mark_verified(*page);
                }
                Ok(_) => self.drop_wrong(file, *page),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.drop_wrong(file, *page);
                }
                Err(error) => {
                    self.drop_wrong(file, *page);
                    let volume = Arc::clone(&file.state.lock().volume);
                    return Err(volume.fail(error, 0));
                }
            }
        }
        Ok(())
    }

    /// Drops a page that is not what its row says.
    fn drop_wrong(&self, file: &Arc<CachedFile>, page: PageIndex) {
        let id = file.id();
        let mut state = file.state.lock();
        if !state.pages.is_unverified(page) {
            return;
        }
        self.tally.corrupt_pages.fetch_add(1, Relaxed);
        if !state.warned {
            state.warned = true;
            tracing::warn!(file = %id, page, tier = %state.volume.dir.display(),
                "cached page has a wrong checksum, dropped");
        }
        // Row and bytes go before the bit and under the lock: once the bit is clear, another fill may
        // write the page.
        let mut batch = Batch::default();
        Index::delete_page(&mut batch, id, page);
        if let Err(error) = self.index().write(&batch) {
            tracing::warn!(file = %id, page, %error, "row of a wrong page remains");
        }
        let punched = state
            .volume
            .device()
            .open_write(id)
            .and_then(|disk| device::punch(&disk, page..page + 1));
        if let Err(error) = punched {
            tracing::warn!(file = %id, page, %error, "bytes of a wrong page remain");
        }
        state.drop_page(file, page);
        let volume = Arc::clone(&state.volume);
        let rest = state.pages.bytes(file.size());
        let pinned = state.pinned;
        drop(state);
        if rest == 0 {
            volume.policy.lock().remove(id);
            self.note_hollow(id);
        } else if !pinned {
            volume.policy.lock().weigh(id, rest);
        }
    }
}

/// The CRC32C of a range of a file.
fn checksum(disk: &File, range: Range<u64>, buffer: &mut [u8]) -> io::Result<u32> {
    let mut crc = 0;
    let mut at = range.start;
    while at < range.end {
        let part = buffer.len().min((range.end - at) as usize);
        disk.read_exact_at(&mut buffer[..part], at)?;
        crc = crc32c::crc32c_append(crc, &buffer[..part]);
        at += part as u64;
    }
    Ok(crc)
}
