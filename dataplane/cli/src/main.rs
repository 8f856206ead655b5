//! The `forebay` command: the daemons, the whole in one process (`local`) or in many
//! (`playground`), and the tools of a person at a terminal.
//!
//! Exit codes: 0 done, 1 failed, 2 the request itself was wrong. Errors are one line on standard
//! error: what, where, what to do.

mod args;
mod backup;
mod bench;
mod cluster;
mod daemon;
mod duration_arg;
mod erase;
mod failure;
mod fs;
mod local;
mod mount_arg;
mod output;
mod playground;
mod process;
mod quorum;
mod report;
mod signal;
mod tier_arg;

use args::{Cli, Command, JournalCommand};
use clap::Parser;
use failure::Failure;
use std::{process::ExitCode, time::Duration};

/// How long work that cannot be cancelled may hold up the end of the process.
const END: Duration = Duration::from_secs(5);

/// Returns freed memory to the system soon, which the C library's allocator does not with many threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    forebay_service::panic::install();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return usage(&error),
        Err(help) => {
            // Help and version go to standard output; a closed pipe is not our failure.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("forebay: {failure}");
            failure.exit_code()
        }
    }
}

/// Clap's message in one line: its first line says what was wrong, the last ones how to get help.
fn usage(error: &clap::Error) -> ExitCode {
    let text = error.to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    let what = lines
        .iter()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .map(|line| line.trim_start_matches("error: "))
        .collect::<Vec<_>>()
        .join(" ");
    let what = if what.is_empty() {
        "no command given"
    } else {
        &what
    };
    eprintln!("forebay: {what} (see 'forebay --help')");
    ExitCode::from(2)
}

fn run(cli: Cli) -> Result<(), Failure> {
    // Installed once, before any client is made; a second one would be a fault of ours.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::run(format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(async {
        match cli.command {
            Command::Local(args) => local::run(args).await,
            Command::Master(args) => daemon::master(&args.config).await,
            Command::Worker(args) => daemon::worker(&args.config).await,
            Command::Fuse(args) => daemon::fuse(&args.config).await,
            Command::Node(args) => daemon::node(&args.config).await,
            Command::Keeper(args) => daemon::keeper(&args.config).await,
            Command::Playground(args) => playground::run(args).await,
            Command::Fs(args) => fs::run(args).await,
            Command::Report(args) => report::run(args).await,
            Command::Backup(args) => backup::take(&args).await,
            Command::Restore(args) => backup::restore(&args),
            Command::Journal(args) => match &args.command {
                JournalCommand::Dump(args) => backup::dump(args),
            },
            Command::Erase(args) => erase::run(args).await,
            Command::Quorum(args) => quorum::run(&args).await,
            Command::Bench(args) => bench::run(args).await,
        }
    });
    // What still runs ends first: a database that is open while the process exits complains. A
    // thread that sits in a read of a dead disk does not hold up the exit for ever.
    runtime.shutdown_timeout(END);
    result
}
