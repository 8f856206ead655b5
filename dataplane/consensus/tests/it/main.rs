//! Nodes as the rest of the process sees them, over stores that forget and networks that lose.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod benchmark;
mod chaos;
mod disk;
mod durability;
mod faults;
mod fixture;
mod flow;
mod group;
mod kv;
mod machine;
mod membership;
mod network;
mod snapshot;
mod table;
