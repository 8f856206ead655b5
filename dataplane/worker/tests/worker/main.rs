//! The worker against under stores in memory and on disk, and against other workers.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod cluster;
mod faults;
mod figures;
mod fills;
mod local;
mod socket;
mod support;
mod tap;
