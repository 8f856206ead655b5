//! Writes pages as their bytes come.

use crate::{CachedFile, Error, Lease, Store, device, index::Index, volume::Volume};
use forebay_kv::Batch;
use forebay_types::{PAGE_SIZE, PageIndex, page};
use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

/// Writes contiguous bytes into a file, from a page boundary on; each page becomes present
/// when its last byte is in. Keeps the file like a lease does.
///
/// Pages that are present already are passed over: their bytes are right.
pub struct PageWriter {
    store: Arc<Store>,
    volume: Arc<Volume>,
    disk: File,
    /// Where the next byte goes.
    position: u64,
    /// CRC32C of the current page up to here.
    crc: u32,
    /// The current page was present when its turn came.
    skip: bool,
    /// Bytes of the current page may be on the disk.
    dirty: bool,
    /// It failed, and takes no more.
    failed: bool,
    /// Bytes still promised by the tier.
    reserved: u64,
    lease: Lease,
}

impl PageWriter {
    /// For [`Store::writer`], which reserved `reserved` bytes on `volume`.
    pub(crate) fn new(
        store: Arc<Store>,
        volume: Arc<Volume>,
        lease: Lease,
        disk: File,
        first: PageIndex,
        reserved: u64,
    ) -> PageWriter {
        PageWriter {
            store,
            volume,
            disk,
            position: u64::from(first) * PAGE_SIZE,
            crc: 0,
            skip: false,
            dirty: false,
            failed: false,
            reserved,
            lease,
        }
    }

    /// Writes the next bytes. After an error the pages complete so far remain, and the writer
    /// takes no more.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Busy(self.file().id()));
        }
        let written = self.try_write(bytes);
        self.failed = written.is_err();
        written
    }

    fn try_write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        let size = self.file().size();
        while !bytes.is_empty() {
            if self.position >= size {
                return Err(Error::PastEnd(self.file().id()));
            }
            let page = (self.position / PAGE_SIZE) as PageIndex;
            let end = (u64::from(page) * PAGE_SIZE) + page::page_len(size, page);
            if self.position.is_multiple_of(PAGE_SIZE) {
                self.begin(page, end - self.position)?;
            }
            let here = bytes.len().min((end - self.position) as usize);
            let (now, later) = bytes.split_at(here);
            if !self.skip {
                self.dirty = true;
                self.disk
                    .write_all_at(now, self.position)
                    .map_err(|error| self.volume.fail(error, page::page_len(size, page)))?;
                self.crc = crc32c::crc32c_append(self.crc, now);
            }
            if self.position + here as u64 == end {
                self.finish(page)?;
            }
            self.position += here as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Bytes of the file up to here (exclusive) have been written.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn file(&self) -> &Arc<CachedFile> {
        self.lease.file()
    }

    /// Before the first byte of a page of `len` bytes.
    fn begin(&mut self, page: PageIndex, len: u64) -> Result<(), Error> {
        self.skip = {
            let state = self.file().state.lock();
            state.check(self.file().id())?;
            state.pages.contains(page)
        };
        self.crc = 0;
        if !self.skip && self.reserved < len {
            let more = len - self.reserved;
            if !self.volume.reserve(more) {
                self.volume.want(more);
                return Err(Error::NoSpace(more));
            }
            self.reserved = len;
        }
        Ok(())
    }

    /// After the last byte of a page: its row, then its bit.
    fn finish(&mut self, page: PageIndex) -> Result<(), Error> {
        if std::mem::take(&mut self.skip) {
            return Ok(());
        }
        let file = self.file();
        let (id, size) = (file.id(), file.size());
        let recorded = {
            let state = file.state.lock();
            state.check(id)?;
            state.recorded
        };
        let mut batch = Batch::default();
        if !recorded {
            Index::put_file(&mut batch, id, file.row(&self.volume));
        }
        Index::put_page(&mut batch, id, page, self.crc);
        self.store.index().write(&batch)?;
        let weight = {
            let mut state = file.state.lock();
            state.check(id)?;
            state.recorded = true;
            state.add_page(file, page, true);
            (!state.pinned).then(|| state.pages.bytes(size))
        };
        if let Some(weight) = weight {
            self.volume.policy.lock().weigh(id, weight);
        }
        self.dirty = false;
        let len = page::page_len(size, page).min(self.reserved);
        self.reserved -= len;
        self.volume.unreserve(len);
        Ok(())
    }
}

impl Drop for PageWriter {
    fn drop(&mut self) {
        self.volume.unreserve(self.reserved);
        let mut state = self.lease.file().state.lock();
        state.writers -= 1;
        let page = (self.position / PAGE_SIZE) as PageIndex;
        // Half a page counts nowhere: its blocks go back. Not beside another writer, which may be
        // at the same page; none can begin under the lock.
        if self.dirty && state.writers == 0 && !state.pages.contains(page) {
            // Failing that, the blocks stay until the page is filled or the file goes.
            let _ = device::punch(&self.disk, page..page + 1);
        }
    }
}
