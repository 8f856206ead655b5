//! What can go wrong in the store.

use forebay_types::{Code, FileId};
use std::path::PathBuf;

/// An error of the store. Readers never see one: the caller goes to another source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No tier has room now.
    #[error("no tier has room for {0} bytes")]
    NoSpace(u64),
    /// A tier's directory failed.
    #[error("tier {dir} failed")]
    Device {
        /// Which.
        dir: PathBuf,
        /// How.
        #[source]
        source: std::io::Error,
    },
    /// The index failed.
    #[error("page index failed")]
    Index(#[from] forebay_kv::Error),
    /// The configuration cannot be; the text says what to do.
    #[error("{0}")]
    Config(String),
    /// The file is being dropped, or moved to another tier, at this moment.
    #[error("cached file {0} is being dropped or moved, ask again later")]
    Busy(FileId),
    /// The store has nothing of the file.
    #[error("file {0} is not in the cache")]
    Unknown(FileId),
    /// More bytes were written than the file has.
    #[error("write past the end of cached file {0}")]
    PastEnd(FileId),
}

impl Error {
    /// The kind.
    pub fn code(&self) -> Code {
        match self {
            Error::NoSpace(_) => Code::NoSpace,
            Error::Device { .. } => Code::Unavailable,
            Error::Index(_) => Code::Corrupt,
            Error::Config(_) | Error::PastEnd(_) => Code::InvalidArgument,
            Error::Busy(_) => Code::Busy,
            Error::Unknown(_) => Code::NotFound,
        }
    }
}
