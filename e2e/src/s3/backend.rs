//! Where objects are kept.

use super::{Content, Listing, Query};
use std::time::SystemTime;

/// What a store says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of content.
    pub size: u64,
    /// Last change.
    pub mtime: SystemTime,
    /// Entity tag, without quotes; another one for every content.
    pub etag: String,
}

/// An object, and its bytes as they are now: what happens to the key later does not change them.
#[derive(Clone, Debug)]
pub struct Found {
    /// What the store says of it.
    pub meta: Meta,
    /// Its bytes.
    pub content: Content,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// No bucket of that name.
    #[error("no such bucket")]
    Bucket,
    /// No object under that key.
    #[error("no such key")]
    Key,
    /// The backend cannot be written to.
    #[error("read-only")]
    ReadOnly,
}

/// Where objects are kept.
pub trait Backend: Send + Sync + 'static {
    /// Whether calls may block on a disk.
    fn blocks(&self) -> bool;

    /// The names of all buckets, in order.
    fn buckets(&self) -> Vec<String>;

    /// What the store says of `key`.
    fn head(&self, bucket: &str, key: &str) -> Result<Meta, Missing>;

    /// Opens `key` for reading.
    fn open(&self, bucket: &str, key: &str) -> Result<Found, Missing>;

    /// One page of a listing.
    fn list(&self, bucket: &str, query: &Query) -> Result<Listing, Missing>;

    /// Stores an object, in place of any older one under the key.
    fn put(&self, bucket: &str, key: &str, content: Content) -> Result<Meta, Missing>;

    /// Removes an object; nothing happens if there is none.
    fn delete(&self, bucket: &str, key: &str) -> Result<(), Missing>;
}
