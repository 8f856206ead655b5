//! What is measured, and how much of it.

use clap::ValueEnum;
use serde::Serialize;
use std::time::Duration;

/// Rows that are measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Sequential reads of 1 MiB.
    Seq,
    /// 4 KiB random direct reads.
    Rand,
    /// Open, read and close of many small files.
    Small,
    /// stat by path.
    Stat,
    /// Names of a directory.
    List,
    /// First read of a large object.
    FirstRead,
    /// `forebay fs load` of many small objects.
    Load,
    /// Bytes fetched per byte asked for.
    Amplification,
    /// Resident memory.
    Memory,
    /// Metadata of three masters.
    Masters,
}

impl Group {
    /// The groups that read what is in the cache.
    pub(super) const CACHED: [Group; 5] = [
        Group::Seq,
        Group::Rand,
        Group::Small,
        Group::Stat,
        Group::List,
    ];
}

/// How much is measured.
#[derive(Clone, Debug, Serialize)]
pub struct Scale {
    /// Rounds of each side.
    pub rounds: usize,
    /// Bytes of a large file.
    pub large: u64,
    /// Small files in the one directory.
    pub files: u64,
    /// Bytes of a small file.
    pub file_size: u64,
    /// How long random reads go on.
    pub random: Duration,
    /// How long passes over warm caches are repeated, at least.
    pub warm: Duration,
    /// Random reads of an uncached object.
    pub sparse_reads: u64,
    /// Files of the scan.
    pub scan_files: u64,
    /// Readers at a time, each of a large file of its own.
    pub readers: u64,
    /// Bytes of each of those files.
    pub reader_size: u64,
    /// Files made with 32 in flight.
    pub creates: u64,
    /// Lookups, and as many getattrs.
    pub lookups: u64,
    /// Files of the directory that is listed whole.
    pub directory: u64,
}

impl Scale {
    /// The table of the promise.
    pub fn full() -> Scale {
        Scale {
            rounds: 5,
            large: 1 << 30,
            files: 10_000,
            file_size: 110_000,
            random: Duration::from_secs(3),
            warm: Duration::from_millis(500),
            sparse_reads: 256,
            scan_files: 100_000,
            readers: 16,
            reader_size: 256 << 20,
            creates: 100_000,
            lookups: 400_000,
            directory: 1_000_000,
        }
    }

    /// A small sample that shows that everything works; its figures mean little.
    pub fn quick() -> Scale {
        Scale {
            rounds: 3,
            large: 64 << 20,
            files: 500,
            file_size: 110_000,
            random: Duration::from_millis(300),
            warm: Duration::from_millis(50),
            sparse_reads: 32,
            scan_files: 5_000,
            readers: 16,
            reader_size: 8 << 20,
            creates: 3_200,
            lookups: 5_000,
            directory: 10_000,
        }
    }

    /// Bytes of all small files together.
    pub(super) fn small(&self) -> u64 {
        self.files * self.file_size
    }
}
