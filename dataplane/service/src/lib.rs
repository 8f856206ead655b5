//! What every daemon needs: configuration, logs, metrics, health, its data directory, limits,
//! orderly shutdown. It knows nothing of what the daemon does.

pub mod config;
pub mod data_dir;
pub mod http;
pub mod limits;
pub mod panic;
pub mod shutdown;
pub mod size;
pub mod telemetry;

pub use shutdown::Shutdown;
pub use size::ByteSize;
