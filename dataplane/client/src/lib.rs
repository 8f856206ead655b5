//! The client of masters and workers: connections, placement, the metadata cache, and readers.
//! Used by the FUSE host, the workers (to reach each other), and the command line.

pub mod error;
pub mod local;
pub mod namespace;
pub mod placement;

pub use error::{Error, Result};
