//! A wrong Secret, then the right one.

use super::{
    Trial, bucket,
    trial::{PATIENCE, secret},
};
use std::time::{Duration, Instant};

/// How soon a person must see what is wrong, and that it is mended.
const SOON: Duration = Duration::from_secs(10);

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    let (big, _) = trial.data("secret", 1 << 20, 3)?;
    trial.kubectl.apply(&secret("changing", "wrong-password"))?;
    trial.cluster("secret")?;
    trial
        .kubectl
        .wait(&["cachecluster/secret"], "condition=Ready", PATIENCE)?;
    trial.dataset("default", "secret", "secret", "secret", "changing")?;
    let reason = [
        "get",
        "dataset/secret",
        "-o",
        "jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}",
    ];
    let begun = Instant::now();
    let told = trial
        .kubectl
        .until("the Dataset says what is wrong", SOON, &reason, |reason| {
            reason == "AccessDenied"
        })?;
    let said = begun.elapsed();
    trial.kubectl.apply(&secret("changing", bucket::PASSWORD))?;
    let begun = Instant::now();
    let limit = SOON + Duration::from_secs(5);
    trial
        .kubectl
        .wait(&["dataset/secret"], "condition=Ready", limit)?;
    let mended = begun.elapsed();
    let readers = trial.readers("secret", &big)?;
    for reader in readers {
        reader.reads_on(PATIENCE)?;
        reader.delete()?;
    }
    trial.delete(
        "default",
        &["dataset/secret", "cachecluster/secret", "secret/changing"],
    )?;
    Ok(format!(
        "{told} after {:.1} s, ready {:.1} s after the right one",
        said.as_secs_f64(),
        mended.as_secs_f64()
    ))
}
