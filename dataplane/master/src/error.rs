//! The error of every request to a master: a code and one line. Cheap to clone, because those who
//! wait for one flight share its failure.

use forebay_consensus::ProposeError;
use forebay_proto::convert;
use forebay_types::{Code, error::chain};
use tonic::Status;

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Error {
    /// The kind.
    pub(crate) code: Code,
    /// One line.
    pub(crate) message: String,
}

/// The result of a request.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
        }
    }

    /// The same kind, with what was being done in front.
    pub(crate) fn context(self, what: impl std::fmt::Display) -> Error {
        Error {
            code: self.code,
            message: format!("{what}: {}", self.message),
        }
    }
}

impl From<forebay_meta::Error> for Error {
    fn from(error: forebay_meta::Error) -> Error {
        let code = match error {
            forebay_meta::Error::Damaged(_) => Code::Corrupt,
            _ => Code::Internal,
        };
        Error::new(code, chain(&error))
    }
}

impl From<forebay_ufs::Error> for Error {
    fn from(error: forebay_ufs::Error) -> Error {
        Error::new(error.code, chain(&error))
    }
}

impl From<ProposeError> for Error {
    fn from(error: ProposeError) -> Error {
        let code = match &error {
            ProposeError::NotLeader { .. } => Code::NotLeader,
            ProposeError::Closed(_) => Code::Unavailable,
            ProposeError::NoSpace => Code::NoSpace,
        };
        let hint = match &error {
            ProposeError::NotLeader {
                leader: Some(leader),
            } => format!(": master {leader} leads"),
            ProposeError::NoSpace => ": make space in the master's data directory".to_owned(),
            _ => String::new(),
        };
        Error::new(code, format!("{error}{hint}"))
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        convert::status(error.code, error.message)
    }
}

/// Runs store reads that may touch the disk for long off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::new(Code::Unavailable, "the master is stopping"))
}
