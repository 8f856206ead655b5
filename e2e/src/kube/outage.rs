//! The API server is away.

use super::{Trial, trial::PATIENCE};
use anyhow::ensure;
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// How long it is away.
const AWAY: Duration = Duration::from_mins(2);

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    let Some(cluster) = &trial.throw_away else {
        return Ok("left out: the API server of this cluster is not ours to stop".to_owned());
    };
    let (big, _) = trial.data("outage", 16 << 20, 50)?;
    trial.cluster("outage")?;
    trial.dataset("default", "outage", "outage", "outage", "minio-credentials")?;
    trial.ready("default", "outage")?;
    trial
        .kubectl
        .wait(&["cachecluster/outage"], "condition=Ready", PATIENCE)?;
    let readers = trial.readers("outage", &big)?;
    let mut before = Vec::new();
    for reader in &readers {
        before.push(reader.reads_on(PATIENCE)?);
    }
    cluster.stop_api_server()?;
    // A reading is what is measured here, not a wait for something to happen.
    sleep(AWAY);
    cluster.start_api_server()?;
    let begun = Instant::now();
    let mut rounds = u64::MAX;
    for (reader, before) in readers.iter().zip(before) {
        rounds = rounds.min(reader.reads_on(PATIENCE)? - before);
    }
    // A round takes less than a second; half of that is asked for.
    let wanted = AWAY.as_secs() / 2;
    ensure!(
        rounds > wanted,
        "while the API server was away a pod read everything only {rounds} times"
    );
    // What is wanted from now on takes effect.
    trial.dataset("default", "later", "outage", "outage", "minio-credentials")?;
    trial.ready("default", "later")?;
    let back = begun.elapsed();
    for reader in readers {
        reader.delete()?;
    }
    trial.delete(
        "default",
        &["dataset/later", "dataset/outage", "cachecluster/outage"],
    )?;
    Ok(format!(
        "pods read everything {rounds} times while it was away; another Dataset was ready {:.0} s after it came back",
        back.as_secs_f64()
    ))
}
