//! The Kubernetes API of Forebay: the types behind `forebay.io/v1alpha1`.
//!
//! A spec is what a user wants, a status is what was observed and can be rebuilt at any time. The
//! comments on fields are what `kubectl explain` shows; the rules on them are CEL, checked by the
//! API server, and answer in words. [`crds`] makes the definitions of them that a Kubernetes cluster
//! installs; `yaml/` holds these, and a test keeps it so.
//!
//! Nothing here talks to an API server, knows the data plane, or decides what is done.

#![expect(
    unreachable_pub,
    reason = "KubeSchema copies every struct into a function, where its pub reaches nobody"
)]

mod access;
mod cache_cluster;
mod crd;
mod dataset;
mod duration;
mod mount;
mod mount_option;
mod object_ref;
mod percent;
mod pod;
mod quantity;
mod schema;
mod tier;
mod warmup_policy;

pub use access::Access;
pub use cache_cluster::*;
pub use crd::crds;
pub use dataset::*;
pub use duration::{Duration, SyncPolicy};
pub use mount::{Mount, SecretRef};
pub use mount_option::{MOUNT_OPTIONS, MountOption};
pub use object_ref::ObjectRef;
pub use percent::Percent;
pub use pod::*;
pub use quantity::Quantity;
pub use tier::*;
pub use warmup_policy::*;
