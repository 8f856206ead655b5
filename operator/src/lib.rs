//! The operator: makes masters, workers, mounts, volumes and warm-ups of what CacheClusters, Datasets and WarmupPolicies say.
//!
//! [`plan`] decides, purely: objects and what was observed in, objects, calls and conditions out. The rest acts:
//! informers keep what the API server says (`world`), the masters of each cluster are asked every few seconds
//! (`masters`), and four controllers carry plans out (`cluster`, `dataset`, `user_claim`, `warmup`). Pods go where their data
//! is by a policy that the API server is given once, or by a webhook (`locality`).
//!
//! It is not in the way of data: masters keep the mount table, and everything goes on while no operator runs.
//!
//! Invariants: only the holder of the Lease acts; an object that is not ours is never touched; credentials are sealed
//! before they leave the process, and are in no log, event or status; at rest there is no request to the API server but
//! those that keep watches and the Lease alive, and, once an hour for each Dataset, when it was last compared with its store.

mod apply;
mod calls;
mod clock;
mod cluster;
mod controller;
mod dataset;
mod election;
mod error;
mod event;
mod informer;
mod locality;
mod masters;
mod metrics;
pub mod operator;
mod placements;
pub mod plan;
mod probe;
mod secrets;
mod status;
mod user_claim;
mod warmup;
mod webhook;
mod world;

pub use masters::Dial;
pub use operator::{Operator, Settings};
pub use placements::Placements;
