//! A daemon's directory: which format, which cluster, whose; one process at a time.

use crate::config::ConfigError;
use std::path::{Path, PathBuf};

/// An open data directory; the lock lasts as long as the value.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// Opens or makes `path` for a daemon of kind `role` (`master`, `worker`, `local`). Refuses one
    /// that another process has open, another role made, or a newer format made.
    pub fn open(_path: &Path, _role: &str) -> Result<DataDir, ConfigError> {
        todo!()
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster that it belongs to, once known.
    pub fn cluster(&self) -> Option<String> {
        todo!()
    }

    /// Records the cluster; refuses if it belongs to another one.
    pub fn bind(&self, _cluster: &str) -> Result<(), ConfigError> {
        todo!()
    }
}
