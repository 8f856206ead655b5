//! `make operator-scale`: the operator under very many nodes and Datasets.

use clap::Parser;
use forebay_e2e::{
    interrupt::clean_up_on_signals,
    kube::{ThrowAway, scale},
};
use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

/// Puts up a throw-away Kubernetes cluster on this machine (needs root) with one real node and very many fake ones, applies very
/// many Datasets of one CacheCluster, and prints what that costs the operator: while they come, at rest, and when another
/// operator takes over. Takes everything down. To be run from the root of the repository.
#[derive(Parser)]
#[command(name = "forebay-operator-scale")]
struct Args {
    /// Fake nodes
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=5000))]
    nodes: u32,
    /// Datasets
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=9999))]
    datasets: u32,
    /// Seconds for which rest is measured
    #[arg(long, default_value_t = 300)]
    rest: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Where the cluster lies [default: ~/.cache/forebay/cluster]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay-operator-scale: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let args = Args::parse();
    clean_up_on_signals()?;
    let dir = args.dir.map_or_else(ThrowAway::default_dir, Ok)?;
    let plan = scale::Plan {
        nodes: args.nodes,
        datasets: args.datasets,
        rest: Duration::from_secs(args.rest),
    };
    let begun = Instant::now();
    let say = |what: &str| eprintln!("{:>5.0} s  {what}", begun.elapsed().as_secs_f64());
    let report = scale::run(&dir, plan, &say)?;
    if args.json {
        println!("{}", report.json());
    } else {
        report.print();
    }
    Ok(())
}
