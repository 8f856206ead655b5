//! The state machine from outside: scenarios, exactly-once, a random walk against a model.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod concurrent;
mod model;
mod mounting;
mod once;
mod reaping;
mod scratch;
mod support;
mod syncing;
mod tree;
mod usage;
mod warmups;
