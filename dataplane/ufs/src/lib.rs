//! Under stores: the remote systems that own the data.
//!
//! [`UnderStore`] is the only door to them: S3 and its kin, GCS, Azure, local directories, and
//! memory for tests, all held to one conformance suite. Keys are raw strings of bytes, exactly as
//! the store has them; what a file system cannot show is the caller's to sort out, never an error
//! here. The crate never writes to an under store (yet) and never logs a credential.

use async_trait::async_trait;
use bytes::Bytes;
pub use config::{OPTIONS, OptionSpec, UnderStores, open};
use forebay_types::{Code, Fingerprint};
use futures::stream::BoxStream;
use std::{ops::Range, sync::Arc};

pub mod config;
pub mod conformance;
mod counter;
pub mod local;
pub mod memory;
mod object;
mod retry;
mod s3;
mod uri;

/// What a listing says of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The key, relative to the mount's URI, no leading `/`.
    pub key: Bytes,
    /// Size, modification time and etag.
    pub fingerprint: Fingerprint,
    /// Modification time for people, nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
}

/// One piece of a listing. Pieces of a parallel listing come in no particular order; the entries
/// within one piece are in the store's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Keys. When a directory is listed: those directly in it (and the key equal to the prefix
    /// itself, if there is one: a folder marker).
    pub objects: Vec<Object>,
    /// When a directory is listed: the keys below it, cut after the next `/`, slash included.
    pub prefixes: Vec<Bytes>,
}

/// How far a listing reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// One directory: stop at the next `/`.
    Directory,
    /// Everything below.
    Recursive,
}

/// A ranged read that has begun.
pub struct Body {
    /// What the store said of the object in this very answer.
    pub fingerprint: Fingerprint,
    /// The bytes, in order, exactly as many as asked for, in pieces as they arrive. An error in
    /// the middle has been retried as far as the budget goes.
    pub bytes: BoxStream<'static, Result<Bytes>>,
}

/// An under store, addressed relative to its mount's URI.
#[async_trait]
pub trait UnderStore: Send + Sync + 'static {
    /// Lists the keys that begin with `prefix` (empty, or ending in `/` for a directory).
    /// Backed by parallel range listings where the store can; memory stays bounded.
    fn list(&self, prefix: &[u8], depth: Depth) -> BoxStream<'static, Result<ListPage>>;

    /// What the store has under `key` now.
    async fn stat(&self, key: &[u8]) -> Result<Object>;

    /// Reads the bytes `range` of `key` on the condition that it still has the `expected`
    /// fingerprint (`If-Match` or the store's equivalent); [`Code::Stale`] if not. The range must
    /// lie within the object and not be empty.
    async fn read(&self, key: &[u8], range: Range<u64>, expected: &Fingerprint) -> Result<Body>;

    /// Fails with a clear message if the store cannot be used: wrong credentials, no such bucket,
    /// no such directory, unreachable.
    async fn probe(&self) -> Result<()>;

    /// As [`UnderStore::probe`], for somebody who asks every few seconds: at the least cost, whatever the store holds, and
    /// without repetition where the store itself repeats. Also fails if objects may be listed but not read.
    async fn alive(&self) -> Result<()> {
        self.probe().await
    }

    /// Requests sent so far.
    fn requests(&self) -> Requests;
}

/// Counters of requests to an under store since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// List requests.
    pub list: u64,
    /// Metadata requests.
    pub stat: u64,
    /// Ranged reads.
    pub read: u64,
    /// Requests sent again after a transient failure.
    pub retried: u64,
    /// Body bytes received.
    pub bytes: u64,
}

/// A failed call to an under store.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind.
    pub code: Code,
    /// What failed, at which store and key; one line; no credential.
    pub message: String,
    /// The cause, if a library gave one.
    #[source]
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with the library's error that caused it.
    pub fn caused(
        code: Code,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        Error {
            code,
            message: message.into(),
            source: Some(Arc::new(source)),
        }
    }

    /// An error without a further cause.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
            source: None,
        }
    }

    /// Its kind.
    pub fn code(&self) -> Code {
        self.code
    }
}

/// The result of an under-store call.
pub type Result<T, E = Error> = std::result::Result<T, E>;
