//! What the processes of a node have used.

use crate::{kube::ThrowAway, proc};
use anyhow::ensure;

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// CPU seconds.
    pub(super) cpu: f64,
    /// Resident bytes now.
    pub(super) resident: u64,
    /// The most that were.
    pub(super) peak: u64,
}

impl Usage {
    /// That of the newest process of a node whose command line begins like this.
    pub(super) fn of(cluster: &ThrowAway, node: &str, command: &str) -> anyhow::Result<Usage> {
        let line = format!("p=$(pgrep -n -f \"^{command}\") && cat /proc/$p/stat /proc/$p/status");
        let said = cluster.on_node(node, &line)?;
        let usage = Usage {
            cpu: proc::cpu(said.lines().next().unwrap_or_default()),
            resident: proc::bytes(&said, "VmRSS"),
            peak: proc::bytes(&said, "VmHWM"),
        };
        ensure!(usage.peak > 0, "{command} on {node}: {said}");
        Ok(usage)
    }
}
