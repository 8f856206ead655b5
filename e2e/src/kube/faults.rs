//! Everything is killed or replaced while pods read.

use super::{Trial, trial::PATIENCE};
use anyhow::ensure;
use std::time::{Duration, Instant};

/// The longest pause that a reader may have.
const PAUSE: Duration = Duration::from_mins(1);

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    let (big, _) = trial.data("faults", 48 << 20, 100)?;
    trial.cluster("faults")?;
    trial.dataset("default", "faults", "faults", "faults", "minio-credentials")?;
    trial.ready("default", "faults")?;
    trial
        .kubectl
        .wait(&["cachecluster/faults"], "condition=Ready", PATIENCE)?;
    let readers = trial.readers("faults", &big)?;
    let read_on = || -> anyhow::Result<Duration> {
        let begun = Instant::now();
        for reader in &readers {
            reader.reads_on(PAUSE)?;
        }
        Ok(begun.elapsed())
    };
    read_on()?;
    let mut worst = Duration::ZERO;
    let mut kills = 0;
    if let Some(cluster) = &trial.throw_away {
        for what in [
            "/usr/bin/forebay node",
            "/usr/bin/forebay node",
            "/usr/bin/forebay worker",
            "/usr/bin/forebay master",
            "/usr/bin/forebay-csi",
            "/usr/bin/forebay-operator",
        ] {
            let mut killed = 0;
            for node in &trial.nodes {
                killed += cluster.kill(node, what)?;
            }
            ensure!(killed > 0, "there is no {what} to kill");
            kills += killed;
            worst = worst.max(read_on()?);
        }
    }
    // A new image of the node pods, and of the masters and workers, as an update would do it.
    for what in ["daemonset/forebay-node", "deployment/forebay-operator"] {
        trial
            .kubectl
            .run(&["rollout", "restart", "-n", "forebay-system", what])?;
        trial.kubectl.run(&[
            "rollout",
            "status",
            "-n",
            "forebay-system",
            what,
            "--timeout=120s",
        ])?;
        worst = worst.max(read_on()?);
    }
    for label in ["master", "worker"] {
        let selector =
            format!("app.kubernetes.io/instance=faults,app.kubernetes.io/component={label}");
        trial.kubectl.run(&[
            "delete",
            "pod",
            "-n",
            "default",
            "-l",
            &selector,
            "--timeout=60s",
        ])?;
        worst = worst.max(read_on()?);
    }
    for reader in readers {
        reader.delete()?;
    }
    trial.delete("default", &["dataset/faults", "cachecluster/faults"])?;
    Ok(format!(
        "{kills} processes killed, 4 replacements; slowest to have read everything again {:.1} s",
        worst.as_secs_f64()
    ))
}
