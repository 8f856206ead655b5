//! A node goes, with everything on it, and comes back.

use super::{Trial, reader::Reader, trial::PATIENCE};
use anyhow::Context;
use std::time::Instant;

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    let Some(cluster) = &trial.throw_away else {
        return Ok("left out: nodes of this cluster are not ours to kill".to_owned());
    };
    let (big, _) = trial.data("node", 16 << 20, 50)?;
    let home = trial.bucket_node()?;
    let mut others = trial.nodes.iter().filter(|node| **node != home);
    let victim = others.next().context("a second node")?;
    // The bucket and the master stay: what is looked at is the node of readers and of a part of the cache.
    trial.kubectl.apply(&format!(
        r"
apiVersion: forebay.io/v1alpha1
kind: CacheCluster
metadata: {{name: node, namespace: default}}
spec:
  masters: {{replicas: 1, nodeSelector: {{kubernetes.io/hostname: {home}}}}}
  workers:
  - name: default
    tiers:
    - {{medium: SSD, quota: 2Gi, hostPath: /var/lib/forebay}}
"
    ))?;
    trial.dataset("default", "node", "node", "node", "minio-credentials")?;
    trial.ready("default", "node")?;
    trial
        .kubectl
        .wait(&["cachecluster/node"], "condition=Ready", PATIENCE)?;
    let readers = trial.readers("node", &big)?;
    for reader in &readers {
        reader.reads_on(PATIENCE)?;
    }
    let mut readers: Vec<Reader> = readers;
    let at = trial.nodes.iter().position(|node| node == victim);
    let lost = readers.remove(at.context("the victim is a node")?);
    cluster.power_off(victim)?;
    for reader in &readers {
        reader.reads_on(PATIENCE)?;
    }
    // It stays away until it is taken for lost.
    let node = format!("node/{victim}");
    trial
        .kubectl
        .wait(&[&node], "condition=Ready=Unknown", PATIENCE)?;
    for reader in &readers {
        reader.reads_on(PATIENCE)?;
    }
    let begun = Instant::now();
    cluster.power_on(victim)?;
    trial.kubectl.wait(&[&node], "condition=Ready", PATIENCE)?;
    // Its pod may be gone by now, and would not come back: it belongs to nobody.
    lost.delete()?;
    let name = format!("again-on-{victim}");
    let again = Reader::start(&trial.kubectl, "default", &name, "node", Some(victim), &big)?;
    again.reads_on(PATIENCE)?;
    let back = begun.elapsed();
    for reader in &readers {
        reader.reads_on(PATIENCE)?;
    }
    again.delete()?;
    for reader in readers {
        reader.delete()?;
    }
    trial.delete("default", &["dataset/node", "cachecluster/node"])?;
    Ok(format!(
        "{victim} was off; the other read on; {:.0} s after power on a pod there read everything",
        back.as_secs_f64()
    ))
}
