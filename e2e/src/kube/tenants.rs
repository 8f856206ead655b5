//! Two tenants of one cluster.

use super::{
    Trial,
    reader::Reader,
    trial::{PATIENCE, secret},
};
use anyhow::ensure;

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    let kubectl = &trial.kubectl;
    trial.cluster("shared")?;
    let mut readers = Vec::new();
    for (tenant, size) in [("team-a", 2 << 20), ("team-b", 3 << 20)] {
        let (big, _) = trial.data(tenant, size, 2)?;
        kubectl.run(&["create", "namespace", tenant])?;
        let own = secret("minio-credentials", super::bucket::PASSWORD);
        kubectl.apply(&own.replace("namespace: default", &format!("namespace: {tenant}")))?;
        // The same name: only the namespaces tell them apart.
        trial.dataset(tenant, "data", "shared", tenant, "minio-credentials")?;
        trial.ready(tenant, "data")?;
        readers.push((
            tenant,
            Reader::start(kubectl, tenant, "reader", "data", None, &big)?,
        ));
    }
    for (tenant, reader) in readers {
        reader.reads_on(PATIENCE)?;
        let seen = reader.sees()?;
        let files: Vec<&str> = seen.lines().collect();
        ensure!(files.len() == 3, "{tenant} sees {files:?}");
        reader.delete()?;
        trial.delete(tenant, &["dataset/data"])?;
        trial.delete("default", &["namespace", tenant])?;
    }
    trial.delete("default", &["cachecluster/shared"])?;
    Ok("3 files each, of their own".to_owned())
}
