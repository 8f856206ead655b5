//! The page store against real directories.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]

mod conformance;
mod crash;
mod fault;
mod fixture;
mod model;
mod speed;
mod tiers;
