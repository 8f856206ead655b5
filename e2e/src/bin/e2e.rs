//! `make e2e`: Forebay on a real Kubernetes cluster.

use clap::Parser;
use comfy_table::{Table, presets};
use forebay_e2e::{
    interrupt::clean_up_on_signals,
    kube::{Kubectl, SCENARIOS, ThrowAway, Trial},
};
use std::{path::PathBuf, process::ExitCode, time::Instant};

/// Puts up a throw-away Kubernetes cluster on this machine (real control plane, kubelets, container runtimes; needs root),
/// installs Forebay from its manifests, runs the scenarios, prints a table, and takes everything down. To be run from the root of
/// the repository.
#[derive(Parser)]
#[command(name = "forebay-e2e")]
struct Args {
    /// Nodes of the cluster
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Use the cluster of KUBECONFIG; it must have the images forebay:dev, local/minio:1 and local/busybox:1, and a
    /// default StorageClass
    #[arg(long)]
    existing: bool,
    /// Only these scenarios
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Where the cluster lies [default: ~/.cache/forebay/cluster]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay-e2e: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let args = Args::parse();
    clean_up_on_signals()?;
    let begun = Instant::now();
    let (kubectl, throw_away) = if args.existing {
        (Kubectl::new(None), None)
    } else {
        let dir = args.dir.map_or_else(ThrowAway::default_dir, Ok)?;
        let cluster = ThrowAway::start(&dir, args.nodes, &[])?;
        println!(
            "cluster of {} nodes after {:.0} s",
            args.nodes,
            begun.elapsed().as_secs_f64()
        );
        (cluster.kubectl(), Some(cluster))
    };
    let trial = Trial::start(kubectl, throw_away)?;
    println!(
        "Forebay installed after {:.0} s",
        begun.elapsed().as_secs_f64()
    );

    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["SCENARIO", "MUST BE TRUE", "TOOK", "RESULT"]);
    let mut failed = None;
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    for scenario in SCENARIOS.iter().filter(|scenario| wanted(scenario.name)) {
        let begun = Instant::now();
        let result = (scenario.run)(&trial);
        let took = format!("{:.0} s", begun.elapsed().as_secs_f64());
        let said = match result {
            Ok(said) => format!("ok: {said}"),
            Err(error) => {
                eprintln!("{}", trial.describe());
                let said = format!("FAILED: {error:#}");
                failed = Some(error.context(format!("scenario {}", scenario.name)));
                said
            }
        };
        println!("{} {took}: {said}", scenario.name);
        table.add_row([scenario.name, scenario.claim, &took, &said]);
        if failed.is_some() {
            // What is left of it would be in the way of the others.
            break;
        }
    }
    println!("{table}");
    // The last line, after everything was taken down: what a person looks for.
    drop(trial);
    failed.map_or(Ok(()), Err)
}
