//! The error of every remote call.

use forebay_types::Code;

/// A failed call to a master or worker.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind, as the other side gave it or as the transport's failure maps to it.
    pub code: Code,
    /// One line: what failed, where.
    pub message: String,
}

impl Error {
    /// An error of a kind.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
        }
    }

    /// Its kind.
    pub fn code(&self) -> Code {
        self.code
    }
}

/// The result of a remote call.
pub type Result<T> = std::result::Result<T, Error>;
