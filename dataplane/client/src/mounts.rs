//! Changes of the mount table.

use crate::{Master, Result};
use forebay_proto::{
    convert::mount_to_wire,
    v1::{MountRequest, UnmountRequest},
};
use forebay_types::{MountId, MountSpec};

impl Master {
    /// Mounts for the whole cluster, until [`Master::unmount`]; an equal mount is left as it is.
    pub async fn mount(&self, spec: &MountSpec) -> Result<MountId> {
        // The master gives it a number.
        let mount = Some(mount_to_wire(MountId(0), spec));
        let ask = || {
            let (mut admin, mount) = (self.admin(), mount.clone());
            async move { admin.mount(MountRequest { mount }).await }
        };
        let answer = self.retrying("mount", ask).await?;
        Ok(MountId(answer.into_inner().id))
    }

    /// Takes away what [`Master::mount`] mounted.
    pub async fn unmount(&self, path: &str) -> Result<()> {
        let ask = || {
            let (mut admin, path) = (self.admin(), path.to_owned());
            async move { admin.unmount(UnmountRequest { path }).await }
        };
        self.retrying("unmount", ask).await.map(drop)
    }
}
