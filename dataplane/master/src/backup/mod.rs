//! Copies of the metadata outside of the cluster: taken online from the leader, made into a master again.

mod manifest;
mod restore;
mod take;

pub use manifest::{FORMAT, Item, MANIFEST, Manifest};
pub use restore::restore;
pub use take::{Taken, take};
