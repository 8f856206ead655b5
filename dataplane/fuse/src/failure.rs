//! Why a request fails: the errno that the caller gets, and a line for the log.

use forebay_types::Code;

/// A failed request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The Linux errno.
    pub errno: i32,
    /// What failed.
    pub message: String,
}

impl Failure {
    /// No attribute of that name.
    pub const NO_DATA: i32 = 61;
    /// A name over 255 bytes.
    pub const NAME_TOO_LONG: i32 = 36;

    /// A failure with an errno of its own.
    pub fn new(errno: i32, message: impl Into<String>) -> Failure {
        Failure {
            errno,
            message: message.into(),
        }
    }

    /// A failure of a kind.
    pub fn of(code: Code, message: impl Into<String>) -> Failure {
        Failure {
            errno: code.errno(),
            message: message.into(),
        }
    }
}

impl From<forebay_client::Error> for Failure {
    fn from(error: forebay_client::Error) -> Failure {
        Failure {
            errno: error.code.errno(),
            message: error.message,
        }
    }
}

/// The result of a request.
pub type Result<T> = std::result::Result<T, Failure>;
