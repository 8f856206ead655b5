//! Three masters as processes, killed and stopped under clients: every acknowledged change is there
//! afterwards, none twice, and no client sees an error while a majority is left.
//!
//! Each client changes a directory of its own, of which it knows what every change must come to, and
//! one that all change. A ledger keeps what came of each; after every round the directories are
//! listed and compared with the ledgers, and now and then at each master as leader. The seed decides
//! the faults and what clients try, not how their calls interleave.

mod change;
mod client;
mod cluster;
mod directory;
mod fault;
mod ledger;
mod progress;
mod report;
mod run;
mod scene;
mod tree;
mod verdict;

pub use fault::Fault;
pub use report::{Report, Round};
pub use run::{Plan, run};
