//! Background work: eviction down to the low watermark, demotion, promotion, and the health of tiers.

use crate::{
    CachedFile, Store,
    device::{self, Device},
    file::Remains,
    index::Index,
    page::PageSet,
    store::HOLLOW_KEPT,
    tier::Load,
    volume::Volume,
};
use forebay_kv::Batch;
use forebay_types::{FileId, PageIndex, page};
use std::{
    io,
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// Most leased files that one round names.
const LEASED_MOST: usize = 1024;

impl Store {
    /// One round of background work: eviction down to the low watermark, demotion, promotion, and a
    /// probe of tiers that are out of service. Returns the leased files that stand in the way of the low
    /// watermark: their holders should be asked to let go.
    ///
    /// Blocks on disks: call it from a thread that may. Call it when [`Store::needs_maintenance`] says so, and every few
    /// seconds besides, because a directory that vanished is only noticed here.
    pub fn maintain(&self) -> Vec<FileId> {
        let _one = self.maintenance.lock();
        self.signal.lower();
        self.bury_freed();
        self.probe();
        self.drop_hollow();
        let mut leased = Vec::new();
        // Slowest first: what a faster tier demotes needs room there.
        for n in (0..self.volumes.len()).rev() {
            if !self.volumes[n].is_faulty() {
                self.relieve(n, &mut leased);
            }
        }
        self.promote();
        leased
    }

    /// Drops files that were freed while leased, and files that were found missing.
    fn bury_freed(&self) {
        let mut dead = Vec::new();
        let freed = std::mem::take(&mut *self.graveyard.lock());
        for file in freed {
            let mut state = file.state.lock();
            // Whoever leases it now comes by here again.
            if state.leases == 0 && !state.busy {
                dead.extend(state.die(&file));
            }
        }
        for volume in &self.volumes {
            for id in volume.take_lost() {
                dead.extend(self.find(id).and_then(|file| file.condemn()));
            }
        }
        self.bury(&dead);
    }

    /// Takes tiers out of service that are not in their place any more, and those back that work again.
    fn probe(&self) {
        for volume in &self.volumes {
            let device = volume.device();
            if !volume.is_faulty() {
                if device.is_in_place() {
                    continue;
                }
                volume.mark_faulty(&io::Error::other("its directory vanished or was replaced"));
            }
            match device.reopen() {
                Err(error) => volume.mark_faulty(&error),
                Ok(device) => self.take_back(volume, device),
            }
        }
    }

    fn take_back(&self, volume: &Arc<Volume>, device: Device) {
        volume.replace_device(device);
        match self.reconcile(volume) {
            Ok(()) => volume.mark_sound(),
            Err(error) => {
                volume.mark_faulty(&io::Error::other(forebay_types::error::chain(&error)));
            }
        }
    }

    /// Drops the oldest files without pages when there are many.
    fn drop_hollow(&self) {
        let visits = {
            let hollow = self.hollow.lock();
            hollow.len()
        };
        let mut dead = Vec::new();
        for _ in 0..visits {
            let id = {
                let mut hollow = self.hollow.lock();
                if hollow.len() <= HOLLOW_KEPT {
                    break;
                }
                hollow.pop_front()
            };
            let Some(file) = id.and_then(|id| self.find(id)) else {
                continue;
            };
            let mut state = file.state.lock();
            if state.pages.count() > 0 {
                continue;
            }
            if state.may_go() {
                dead.extend(state.die(&file));
            } else if !state.dead && !state.pinned {
                drop(state);
                self.hollow.lock().push_back(file.id());
            }
        }
        self.bury(&dead);
    }

    fn loads(&self) -> Vec<Load> {
        self.volumes.iter().map(|volume| volume.load()).collect()
    }

    /// Brings one tier below its low watermark if it is above the high one, or makes the room that a
    /// writer did not find.
    fn relieve(&self, n: usize, leased: &mut Vec<FileId>) {
        let volume = &self.volumes[n];
        volume.refresh_limit();
        let wanted = volume.take_wanted();
        // A policy may have to go round all files several times before it finds one not in use.
        let rounds = 8 + volume.policy.lock().len() / 100;
        for _ in 0..rounds {
            let need = self.marks.excess(volume.load(), wanted);
            if need == 0 {
                return;
            }
            let victims = volume
                .policy
                .lock()
                .victims(need, &mut |id| self.may_go(id, leased));
            let mut freed = 0;
            let mut dead = Vec::new();
            for id in victims.files {
                if freed >= need {
                    // A demotion was larger than asked for, or the rest is not needed any more.
                    self.keep(volume, id);
                    continue;
                }
                freed += self.displace(n, id, need - freed, &mut dead);
            }
            self.bury(&dead);
            if freed == 0 && !victims.more {
                return;
            }
        }
    }

    /// Whether a file may be a victim; leased ones are noted.
    fn may_go(&self, id: FileId, leased: &mut Vec<FileId>) -> bool {
        let Some(file) = self.find(id) else {
            return true;
        };
        let state = file.state.lock();
        if state.leases > 0 && !state.dead && leased.len() < LEASED_MOST && !leased.contains(&id) {
            leased.push(id);
        }
        state.dead || state.may_go()
    }

    /// Gives a file that its policy had given up back to it.
    fn keep(&self, volume: &Arc<Volume>, id: FileId) {
        let Some(file) = self.find(id) else { return };
        let weight = {
            let state = file.state.lock();
            if state.dead || state.pinned || !Arc::ptr_eq(&state.volume, volume) {
                return;
            }
            state.pages.bytes(file.size())
        };
        if weight > 0 {
            volume.policy.lock().weigh(id, weight);
        }
    }

    /// Demotes or evicts a victim, or as much of it as is needed. Returns the bytes freed.
    fn displace(&self, n: usize, id: FileId, need: u64, dead: &mut Vec<Remains>) -> u64 {
        let volume = &self.volumes[n];
        let Some(file) = self.find(id) else { return 0 };
        let bytes = file.cached_bytes();
        if let Some(to) = self.marks.demotion(&self.loads(), n, bytes)
            && self.relocate(&file, volume, &self.volumes[to])
        {
            self.tally.demoted_files.fetch_add(1, Relaxed);
            return bytes;
        }
        if need < bytes
            && let Some(cut) = self.cut(&file, volume, need)
        {
            return cut;
        }
        let remains = {
            let mut state = file.state.lock();
            let goes = state.may_go() && Arc::ptr_eq(&state.volume, volume);
            if goes { state.die(&file) } else { None }
        };
        let Some(remains) = remains else {
            self.keep(volume, id);
            return 0;
        };
        let pages = u64::from(remains.pages.count());
        self.tally.evicted_pages.fetch_add(pages, Relaxed);
        dead.push(remains);
        bytes
    }

    /// Cuts pages off the end of a file until `need` bytes are free. None: it cannot be done by halves.
    fn cut(&self, file: &Arc<CachedFile>, volume: &Arc<Volume>, need: u64) -> Option<u64> {
        let (id, size) = (file.id(), file.size());
        let pages = {
            let mut state = file.state.lock();
            if !state.may_go() || !Arc::ptr_eq(&state.volume, volume) {
                return None;
            }
            let pages = tail(&state.pages, size, need);
            if pages.len() as u32 == state.pages.count() {
                return None;
            }
            for page in &pages {
                state.drop_page(file, *page);
            }
            // No writer until the holes are made: they would swallow what it writes.
            state.busy = true;
            pages
        };
        let mut batch = Batch::default();
        for page in &pages {
            Index::delete_page(&mut batch, id, *page);
        }
        if let Err(error) = self.index().write(&batch) {
            tracing::warn!(file = %id, %error, "rows of evicted pages remain in the page index");
        }
        let punched = volume.device().open_write(id).and_then(|disk| {
            runs(&pages)
                .into_iter()
                .try_for_each(|run| device::punch(&disk, run))
        });
        let freed = pages.iter().map(|page| page::page_len(size, *page)).sum();
        self.tally
            .evicted_pages
            .fetch_add(pages.len() as u64, Relaxed);
        let rest = self.no_longer_busy(file);
        if let Err(error) = punched {
            // No holes on this file system: the whole file has to go.
            tracing::debug!(file = %id, %error, "cannot punch a hole");
            return None;
        }
        volume.policy.lock().spare(id, rest);
        Some(freed)
    }

    /// Lets writers in again; returns the bytes of present pages.
    fn no_longer_busy(&self, file: &Arc<CachedFile>) -> u64 {
        let mut state = file.state.lock();
        state.busy = false;
        if state.doomed && state.leases == 0 {
            self.graveyard.lock().push(Arc::clone(file));
            self.signal.raise();
        }
        state.pages.bytes(file.size())
    }

    /// Moves a file to another tier: copy, row, switch, unlink. A lease taken meanwhile stops it: its holder
    /// has a descriptor of the old file, and may fill it.
    fn relocate(&self, file: &Arc<CachedFile>, from: &Arc<Volume>, to: &Arc<Volume>) -> bool {
        let (id, size) = (file.id(), file.size());
        let (pages, bytes) = {
            let mut state = file.state.lock();
            let bytes = state.pages.bytes(size);
            if !state.may_go()
                || state.doomed
                || !Arc::ptr_eq(&state.volume, from)
                || !to.reserve(bytes)
            {
                return false;
            }
            state.busy = true;
            (state.pages.clone(), bytes)
        };
        let copied = copy_pages(file, &pages, from, to);
        let moved = copied && {
            let mut state = file.state.lock();
            let mut batch = Batch::default();
            Index::put_file(&mut batch, id, file.row(to));
            let free_to_go = state.leases == 0 && !state.dead && !state.doomed && !state.pinned;
            if free_to_go && !to.is_faulty() && self.index().write(&batch).is_ok() {
                from.pages_left(bytes, true);
                to.page_came(bytes, true);
                state.volume = Arc::clone(to);
                state.disk = std::sync::Weak::new();
                state.uses = 0;
                true
            } else {
                false
            }
        };
        to.unreserve(bytes);
        let leftover = if moved { from } else { to };
        if let Err(error) = leftover.device().unlink(id) {
            leftover.fail(error, 0);
        }
        if moved {
            from.policy.lock().remove(id);
            to.policy.lock().weigh(id, bytes);
        }
        self.no_longer_busy(file);
        moved
    }

    /// Moves files that were used often to faster tiers that have room.
    fn promote(&self) {
        let hot = std::mem::take(&mut *self.hot.lock());
        let mut candidates = Vec::new();
        for file in hot.into_iter().filter_map(|id| self.find(id)) {
            let state = file.state.lock();
            let bytes = state.pages.bytes(file.size());
            let from = self
                .volumes
                .iter()
                .position(|volume| Arc::ptr_eq(volume, &state.volume));
            if let Some(from) = from
                && state.may_go()
                && state.serves()
                && bytes > 0
            {
                candidates.push((file.id(), from, bytes));
            }
        }
        for (id, to) in self.marks.promotions(&self.loads(), &candidates) {
            let Some(file) = self.find(id) else { continue };
            let from = Arc::clone(&file.state.lock().volume);
            if self.relocate(&file, &from, &self.volumes[to]) {
                self.tally.promoted_files.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Copies the present pages of a file; stops when somebody leases it.
fn copy_pages(file: &CachedFile, pages: &PageSet, from: &Volume, to: &Volume) -> bool {
    let (id, size) = (file.id(), file.size());
    let source = match from.device().open_read(id) {
        Ok(source) => source,
        Err(error) => {
            from.fail_open(id, error);
            return false;
        }
    };
    let copied = to.device().create(id, size).and_then(|target| {
        for page in pages.iter() {
            if file.state.lock().leases > 0 {
                return Ok(false);
            }
            device::copy(&source, &target, page::bytes_of(page..page + 1, size))?;
        }
        Ok(true)
    });
    match copied {
        Ok(all) => all,
        Err(error) => {
            // Either side can be at fault; the next use of each tells which.
            tracing::warn!(file = %id, from = %from.dir.display(), to = %to.dir.display(), %error,
                "cached file could not be moved");
            false
        }
    }
}

/// The last pages that together have `need` bytes or more, last one first.
fn tail(pages: &PageSet, size: u64, need: u64) -> Vec<PageIndex> {
    let mut got = 0;
    pages
        .iter()
        .rev()
        .take_while(|page| {
            let more = got < need;
            got += page::page_len(size, *page);
            more
        })
        .collect()
}

/// Descending pages as runs.
fn runs(pages: &[PageIndex]) -> Vec<Range<PageIndex>> {
    let mut runs: Vec<Range<PageIndex>> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some(run) if run.start == page + 1 => run.start = *page,
            _ => runs.push(*page..page + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::PAGE_SIZE;

    #[test]
    fn the_end_of_a_file_goes_first() {
        let mut pages = PageSet::new(6);
        for page in [0, 1, 3, 4, 5] {
            pages.insert(page, true);
        }
        let size = 5 * PAGE_SIZE + 10;
        assert_eq!(tail(&pages, size, 1), [5]);
        assert_eq!(tail(&pages, size, 11), [5, 4]);
        assert_eq!(tail(&pages, size, u64::MAX), [5, 4, 3, 1, 0]);
        assert_eq!(runs(&tail(&pages, size, u64::MAX)), [3..6, 0..2]);
    }
}
