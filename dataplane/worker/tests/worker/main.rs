//! The worker against under stores in memory and on disk, and against other workers.

mod cluster;
mod faults;
mod figures;
mod fills;
mod local;
mod socket;
mod support;
mod tap;
