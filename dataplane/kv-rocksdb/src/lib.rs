//! The key-value trait over RocksDB; the only crate that links it.
