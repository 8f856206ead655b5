//! The vocabulary that every Forebay crate shares: identities, names, attributes, pages, tiers,
//! mounts and error codes.
//!
//! It holds no I/O, no clock, no randomness and no policy: only values, their invariants, and
//! their textual forms.

pub mod address;
pub mod attr;
pub mod bitmap;
pub mod credential;
pub mod error;
pub mod file;
pub mod id;
pub mod mount;
pub mod name;
pub mod page;
pub mod tier;

pub use address::{Address, Addresses};
pub use attr::{Attr, FileKind};
pub use bitmap::PageBitmap;
pub use credential::{Credentials, Sealed};
pub use error::Code;
pub use file::{FileId, FileRef, Fingerprint};
pub use id::{ContentVersion, Ino, MountId, SessionId, WorkerId};
pub use mount::{MountSpec, SyncPolicy};
pub use name::{Name, NameError};
pub use page::{PAGE_SIZE, PageIndex};
pub use tier::Medium;
