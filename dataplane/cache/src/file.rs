//! A file of the store and what is known of its pages.

use crate::{Error, account::Homes, index::FileRow, page::PageSet, volume::Volume};
use forebay_types::{FileId, Medium, MountId, PageIndex, page};
use parking_lot::Mutex;
use std::{
    fs::File,
    io,
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

/// A file of the store: the sparse file and what is known of its pages.
///
/// Under a lease it keeps its place and its pages. Without one it may be dropped or moved at any time; a
/// dropped file has no pages any more. A descriptor got from [`CachedFile::file`] stays readable for as
/// long as it is held, whatever happens to the store.
pub struct CachedFile {
    id: FileId,
    size: u64,
    mount: MountId,
    /// The extents that have their first home here ([`Homes`]). Changed under the lock of `state`.
    homes: AtomicU32,
    pub(crate) state: Mutex<State>,
}

/// What changes about a file. There are millions of these: it is kept small.
pub(crate) struct State {
    /// The tier; fixed once the sparse file was made, but for moves.
    pub(crate) volume: Arc<Volume>,
    pub(crate) pages: PageSet,
    /// The descriptor for readers, while anybody holds it.
    pub(crate) disk: Weak<File>,
    pub(crate) leases: u32,
    /// Writers among them.
    pub(crate) writers: u16,
    /// Uses since it came to this tier.
    pub(crate) uses: u16,
    /// Never evicted.
    pub(crate) pinned: bool,
    /// The sparse file was made.
    pub(crate) created: bool,
    /// The file's row is in the index.
    pub(crate) recorded: bool,
    /// No longer in the store.
    pub(crate) dead: bool,
    /// To be dropped after the last lease.
    pub(crate) doomed: bool,
    /// Being moved or cut: takes no writer now.
    pub(crate) busy: bool,
    /// Found in its directory, while a directory is compared with the index.
    pub(crate) seen: bool,
    /// A wrong checksum was logged.
    pub(crate) warned: bool,
}

/// What a file that left the store leaves to be cleared away.
pub(crate) struct Remains {
    pub(crate) file: Arc<CachedFile>,
    pub(crate) volume: Arc<Volume>,
    pub(crate) pages: PageSet,
    pub(crate) created: bool,
    pub(crate) recorded: bool,
    pub(crate) pinned: bool,
    /// Bytes of the pages it had.
    pub(crate) bytes: u64,
}

impl CachedFile {
    /// A file without pages.
    pub(crate) fn new(id: FileId, mount: MountId, size: u64, volume: Arc<Volume>) -> CachedFile {
        CachedFile {
            id,
            size,
            mount,
            homes: AtomicU32::new(0),
            state: Mutex::new(State {
                volume,
                pages: PageSet::new(page::page_count(size)),
                disk: Weak::new(),
                leases: 0,
                writers: 0,
                uses: 0,
                pinned: false,
                created: false,
                recorded: false,
                dead: false,
                doomed: false,
                busy: false,
                seen: false,
                warned: false,
            }),
        }
    }

    /// Its key.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The mount it belongs to.
    pub fn mount(&self) -> MountId {
        self.mount
    }

    pub(crate) fn homes(&self) -> Homes {
        Homes(self.homes.load(Relaxed))
    }

    /// For who holds the lock of its state, or alone has the file.
    pub(crate) fn set_homes(&self, homes: Homes) {
        self.homes.store(homes.0, Relaxed);
    }

    /// Where it lies.
    pub fn medium(&self) -> Medium {
        self.state.lock().volume.medium
    }

    /// Bytes of present pages.
    pub fn cached_bytes(&self) -> u64 {
        self.state.lock().pages.bytes(self.size)
    }

    /// Whether it is pinned.
    pub fn is_pinned(&self) -> bool {
        self.state.lock().pinned
    }

    /// Whether every page is present. A file of no bytes always is. Never true while its tier is out
    /// of service, or once it was dropped.
    pub fn is_whole(&self) -> bool {
        let state = self.state.lock();
        state.pages.is_full() && state.serves()
    }

    /// Whether every present page's checksum was compared since the store was opened.
    pub fn is_verified(&self) -> bool {
        self.state.lock().pages.is_verified()
    }

    /// The runs of missing pages within a range; all of them while its tier is out of service.
    pub fn missing(&self, pages: Range<PageIndex>) -> Vec<Range<PageIndex>> {
        let state = self.state.lock();
        if state.serves() {
            return state.pages.missing(pages);
        }
        let all = pages.start..pages.end.min(state.pages.pages());
        if all.is_empty() {
            Vec::new()
        } else {
            vec![all]
        }
    }

    /// The sparse file, open for reading; made if it is not there yet. One descriptor is shared by all who
    /// hold it, and closed after the last of them.
    pub fn file(&self) -> Result<Arc<File>, Error> {
        let mut state = self.state.lock();
        if let Some(open) = state.disk.upgrade() {
            return Ok(open);
        }
        state.check(self.id)?;
        if !state.created {
            state.create(self.id, self.size)?;
        }
        let opened = state
            .volume
            .device()
            .open_read(self.id)
            .map_err(|error| state.volume.fail_open(self.id, error))?;
        let open = Arc::new(opened);
        state.disk = Arc::downgrade(&open);
        Ok(open)
    }

    /// Its row in the index.
    pub(crate) fn row(&self, volume: &Volume) -> FileRow {
        FileRow {
            mount: self.mount,
            size: self.size,
            tier: volume.device().identity,
        }
    }

    /// Takes the file out of the store unless it is already; the caller clears the remains away.
    pub(crate) fn condemn(self: &Arc<Self>) -> Option<Remains> {
        self.state.lock().die(self)
    }
}

impl State {
    /// Whether what it holds may be used.
    pub(crate) fn serves(&self) -> bool {
        !self.dead && !self.volume.is_faulty()
    }

    /// Why it does not serve.
    pub(crate) fn check(&self, id: FileId) -> Result<(), Error> {
        if self.dead {
            return Err(Error::Busy(id));
        }
        if self.volume.is_faulty() {
            return Err(Error::Device {
                dir: self.volume.dir.clone(),
                source: io::Error::other("tier is out of service"),
            });
        }
        Ok(())
    }

    /// Whether eviction may take it.
    pub(crate) fn may_go(&self) -> bool {
        !self.dead && !self.pinned && !self.busy && self.leases == 0
    }

    /// Makes the sparse file.
    pub(crate) fn create(&mut self, id: FileId, size: u64) -> Result<File, Error> {
        let file = self
            .volume
            .device()
            .create(id, size)
            .map_err(|error| self.volume.fail(error, 0))?;
        self.created = true;
        Ok(file)
    }

    /// Counts a page in; `false` if it was there.
    pub(crate) fn add_page(&mut self, file: &CachedFile, page: PageIndex, verified: bool) -> bool {
        let came = self.pages.insert(page, verified);
        if came {
            let first = self.pages.count() == 1;
            let bytes = page::page_len(file.size, page);
            self.volume.page_came(bytes, first);
            self.volume.accounts.page_came(file, page, bytes);
        }
        came
    }

    /// Counts a page out; `false` if it was not there.
    pub(crate) fn drop_page(&mut self, file: &CachedFile, page: PageIndex) -> bool {
        let left = self.pages.remove(page);
        if left {
            let last = self.pages.count() == 0;
            let bytes = page::page_len(file.size, page);
            self.volume.pages_left(bytes, last);
            self.volume.accounts.page_left(file, page, bytes);
        }
        left
    }

    /// Takes the file out of the store; see [`CachedFile::condemn`].
    pub(crate) fn die(&mut self, file: &Arc<CachedFile>) -> Option<Remains> {
        if self.dead {
            return None;
        }
        self.dead = true;
        let empty = PageSet::new(self.pages.pages());
        let pages = std::mem::replace(&mut self.pages, empty);
        let bytes = pages.bytes(file.size);
        if pages.count() > 0 {
            self.volume.pages_left(bytes, true);
            self.volume.accounts.pages_left(file, &pages, bytes);
        }
        Some(Remains {
            file: Arc::clone(file),
            volume: Arc::clone(&self.volume),
            pages,
            created: self.created,
            recorded: self.recorded,
            pinned: self.pinned,
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_small_in_memory() {
        assert!(size_of::<CachedFile>() <= 96, "{}", size_of::<CachedFile>());
    }
}
