//! `make chaos`: three masters, killed and stopped under clients.

use clap::Parser;
use forebay_e2e::{
    chaos::{self, Fault, Plan},
    disk::Scratch,
    interrupt::clean_up_on_signals,
};
use std::{process::ExitCode, time::Instant};

/// Kills and stops masters under clients that create, rename and remove; checks that every acknowledged
/// change is there afterwards and none twice, and prints how long clients had to wait.
/// $FOREBAY_BENCH_DIR says where (default: the target directory); $FOREBAY_BIN which forebay (default:
/// the one beside this executable).
#[derive(Parser)]
#[command(name = "forebay-chaos")]
struct Args {
    /// Rounds: one fault each
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Decides the faults and what clients try [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Only this fault: for percentiles of many
    #[arg(long, value_name = "FAULT")]
    only: Option<Fault>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("forebay-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    clean_up_on_signals()?;
    let scratch = Scratch::new("chaos")?;
    let seed = args
        .seed
        .unwrap_or_else(|| rand::random_range(0..1_000_000));
    let begun = Instant::now();
    let say = |what: &str| eprintln!("{:>5.0} s  {what}", begun.elapsed().as_secs_f64());
    say(&format!("seed {seed}"));
    let plan = Plan {
        rounds: args.rounds,
        seed,
        only: args.only,
    };
    let report = chaos::run(&scratch.path().join("masters"), plan, &say);
    if !report
        .as_ref()
        .is_ok_and(|report| report.complaints.is_empty())
    {
        eprintln!(
            "the masters' directories and logs: {}",
            scratch.keep().display()
        );
    }
    let report = report?;
    if args.json {
        println!("{}", report.json());
    } else {
        report.print();
    }
    Ok(if report.complaints.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
