//! Counters of requests, shared by the calls that run at the same time.

use crate::Requests;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The live form of [`Requests`].
#[derive(Debug, Default)]
pub(crate) struct Counter {
    list: AtomicU64,
    stat: AtomicU64,
    read: AtomicU64,
    retried: AtomicU64,
    bytes: AtomicU64,
}

impl Counter {
    pub(crate) fn list(&self) {
        self.list.fetch_add(1, Relaxed);
    }

    pub(crate) fn stat(&self) {
        self.stat.fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self) {
        self.read.fetch_add(1, Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.retried.fetch_add(1, Relaxed);
    }

    pub(crate) fn bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Relaxed);
    }

    pub(crate) fn get(&self) -> Requests {
        Requests {
            list: self.list.load(Relaxed),
            stat: self.stat.load(Relaxed),
            read: self.read.load(Relaxed),
            retried: self.retried.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }
}
