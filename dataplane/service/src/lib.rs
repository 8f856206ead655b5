//! What every daemon needs: configuration, logs, metrics, health, its data directory, shutdown.

pub mod config;
pub mod data_dir;
pub mod http;
pub mod shutdown;
pub mod size;
pub mod telemetry;

pub use shutdown::Shutdown;
pub use size::ByteSize;
