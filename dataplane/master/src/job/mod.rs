//! What people and the operator ask for, and the master's own housekeeping.

pub(crate) mod dispatch;
pub(crate) mod fleet;
pub(crate) mod free;
pub(crate) mod load;
pub(crate) mod location;
pub(crate) mod pin;
pub(crate) mod progress;
pub(crate) mod reap;
pub(crate) mod refresh;
pub(crate) mod walk;
pub(crate) mod warmup;
