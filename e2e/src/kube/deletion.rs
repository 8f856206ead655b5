//! Deleting in any order leaves nothing.

use super::{Trial, trial::PATIENCE};
use anyhow::ensure;
use std::time::Duration;

const GONE: Duration = Duration::from_mins(1);

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    let (big, _) = trial.data("deletion", 1 << 20, 3)?;
    let orders: [&[&str]; 4] = [
        &["pods", "dataset/gone", "cachecluster/gone"],
        &["cachecluster/gone", "dataset/gone", "pods"],
        &["dataset/gone", "pods", "cachecluster/gone"],
        &["pods", "cachecluster/gone", "dataset/gone"],
    ];
    for order in orders {
        trial.cluster("gone")?;
        trial.dataset("default", "gone", "gone", "deletion", "minio-credentials")?;
        trial.ready("default", "gone")?;
        for reader in trial.readers("gone", &big)? {
            reader.reads_on(PATIENCE)?;
        }
        for what in order {
            let what = if *what == "pods" {
                vec!["pods", "-l", "app=reader"]
            } else {
                vec![*what]
            };
            let mut args = vec!["delete", "-n", "default", "--wait=false"];
            args.extend(what);
            trial.kubectl.run(&args)?;
        }
        let left = [
            "get",
            "cc,dset,pvc,sts,ds,pods,svc,cm,pdb",
            "-n",
            "default",
            "-o",
            "name",
        ];
        trial
            .kubectl
            .until("everything is gone", GONE, &left, |left| {
                let ours = |line: &&str| line.contains("gone");
                !left.lines().any(|line| ours(&line))
            })?;
        let volumes = [
            "get",
            "pv",
            "-o",
            "jsonpath={.items[?(@.spec.csi.driver==\"csi.forebay.io\")].metadata.name}",
        ];
        trial
            .kubectl
            .until("no volume is left", GONE, &volumes, |left| {
                left.trim().is_empty()
            })?;
        if let Some(cluster) = &trial.throw_away {
            for node in &trial.nodes {
                let mounts =
                    cluster.on_node(node, "grep -c fuse.forebay /proc/self/mountinfo || true")?;
                let disk = cluster
                    .on_node(node, "ls /var/lib/forebay /run/forebay | grep -- - || true")?;
                ensure!(disk.is_empty(), "the disk of {node} still has {disk}");
                ensure!(
                    mounts.trim() == "0",
                    "{node} has {} mounts left",
                    mounts.trim()
                );
            }
        }
    }
    Ok(format!("{} orders", orders.len()))
}
