//! `forebay fs mount` and `forebay fs unmount`: the mount table of a running cluster.

use crate::{
    args::{FsMountArgs, FsUnmountArgs, MountArgs},
    failure::Failure,
    mount_arg,
};
use forebay_client::Master;
use forebay_types::Addresses;

/// Mounts; an equal mount is left as it is.
pub(crate) async fn mount(master: Option<&Addresses>, args: &FsMountArgs) -> Result<(), Failure> {
    let master = Master::new(needed(master)?);
    let path = mount_arg::tree_path(&args.path)?;
    let wanted = MountArgs {
        uris: vec![format!("{path}={}", args.uri)],
        options: args.options.clone(),
    };
    for spec in mount_arg::mounts(&wanted)? {
        master.mount(&spec).await?;
    }
    Ok(())
}

/// Unmounts.
pub(crate) async fn unmount(
    master: Option<&Addresses>,
    args: &FsUnmountArgs,
) -> Result<(), Failure> {
    let master = Master::new(needed(master)?);
    let path = mount_arg::tree_path(&args.path)?;
    master.unmount(&path).await?;
    Ok(())
}

fn needed(master: Option<&Addresses>) -> Result<&Addresses, Failure> {
    master.ok_or_else(|| {
        Failure::usage("which cluster? give --master ADDRESS, or set FOREBAY_MASTER")
    })
}
