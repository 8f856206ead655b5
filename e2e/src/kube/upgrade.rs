//! Another image of everything, while pods read.

use super::{Trial, throw_away::IMAGE, trial::PATIENCE};
use anyhow::ensure;
use std::time::{Duration, Instant};

/// The longest pause that a reader may have.
const PAUSE: Duration = Duration::from_mins(1);
/// The same under another name.
const NEXT: &str = "forebay:next";

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    let Some(cluster) = &trial.throw_away else {
        return Ok("left out: there is no second image on the nodes of this cluster".to_owned());
    };
    let kubectl = &trial.kubectl;
    let (big, _) = trial.data("upgrade", 32 << 20, 100)?;
    trial.cluster("upgrade")?;
    trial.dataset(
        "default",
        "upgrade",
        "upgrade",
        "upgrade",
        "minio-credentials",
    )?;
    trial.ready("default", "upgrade")?;
    kubectl.wait(&["cachecluster/upgrade"], "condition=Ready", PATIENCE)?;
    let readers = trial.readers("upgrade", &big)?;
    let read_on = || -> anyhow::Result<()> {
        for reader in &readers {
            reader.reads_on(PAUSE)?;
        }
        Ok(())
    };
    read_on()?;
    cluster.tag(IMAGE, NEXT)?;
    let begun = Instant::now();
    let change_to = |image: &str| -> anyhow::Result<()> {
        let operator = format!("operator={image}");
        let node = [format!("fuse={image}"), format!("csi={image}")];
        let system = ["-n", "forebay-system"];
        let run = |args: &[&str]| kubectl.run(&[args, &system].concat());
        run(&["set", "image", "daemonset/forebay-node", &node[0], &node[1]])?;
        let variable = format!("FOREBAY_OPERATOR_IMAGE={image}");
        run(&["set", "env", "deployment/forebay-operator", &variable])?;
        run(&["set", "image", "deployment/forebay-operator", &operator])?;
        for what in ["daemonset/forebay-node", "deployment/forebay-operator"] {
            run(&["rollout", "status", what, "--timeout=120s"])?;
        }
        let pods = [
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/instance=upgrade",
            "-o",
            "jsonpath={range .items[*]}{.spec.containers[0].image} {.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}",
        ];
        let wanted = format!("{image} True");
        kubectl.until(
            "masters and workers of the new image",
            PATIENCE,
            &pods,
            |pods| !pods.is_empty() && pods.lines().all(|pod| pod == wanted),
        )?;
        read_on()
    };
    change_to(NEXT)?;
    let took = begun.elapsed();
    let old = kubectl.run(&[
        "get",
        "pods",
        "-A",
        "-l",
        "app.kubernetes.io/component!=keeper",
        "-o",
        "jsonpath={.items[*].spec.containers[*].image}",
    ])?;
    ensure!(
        !old.split_whitespace().any(|image| image == IMAGE),
        "some pods still have the old image: {old}"
    );
    change_to(IMAGE)?;
    for reader in readers {
        reader.delete()?;
    }
    trial.delete("default", &["dataset/upgrade", "cachecluster/upgrade"])?;
    Ok(format!(
        "everything but the keeper had another image after {:.0} s, and back",
        took.as_secs_f64()
    ))
}
