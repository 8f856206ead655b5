//! Thousands of workers and clients against real masters: what they cost at rest, and what happens
//! when all come at once, when the leader dies, and when many of them die.
//!
//! Workers are ties without a cache ([`forebay_worker::tie`]), clients what a FUSE host keeps to the
//! masters (a namespace with its session and its `Watch` stream, and a topology). They run in
//! processes of their own, at a lower priority: the machine is shared, and the masters and the one
//! client whose calls are timed shall have what they ask for first.

mod masters;
mod part;
mod peer;
mod run;
mod sample;

pub use part::{Share, part};
pub use run::{Plan, run};
