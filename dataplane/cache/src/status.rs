//! What the store tells of itself.

use forebay_types::Medium;
use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// State of one tier.
#[derive(Clone, Debug)]
pub struct TierStatus {
    /// Medium.
    pub medium: Medium,
    /// Directory.
    pub dir: PathBuf,
    /// Quota in bytes.
    pub quota: u64,
    /// Bytes of present pages.
    pub used: u64,
    /// Files.
    pub files: u64,
    /// Why it does not serve, if it does not.
    pub fault: Option<String>,
}

/// Counters since the store was opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Pages evicted.
    pub evicted_pages: u64,
    /// Pages whose checksum was wrong.
    pub corrupt_pages: u64,
    /// Files moved to a faster tier.
    pub promoted_files: u64,
    /// Files moved to a slower tier.
    pub demoted_files: u64,
}

/// The live counters.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) evicted_pages: AtomicU64,
    pub(crate) corrupt_pages: AtomicU64,
    pub(crate) promoted_files: AtomicU64,
    pub(crate) demoted_files: AtomicU64,
}

impl Tally {
    pub(crate) fn read(&self) -> Counters {
        Counters {
            evicted_pages: self.evicted_pages.load(Relaxed),
            corrupt_pages: self.corrupt_pages.load(Relaxed),
            promoted_files: self.promoted_files.load(Relaxed),
            demoted_files: self.demoted_files.load(Relaxed),
        }
    }
}
