//! How full a volume is, and how well.

use crate::{
    driver::Driver,
    error::Error,
    mount_table::MountTable,
    proto::csi::{NodeGetVolumeStatsResponse, VolumeCondition, VolumeUsage, volume_usage::Unit},
    volume::VolumeId,
};
use rustix::fs::StatVfs;
use std::path::Path;

/// Of a volume that is staged or published at `path`.
pub async fn of(
    driver: &Driver,
    id: &VolumeId,
    path: &Path,
) -> Result<NodeGetVolumeStatsResponse, Error> {
    if !driver.is_at(id, path) {
        let path = path.display();
        return Err(Error::NotFound(format!("volume {id} is not at {path}")));
    }
    let table = MountTable::read().map_err(Error::system("read", MountTable::PATH))?;
    let stats = match table.at(path) {
        Some(_) => driver.fuse.stats(path).await.map_err(|error| match error {
            Error::System { source, .. } => format!("dead mount at {}: {source}", path.display()),
            other => other.to_string(),
        }),
        None => Err(format!("nothing is mounted at {}", path.display())),
    };
    let fault = match &stats {
        Err(dead) => Some(dead.clone()),
        Ok(_) => host_fault(driver, id).await,
    };
    Ok(NodeGetVolumeStatsResponse {
        usage: usage(stats.ok()),
        volume_condition: Some(VolumeCondition {
            abnormal: fault.is_some(),
            message: fault.unwrap_or_else(|| "the volume can be read".to_owned()),
        }),
    })
}

async fn host_fault(driver: &Driver, id: &VolumeId) -> Option<String> {
    match driver.host.volumes().await {
        Err(error) => Some(error.to_string()),
        Ok(volumes) => match volumes.get(id) {
            None => Some("the FUSE host does not serve the volume".to_owned()),
            Some(state) => (!state.fault.is_empty()).then(|| state.fault.clone()),
        },
    }
}

/// All zero if it is not known: the kubelet drops the condition of an answer without usage.
fn usage(stats: Option<StatVfs>) -> Vec<VolumeUsage> {
    let Some(stats) = stats else {
        return vec![VolumeUsage {
            unit: Unit::Bytes.into(),
            ..VolumeUsage::default()
        }];
    };
    let of = |unit: Unit, total: u64, free: u64, available: u64| VolumeUsage {
        unit: unit.into(),
        total: number(total),
        used: number(total.saturating_sub(free)),
        available: number(available),
    };
    let bytes = |blocks: u64| blocks.saturating_mul(stats.f_frsize);
    vec![
        of(
            Unit::Bytes,
            bytes(stats.f_blocks),
            bytes(stats.f_bfree),
            bytes(stats.f_bavail),
        ),
        of(Unit::Inodes, stats.f_files, stats.f_ffree, stats.f_favail),
    ]
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
