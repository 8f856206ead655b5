//! Deterministic simulation: the real node, log, bookkeeping and metadata of a whole cluster in
//! one thread, under a schedule of faults that a seed decides. See `docs/simulation.md`.
//!
//! Only what touches threads, clocks, disks and sockets is replaced: [`process`] does what the
//! driver and its threads do.

mod campaign;
mod checker;
mod client;
mod cluster;
mod disk;
mod history;
mod invariant;
mod machine;
mod mutation;
mod network;
mod process;
mod replica;
mod schedule;
mod shelf;
mod shrink;
mod tests;
mod world;
