//! `forebay bench …`.

mod acked;
mod caller;
mod meta;
mod phase;

use crate::{
    args::{BenchArgs, BenchCommand},
    failure::Failure,
};

/// Runs one benchmark.
pub(crate) async fn run(args: BenchArgs) -> Result<(), Failure> {
    match &args.command {
        BenchCommand::Meta(meta) => meta::run(&args.cluster, meta).await,
    }
}
