//! The state machine from outside: scenarios, exactly-once, a random walk against a model.

mod model;
mod mounting;
mod once;
mod reaping;
mod support;
mod syncing;
