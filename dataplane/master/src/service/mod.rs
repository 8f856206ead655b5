//! The gRPC services: thin; they translate and count.

pub(crate) mod admin;
pub(crate) mod backup;
mod calls;
mod change;
pub(crate) mod hello;
mod listing;
pub(crate) mod metadata;
pub(crate) mod raft;
pub(crate) mod registry;
pub(crate) mod source;

use futures::stream::BoxStream;
use tonic::Status;

/// A streamed answer.
pub(crate) type Answer<T> = BoxStream<'static, Result<T, Status>>;
