//! Who answers the questions of a call: the reign of this master, or what it knows while it follows.

use crate::{error::Result, follower::Follower, namespace::Namespace, reign::Reign};
use forebay_service::Shutdown;
use std::sync::Arc;

/// One of the two.
#[derive(Clone)]
pub(crate) enum Source {
    Reign(Arc<Reign>),
    Follower(Arc<Follower>),
}

impl Source {
    /// The tree, showing all that was acknowledged before the call.
    pub(super) async fn ready(&self) -> Result<Namespace> {
        match self {
            Source::Reign(reign) => {
                reign.namespace.barrier().await?;
                Ok(reign.namespace.clone())
            }
            Source::Follower(follower) => follower.ready().await,
        }
    }

    /// Begins when somebody else must be asked.
    pub(super) fn shutdown(&self) -> &Shutdown {
        match self {
            Source::Reign(reign) => &reign.shutdown,
            Source::Follower(follower) => &follower.shutdown,
        }
    }
}
