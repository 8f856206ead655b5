//! `make bench`: what Forebay costs and saves, against a native directory on the same disk.

use clap::Parser;
use forebay_e2e::{
    bench::{self, Group, Outcome, Scale},
    disk::{can_drop_caches, load_average, target_directory},
    interrupt::clean_up_on_signals,
    s3::{S3Child, serve_if_asked},
};
use std::{path::PathBuf, process::ExitCode, time::Instant};

/// Measures the mount of `forebay local` against a native directory on the same disk,
/// interleaved, and prints ratios. $FOREBAY_BENCH_DIR says where (default: the target directory);
/// $FOREBAY_BIN which forebay (default: the one beside this executable).
#[derive(Parser)]
#[command(name = "forebay-bench")]
struct Args {
    /// Measure only this; repeatable
    #[arg(long, value_name = "NAME")]
    only: Vec<Group>,
    /// A small sample, for correctness; its figures mean little
    #[arg(long)]
    quick: bool,
    /// Rounds of each side [default: 5; quick: 3]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: Option<u8>,
    /// Where the figures go [default: bench.json in the target directory]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit with status 1 if a target is missed
    #[arg(long)]
    strict: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            // One line, whatever RUST_BACKTRACE says.
            eprintln!("forebay-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    if serve_if_asked()? {
        return Ok(ExitCode::SUCCESS);
    }
    S3Child::borrow_credentials()?;
    let args = Args::parse();
    clean_up_on_signals()?;
    let mut scale = if args.quick {
        Scale::quick()
    } else {
        Scale::full()
    };
    if let Some(rounds) = args.rounds {
        scale.rounds = rounds.into();
    }
    let json = match args.json {
        Some(path) => path,
        None => target_directory()?.join("bench.json"),
    };
    if !can_drop_caches() {
        eprintln!("not root: rows with caches dropped are skipped");
    }
    if let Some(load) = load_average().filter(|load| *load > 0.5) {
        eprintln!("load average {load}: other work is going on, the figures will suffer from it");
    }
    let begun = Instant::now();
    let say = |what: &str| eprintln!("{:>5.0} s  {what}", begun.elapsed().as_secs_f64());
    let rows = bench::run(&args.only, &scale, &say)?;
    eprintln!();
    bench::publish(&rows, &scale, &json)?;
    eprintln!("\nwritten to {}", json.display());
    if args.strict && rows.iter().any(|row| row.outcome() == Outcome::Miss) {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
