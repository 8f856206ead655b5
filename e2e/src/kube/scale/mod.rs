//! `make operator-scale`: the operator under very many nodes, most of them fake, and very many Datasets.

mod arrivals;
mod audit;
mod fake_nodes;
mod objects;
mod run;
mod usage;

pub use run::{Plan, run};
