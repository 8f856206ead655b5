//! End-to-end scenarios, the demonstration and the benchmark, and what they stand on.

pub mod bench;
pub mod chaos;
pub mod disk;
pub mod fleet;
pub mod http;
pub mod interrupt;
pub mod kube;
mod proc;
pub mod process;
pub mod report;
pub mod s3;
pub mod scale;
