//! A throw-away S3 server on loopback: real signatures, odd keys, faults on demand, counters.
//!
//! It exists to be read from. Objects live in memory ([`Memory`]) or are the files of directories
//! ([`Directory`]); writing is for tests and works in memory only. Keys are kept exactly as they
//! came: `//`, a leading or trailing `/`, `.` and `..` segments are bytes like any others. Keys are
//! UTF-8, as with S3 itself. An object that is overwritten while it is being sent goes on with the
//! old bytes.

mod backend;
mod body;
mod child;
mod content;
mod directory;
mod fault;
mod listing;
mod memory;
mod server;
mod service;
mod stats;

pub use backend::{Backend, Found, Meta, Missing};
pub use child::{S3Child, Storage, serve_if_asked};
pub use content::{Content, synthetic};
pub use directory::Directory;
pub use fault::{Effect, Fault, FaultHandle, Faults};
pub use listing::{After, Listing, Query};
pub use memory::Memory;
pub use server::{Credentials, S3Server};
pub use stats::{Op, Stats};
