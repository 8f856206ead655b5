//! Why the driver could not do what it was asked for, and what the kubelet hears.

use crate::{plan::Refusal, volume::VolumeId};
use std::{io, path::PathBuf};
use tonic::{Code, Status};

/// One line for whoever reads the events of a pod.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong and stays wrong.
    #[error("{0}")]
    Invalid(String),
    /// Another operation on the volume has not ended.
    #[error("another operation on volume {0} is under way")]
    Busy(VolumeId),
    /// The plan's own.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nothing of that name is here.
    #[error("{0}")]
    NotFound(String),
    /// The FUSE host could not be asked.
    #[error("the FUSE host of this node cannot be asked: {0}")]
    NoHost(String),
    /// The FUSE host refused.
    #[error("the FUSE host of this node: {}", .0.message())]
    Host(Status),
    /// The FUSE host has mounted, and the mount is not to be seen.
    #[error(
        "the FUSE host mounted {0}, but its mount is not seen by the CSI driver: both containers \
         need the kubelet's directory with mountPropagation: Bidirectional"
    )]
    Hidden(PathBuf),
    /// A file system did not answer in time.
    #[error("{0} does not answer")]
    Silent(PathBuf),
    /// A system call failed.
    #[error("cannot {what} {}: {source}", path.display())]
    System {
        /// As in "cannot …".
        what: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The task that did it is gone: the driver stops.
    #[error("the driver is stopping")]
    Stopping,
}

impl Error {
    /// Makes an error of a system call's, for `map_err`.
    pub fn system<E: Into<io::Error>>(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Error {
        move |source| Error::System {
            what,
            path: path.into(),
            source: source.into(),
        }
    }

    /// As gRPC counts it.
    pub fn code(&self) -> Code {
        match self {
            Error::Invalid(_) => Code::InvalidArgument,
            Error::Busy(_) => Code::Aborted,
            Error::Refused(Refusal::Conflict(_)) => Code::AlreadyExists,
            Error::Refused(Refusal::Precondition(_)) | Error::Hidden(_) => Code::FailedPrecondition,
            Error::NotFound(_) => Code::NotFound,
            Error::Host(status) => status.code(),
            Error::Refused(Refusal::Unavailable(_))
            | Error::NoHost(_)
            | Error::Silent(_)
            | Error::Stopping => Code::Unavailable,
            Error::System { .. } => Code::Internal,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        Status::new(error.code(), error.to_string())
    }
}
