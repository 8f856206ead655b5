//! What a server was asked for, counted.

use serde::{Deserialize, Serialize};
use std::{
    ops::Sub,
    sync::atomic::{AtomicU64, Ordering},
};

/// The operations that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// `GetObject`.
    Get,
    /// `HeadObject`.
    Head,
    /// `ListObjectsV2`.
    List,
    /// `PutObject`.
    Put,
    /// `DeleteObject`.
    Delete,
    /// `HeadBucket`, `ListBuckets`.
    Bucket,
}

/// Requests with a good signature since the server began, by operation, and what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// `GetObject`.
    pub get: u64,
    /// `HeadObject`.
    pub head: u64,
    /// `ListObjectsV2`.
    pub list: u64,
    /// `PutObject`.
    pub put: u64,
    /// `DeleteObject`.
    pub delete: u64,
    /// `HeadBucket`, `ListBuckets`.
    pub bucket: u64,
    /// Requests of any operation that a fault struck.
    pub struck: u64,
    /// Body bytes of objects handed to the network.
    pub bytes: u64,
}

impl Stats {
    /// All requests together.
    pub fn requests(&self) -> u64 {
        self.get + self.head + self.list + self.put + self.delete + self.bucket
    }
}

impl Sub for Stats {
    type Output = Stats;

    fn sub(self, earlier: Stats) -> Stats {
        Stats {
            get: self.get - earlier.get,
            head: self.head - earlier.head,
            list: self.list - earlier.list,
            put: self.put - earlier.put,
            delete: self.delete - earlier.delete,
            bucket: self.bucket - earlier.bucket,
            struck: self.struck - earlier.struck,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    ops: [AtomicU64; 6],
    struck: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    pub(super) fn request(&self, op: Op) {
        self.ops[op as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn struck(&self) {
        self.struck.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> Stats {
        let op = |op: Op| self.ops[op as usize].load(Ordering::Relaxed);
        Stats {
            get: op(Op::Get),
            head: op(Op::Head),
            list: op(Op::List),
            put: op(Op::Put),
            delete: op(Op::Delete),
            bucket: op(Op::Bucket),
            struck: self.struck.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}
