//! The tiered page store: one sparse file per (inode, content version) on a tier, a page bitmap
//! in memory, and a row with a CRC32C per page in the index.
//!
//! It is not: a fetcher (the worker's fills write here), nor a network service. Decisions (which
//! tier, what to evict, what to move) are pure functions in `policy`, `admission` and `tier`;
//! [`Store`] executes them. Invariants: a page is in the bitmap only if all its bytes were
//! written and its row is in the index; a leased file is neither moved, unlinked nor punched; bytes of
//! two content versions never lie in one file.
//!
//! Nothing is ever flushed. After every open of the store all pages count as unverified: their
//! checksum is compared before their first use ([`Store::verify`]), so a crash at any point, also
//! of the machine, costs pages and never serves a wrong byte.

mod account;
mod admission;
mod config;
mod device;
mod error;
mod file;
mod index;
mod lease;
mod maintain;
mod map;
mod page;
mod policy;
mod recover;
mod signal;
mod status;
mod store;
mod tier;
mod verify;
mod volume;
mod writer;

pub use account::{HomeRule, MountBytes};
pub use config::{PolicyKind, StoreConfig, TierConfig};
pub use error::Error;
pub use file::CachedFile;
pub use lease::Lease;
pub use status::{Counters, TierStatus};
pub use store::Store;
pub use writer::PageWriter;
