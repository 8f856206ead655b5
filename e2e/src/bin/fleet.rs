//! `make fleet`: thousands of workers and clients against real masters.

use clap::Parser;
use forebay_e2e::{
    disk::Scratch,
    fleet::{self, Plan, Share},
    interrupt::clean_up_on_signals,
};
use forebay_service::limits::raise_open_files;
use forebay_types::Addresses;
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

/// Runs masters as processes under so many simulated workers and clients; prints what they cost at
/// rest, and what happens when all come at once, when the leader dies, and when many of them die.
/// $FOREBAY_BENCH_DIR says where (default: the target directory); $FOREBAY_BIN which forebay (default:
/// the one beside this executable).
#[derive(Parser)]
#[command(name = "forebay-fleet")]
struct Args {
    /// Simulated workers
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    workers: u64,
    /// Simulated clients
    #[arg(long, default_value_t = 500)]
    clients: u64,
    /// Masters: 1 or 3
    #[arg(long, default_value_t = 1)]
    masters: u16,
    /// Workers that die at once [default: a tenth]
    #[arg(long)]
    dying: Option<u64>,
    /// Seconds for which rest is measured
    #[arg(long, default_value_t = 20)]
    rest: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Only these peers, of the masters there; told by its parent what to do
    #[arg(long, hide = true, value_name = "MASTERS")]
    part: Option<Addresses>,
    /// Number of the first worker
    #[arg(long, hide = true, default_value_t = 0)]
    first: u64,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay-fleet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(masters) = args.part {
        return fleet::part(Share {
            masters,
            first: args.first,
            workers: args.workers,
            clients: args.clients,
        });
    }
    clean_up_on_signals()?;
    // For the masters, who inherit it.
    raise_open_files();
    let scratch = Scratch::new("fleet")?;
    let plan = Plan {
        masters: args.masters,
        workers: args.workers,
        clients: args.clients,
        dying: args.dying.unwrap_or(args.workers / 10),
        rest: Duration::from_secs(args.rest),
    };
    let begun = Instant::now();
    let say = |what: &str| eprintln!("{:>5.0} s  {what}", begun.elapsed().as_secs_f64());
    let report = fleet::run(&scratch.path().join("masters"), plan, &say)?;
    if args.json {
        println!("{}", report.json());
    } else {
        report.print();
    }
    Ok(())
}
