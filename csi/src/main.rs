//! The `forebay-csi` command.
//!
//! Exit codes: 0 done, 1 failed, 2 the request or the configuration was wrong. Errors are one line on
//! standard error.

use clap::Parser;
use forebay_csi::config::CsiConfig;
use forebay_service::{
    Shutdown,
    config::{self, ConfigError},
};
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// How long a thread that waits for a file system may hold up the end of the process.
const END: Duration = Duration::from_secs(2);

/// The CSI driver of a node
#[derive(Parser)]
#[command(name = "forebay-csi", version)]
struct Cli {
    /// TOML file; environment variables FOREBAY_KEY override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    forebay_service::panic::install();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let text = error.to_string();
            let what = text.lines().next().unwrap_or_default();
            let what = what.trim_start_matches("error: ");
            eprintln!("forebay-csi: {what} (see 'forebay-csi --help')");
            return ExitCode::from(2);
        }
        Err(help) => {
            // Help and version go to standard output; a closed pipe is not our failure.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay-csi: {}", one_line(&error));
            ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
        }
    }
}

fn one_line(error: &anyhow::Error) -> String {
    let text = forebay_types::error::chain(error.as_ref());
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(cli));
    runtime.shutdown_timeout(END);
    result
}

async fn serve(cli: &Cli) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    forebay_service::telemetry::init();
    let config: CsiConfig = config::load(cli.config.as_deref())?;
    let shutdown = Shutdown::new();
    let started = forebay_csi::start(&config, &shutdown).await;
    if started.is_ok() {
        tracing::info!(?config, "serving");
        say_ready(&config);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    shutdown.finish().await;
    Ok(started?)
}

/// Says on standard output, alone on a line, that CSI is served now.
fn say_ready(config: &CsiConfig) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // Whoever waits for the line has gone if this fails; the driver itself can go on.
    let _ = writeln!(out, "ready {}", config.endpoint.display()).and_then(|()| out.flush());
}
