//! What the masters and the loopback interface did, second by second.

use super::masters::Counts;
use crate::proc;
use std::{
    fs,
    time::{Duration, Instant},
};

/// The state of the counters at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    /// CPU seconds of each master so far.
    cpu: Vec<f64>,
    /// Calls that each has answered so far.
    calls: Vec<u64>,
    /// Resident bytes of all masters.
    pub(super) resident: u64,
    bytes: u64,
    packets: u64,
    /// Live workers as the best informed master counts them.
    pub(super) live: u64,
}

/// What was done between two samples, each second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    pub(super) cores: f64,
    pub(super) calls: f64,
    pub(super) packets: f64,
    pub(super) bytes: f64,
}

impl Sample {
    /// Takes one: of these processes, which count this.
    pub(super) fn take(pids: &[u32], counts: &[Counts]) -> Sample {
        let (bytes, packets) = loopback();
        Sample {
            at: Instant::now(),
            cpu: pids.iter().map(|pid| cpu(*pid)).collect(),
            calls: counts.iter().map(|count| count.calls).collect(),
            resident: pids.iter().map(|pid| resident(*pid)).sum(),
            bytes,
            packets,
            live: counts.iter().map(|c| c.workers_live).max().unwrap_or(0),
        }
    }

    /// What happened since an earlier one. A process that was started again counts from zero.
    pub(super) fn since(&self, earlier: &Sample) -> Rate {
        let seconds = (self.at - earlier.at)
            .max(Duration::from_millis(1))
            .as_secs_f64();
        let grown = |now: f64, then: f64| if now < then { now } else { now - then };
        let cpu = self.cpu.iter().zip(&earlier.cpu);
        let calls = self.calls.iter().zip(&earlier.calls);
        Rate {
            cores: cpu.map(|(now, then)| grown(*now, *then)).sum::<f64>() / seconds,
            calls: calls
                .map(|(now, then)| grown(*now as f64, *then as f64))
                .sum::<f64>()
                / seconds,
            packets: (self.packets - earlier.packets) as f64 / seconds,
            bytes: self.bytes_since(earlier) as f64 / seconds,
        }
    }

    /// Bytes over the loopback interface since an earlier one.
    pub(super) fn bytes_since(&self, earlier: &Sample) -> u64 {
        self.bytes - earlier.bytes
    }
}

impl Rate {
    /// The higher one of each figure.
    pub(super) fn or_more(self, other: Rate) -> Rate {
        Rate {
            cores: self.cores.max(other.cores),
            calls: self.calls.max(other.calls),
            packets: self.packets.max(other.packets),
            bytes: self.bytes.max(other.bytes),
        }
    }
}

/// CPU seconds of a process; none if it is gone.
fn cpu(pid: u32) -> f64 {
    proc::cpu(&fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default())
}

/// Resident bytes of a process; none if it is gone.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    proc::bytes(&status, "VmRSS")
}

/// Bytes and packets that the loopback interface has received.
fn loopback() -> (u64, u64) {
    let devices = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let device = devices
        .lines()
        .find_map(|l| l.trim_start().strip_prefix("lo:"));
    let mut figures = device
        .unwrap_or("")
        .split_whitespace()
        .filter_map(|f| f.parse().ok());
    (figures.next().unwrap_or(0), figures.next().unwrap_or(0))
}
