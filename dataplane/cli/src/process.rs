//! What every long-running command does first.

use prometheus_client::registry::Registry;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Tells a child of the playground which process it belongs to: it stops when that one dies.
pub(crate) const PARENT: &str = "PLAYGROUND_PID";

/// Logs, limits, and the tie to a parent. Returns the registry of metrics.
pub(crate) fn begin() -> Registry {
    forebay_service::telemetry::init();
    forebay_service::limits::raise_open_files();
    if let Some(parent) = std::env::var(PARENT).ok().and_then(|p| p.parse().ok()) {
        // Works for the thread that forked us only; the check covers a parent that died before.
        if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
            tracing::warn!(%error, "will not notice if the playground dies");
        }
        if getppid() != Pid::from_raw(parent) {
            std::process::exit(1);
        }
    }
    Registry::default()
}

/// Says on standard output, alone on a line, that `what` serves now.
pub(crate) fn say_ready(what: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // Whoever waits for the line has gone if this fails; the daemon itself can go on.
    let _ = writeln!(out, "ready {what}").and_then(|()| out.flush());
}
