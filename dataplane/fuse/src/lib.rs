//! The FUSE host: the file system of a node.
//!
//! [`fs`] says what every request means, without a kernel and without fuser; [`inode`] fixes the mode of
//! every open inode (kernel passthrough, cached, streamed); `adapter` is the only file that speaks
//! fuser's requests; `notify` tells the kernel what to forget. It never writes. What it promises to
//! programs is in `SEMANTICS.md`.

mod adapter;
pub mod backing;
pub mod buffer;
pub mod config;
pub mod directory;
pub mod failure;
pub mod fs;
mod host;
pub mod inode;
mod inval;
pub mod keeper;
pub mod ledger;
pub mod metrics;
pub mod mount;
pub mod node;
mod notify;
mod takeover;
pub mod top;
mod wake;

pub use host::FuseHost;
pub use node::NodeHost;
