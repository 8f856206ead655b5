//! Deterministic simulation: the real node, log, bookkeeping and metadata of a whole cluster in
//! one thread, under a schedule of faults that a seed decides. See `docs/simulation.md`.
//!
//! Only what touches threads, clocks, disks and sockets is replaced: [`replica`] does what the
//! driver, the log writer and the apply thread do.

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
mod replica;
mod schedule;
mod shelf;
mod shrink;
mod tests;
mod world;
