//! RocksDB's errors as those of the trait.

use forebay_kv::Error;
use std::io;

/// By kind; RocksDB tells a full disk only in its message.
pub(crate) fn mapped(error: rocksdb::Error) -> Error {
    let full = error.as_ref().contains("No space left on device")
        || error.as_ref().contains("Disk quota exceeded");
    match error.kind() {
        _ if full => Error::NoSpace(error.into()),
        rocksdb::ErrorKind::Corruption => Error::Corrupt(error.into()),
        _ => Error::Failed(error.into()),
    }
}

/// Of the file system around the database.
pub(crate) fn io_failed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace(error.into()),
        _ => Error::Failed(error.into()),
    }
}
