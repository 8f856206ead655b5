//! What is wanted, decided purely: from objects and what was observed to objects, calls and conditions. No I/O,
//! no clock, no randomness; the modules beside this one act.

pub mod claim;
pub mod cluster;
pub mod cluster_status;
pub mod condition;
pub mod config;
pub mod dataset;
pub mod dataset_status;
pub mod drift;
pub mod erase;
pub mod lease;
pub mod locality;
pub mod master;
pub mod membership;
pub mod mount;
pub mod name;
pub mod placement;
pub mod pod;
pub mod pod_seen;
pub mod schedule;
pub mod user_claim;
pub mod view;
pub mod volume;
pub mod warmup;
pub mod warmup_status;
pub mod webhook;
pub mod worker;
