//! Brings index and tiers together: at open, and when a tier comes back after a fault.

use crate::{
    CachedFile, Error, Store,
    index::{Index, Row},
    volume::Volume,
};
use forebay_kv::Batch;
use forebay_types::FileId;
use std::sync::Arc;

/// Deletions written at a time.
const DELETIONS: usize = 1024;

impl Store {
    /// Loads the index and drops what has no counterpart on its tier.
    pub(crate) fn load(&self) -> Result<(), Error> {
        let strays = self.load_rows()?;
        for group in strays.chunks(DELETIONS) {
            let mut batch = Batch::default();
            for key in group {
                batch.delete(key.clone());
            }
            self.index().write(&batch)?;
        }
        self.load_pins()?;
        for volume in &self.volumes {
            self.reconcile(volume)?;
        }
        // Nothing is known of their uses: they stand in the order of their keys.
        for file in self.files() {
            let state = file.state.lock();
            if !state.pinned {
                let weight = state.pages.bytes(file.size());
                let volume = Arc::clone(&state.volume);
                drop(state);
                volume.policy.lock().weigh(file.id(), weight);
            }
        }
        let tiers = self.tiers();
        let files: u64 = tiers.iter().map(|tier| tier.files).sum();
        let bytes: u64 = tiers.iter().map(|tier| tier.used).sum();
        tracing::info!(files, bytes, "page store is open");
        for volume in &self.volumes {
            volume.refresh_limit();
        }
        self.signal.raise();
        Ok(())
    }

    /// Makes the files of the index; returns the keys of rows that belong to none.
    fn load_rows(&self) -> Result<Vec<Vec<u8>>, Error> {
        let mut strays = Vec::new();
        let mut current: Option<Arc<CachedFile>> = None;
        for row in self.index().rows() {
            match row? {
                Row::File(id, row) => {
                    let volume = self
                        .volumes
                        .iter()
                        .find(|volume| volume.device().identity == row.tier);
                    let Some(volume) = volume else {
                        // Of a tier that is gone or was replaced.
                        current = None;
                        strays.push(Index::file_key(id));
                        continue;
                    };
                    let file = CachedFile::new(id, row.mount, row.size, Arc::clone(volume));
                    let file = Arc::new(file);
                    {
                        let mut state = file.state.lock();
                        state.created = true;
                        state.recorded = true;
                    }
                    self.insert(Arc::clone(&file));
                    current = Some(file);
                }
                Row::Page(id, page, _) => {
                    let known = current.as_ref().filter(|file| file.id() == id);
                    let taken =
                        known.is_some_and(|file| file.state.lock().add_page(file, page, false));
                    if !taken {
                        strays.push(Index::page_key(id, page));
                    }
                }
                Row::Unknown(key) => strays.push(key),
            }
        }
        Ok(strays)
    }

    fn load_pins(&self) -> Result<(), Error> {
        let mut batch = Batch::default();
        for id in self.index().pins() {
            let id = id?;
            match self.find(id) {
                Some(file) => file.state.lock().pinned = true,
                None => Index::delete_pin(&mut batch, id),
            }
        }
        Ok(self.index().write(&batch)?)
    }

    /// Compares the directory of a tier with the files that should lie there: files that nobody knows are
    /// removed, files without pages and files that are not there are dropped. What remains is unverified.
    ///
    /// Leased files are dropped too: their holders have descriptors of files that may not be the
    /// ones that lie there now.
    pub(crate) fn reconcile(&self, volume: &Arc<Volume>) -> Result<(), Error> {
        let device = volume.device();
        let mut unknown: Vec<FileId> = Vec::new();
        let listed = device.list(|id| {
            let known = self.find(id).is_some_and(|file| {
                let mut state = file.state.lock();
                let here = Arc::ptr_eq(&state.volume, volume)
                    && state.created
                    && state.leases == 0
                    && !state.dead
                    && (state.pages.count() > 0 || state.pinned);
                state.seen = here;
                here
            });
            if !known {
                unknown.push(id);
            }
        });
        let removed = listed.and_then(|()| unknown.iter().try_for_each(|id| device.unlink(*id)));
        removed.map_err(|source| Error::Device {
            dir: volume.dir.clone(),
            source,
        })?;
        let mut dead = Vec::new();
        for file in self.files() {
            let mut state = file.state.lock();
            if !Arc::ptr_eq(&state.volume, volume) || !state.created {
                continue;
            }
            let kept = std::mem::take(&mut state.seen) && (state.pages.count() > 0 || state.pinned);
            if kept {
                state.pages.forget_verified();
                state.disk = std::sync::Weak::new();
            } else {
                dead.extend(state.die(&file));
            }
        }
        if !dead.is_empty() || !unknown.is_empty() {
            tracing::warn!(tier = %volume.dir.display(), without_file = dead.len(), without_row = unknown.len(),
                "cache tier and page index differed");
        }
        self.bury(&dead);
        Ok(())
    }
}
