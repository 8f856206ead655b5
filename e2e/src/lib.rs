//! End-to-end scenarios, the demonstration and the benchmark, and what they stand on.

pub mod s3;
