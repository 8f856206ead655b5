//! `make scale`: the metadata of very many files on this machine.

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use forebay_e2e::{
    disk::{Scratch, can_drop_caches, drop_caches},
    interrupt::clean_up_on_signals,
    scale::{Built, Served, Tree, build, serve},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

/// Builds the metadata of so many files through the state machine, compacts it, starts on it again, and
/// prints what that cost. $FOREBAY_BENCH_DIR says where (default: the target directory).
#[derive(Parser)]
#[command(name = "forebay-scale")]
struct Args {
    /// Files; some 70 bytes of disk each, several times that while RocksDB works
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
    /// Memory budget of the master, in MiB
    #[arg(long, default_value_t = 1_024)]
    budget_mib: u64,
    /// Seconds of each rate
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Only this phase, in this directory; prints JSON
    #[arg(long, hide = true, requires = "dir")]
    phase: Option<Phase>,
    #[arg(long, hide = true)]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Phase {
    Build,
    Serve,
}

fn main() -> ExitCode {
    let started = Instant::now();
    match run(started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay-scale: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(started: Instant) -> anyhow::Result<()> {
    let args = Args::parse();
    let (tree, budget) = (Tree::of(args.files), args.budget_mib << 20);
    if let (Some(phase), Some(dir)) = (args.phase, &args.dir) {
        return match phase {
            Phase::Build => print(&build(tree, dir, budget, &progress(tree))?),
            Phase::Serve => {
                let time = Duration::from_secs(args.seconds);
                print(&serve(tree, dir, budget, started, time)?)
            }
        };
    }
    clean_up_on_signals()?;
    let scratch = Scratch::new("scale")?;
    scratch.need(tree.files() * 250)?;
    let dir = scratch.make("meta")?;
    let built: Built = child("build", &args, &dir)?;
    if can_drop_caches() {
        drop_caches()?;
    } else {
        eprintln!("not root: the start is measured with warm caches");
    }
    let served: Served = child("serve", &args, &dir)?;
    report(&built, &served, args.budget_mib);
    Ok(())
}

fn print(result: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(result)?);
    Ok(())
}

/// Runs a phase in a process of its own.
fn child<T: DeserializeOwned>(phase: &str, args: &Args, dir: &Path) -> anyhow::Result<T> {
    // Also after the file was replaced by another build.
    let output = Command::new("/proc/self/exe")
        .args(["--phase", phase])
        .args(["--files", &args.files.to_string()])
        .args(["--budget-mib", &args.budget_mib.to_string()])
        .args(["--seconds", &args.seconds.to_string()])
        .arg("--dir")
        .arg(dir)
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(
        output.status.success(),
        "the {phase} phase failed: {}",
        output.status
    );
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the {phase} phase said nonsense"))
}

fn progress(tree: Tree) -> impl Fn(u64) {
    let style = "{bar:40} {human_pos} of {human_len} inodes  {per_sec}  ETA {eta}";
    let style = ProgressStyle::with_template(style).expect("the template is right");
    let bar = ProgressBar::new(tree.files()).with_style(style);
    move |inodes| bar.set_position(inodes)
}

fn report(built: &Built, served: &Served, budget_mib: u64) {
    let per = |bytes: u64| bytes as f64 / built.inodes as f64;
    let mib = |bytes: u64| bytes >> 20;
    let row = |what: &str, figure: String| println!("{what:58} {figure:>14}");
    println!();
    row("inodes", built.inodes.to_string());
    row(
        "apply, inodes/s",
        format!("{:.0}", built.inodes as f64 / built.apply_s),
    );
    row(
        "bytes per inode on disk, as applied",
        format!("{:.1}", per(built.bytes[0])),
    );
    row(
        "bytes per inode on disk, compacted",
        format!("{:.1}", per(built.bytes[1])),
    );
    row(
        "compaction of everything, s",
        format!("{:.0}", built.compact_s),
    );
    row(
        &format!("resident memory after the applies, MiB (budget {budget_mib})"),
        mib(built.resident).to_string(),
    );
    row(
        "start to first read served, s",
        format!("{:.2}", served.first_read_s),
    );
    row(
        "lookups/s, one thread, in the inode cache",
        format!("{:.0}", served.cached),
    );
    row(
        "lookups/s, one thread, uniform over all files",
        format!("{:.0}", served.everywhere),
    );
    row(
        "resident memory after the reads, MiB",
        mib(served.resident).to_string(),
    );
}
