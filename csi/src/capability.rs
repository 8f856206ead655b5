//! How a pod wants to use a volume: what of it is granted.

use crate::{
    flag::{Flag, Flags},
    proto::csi::{
        VolumeCapability,
        volume_capability::{AccessType, access_mode::Mode},
    },
};

/// The flags that a capability means. Volumes are read: a capability that would write is refused.
pub fn flags(capability: Option<VolumeCapability>) -> Result<Flags, String> {
    let capability = capability.ok_or("no volume capability")?;
    let mode = capability.access_mode.map_or(Mode::Unknown, |m| m.mode());
    match mode {
        Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly => {}
        Mode::Unknown => return Err("no access mode, or one that is not known".to_owned()),
        Mode::SingleNodeWriter
        | Mode::SingleNodeSingleWriter
        | Mode::SingleNodeMultiWriter
        | Mode::MultiNodeSingleWriter
        | Mode::MultiNodeMultiWriter => {
            return Err(format!(
                "access mode {} ({}) would write, and volumes are only read: give the \
                 PersistentVolume and the PersistentVolumeClaim accessModes: [ReadOnlyMany]",
                name_in_kubernetes(mode),
                mode.as_str_name(),
            ));
        }
    }
    let mount = match capability.access_type {
        Some(AccessType::Mount(mount)) => mount,
        Some(AccessType::Block(_)) => {
            return Err("a volume is no block device: use volumeMode: Filesystem".to_owned());
        }
        None => return Err("the volume capability has no access type".to_owned()),
    };
    if !mount.fs_type.is_empty() {
        return Err(format!(
            "file system type '{}' is not known: leave fsType away",
            mount.fs_type.escape_debug()
        ));
    }
    let mut flags = Flags::from([Flag::Ro]);
    for name in &mount.mount_flags {
        let flag = Flag::from_name(name).ok_or_else(|| {
            format!(
                "mount option '{}' is not known: use {}",
                name.escape_debug(),
                Flag::known()
            )
        })?;
        flags.insert(flag);
    }
    Ok(flags)
}

/// What users write in `accessModes`.
fn name_in_kubernetes(mode: Mode) -> &'static str {
    match mode {
        Mode::MultiNodeMultiWriter | Mode::MultiNodeSingleWriter => "ReadWriteMany",
        Mode::SingleNodeSingleWriter => "ReadWriteOncePod",
        Mode::SingleNodeWriter | Mode::SingleNodeMultiWriter => "ReadWriteOnce",
        Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly | Mode::Unknown => "ReadOnlyMany",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::csi::volume_capability::{AccessMode, BlockVolume, MountVolume};

    fn capability(mode: Mode, access_type: impl Into<Option<AccessType>>) -> VolumeCapability {
        VolumeCapability {
            access_mode: Some(AccessMode { mode: mode.into() }),
            access_type: access_type.into(),
        }
    }

    fn mount(flags: &[&str], fs_type: &str) -> AccessType {
        AccessType::Mount(MountVolume {
            fs_type: fs_type.to_owned(),
            mount_flags: flags.iter().map(|f| (*f).to_owned()).collect(),
            ..MountVolume::default()
        })
    }

    #[test]
    fn readers_are_granted_read_only() {
        for mode in [Mode::SingleNodeReaderOnly, Mode::MultiNodeReaderOnly] {
            let got = flags(Some(capability(
                mode,
                mount(&["noexec", "ro", "noatime"], ""),
            )));
            let expected = Flags::from([Flag::Ro, Flag::NoExec, Flag::NoAtime]);
            assert_eq!(got, Ok(expected));
            assert_eq!(
                flags(Some(capability(mode, mount(&[], "")))),
                Ok(Flags::from([Flag::Ro]))
            );
        }
    }

    #[test]
    fn refusals_say_what_to_write_instead() {
        let reader = Mode::MultiNodeReaderOnly;
        for (capability, expected) in [
            (None, "no volume capability"),
            (
                Some(capability(Mode::MultiNodeMultiWriter, mount(&[], ""))),
                "access mode ReadWriteMany (MULTI_NODE_MULTI_WRITER) would write",
            ),
            (
                Some(capability(Mode::SingleNodeWriter, mount(&[], ""))),
                "access mode ReadWriteOnce (SINGLE_NODE_WRITER) would write",
            ),
            (
                Some(capability(Mode::Unknown, mount(&[], ""))),
                "no access mode",
            ),
            (
                Some(capability(reader, AccessType::Block(BlockVolume {}))),
                "no block device",
            ),
            (Some(capability(reader, None)), "no access type"),
            (
                Some(capability(reader, mount(&["ro", "sync"], ""))),
                "mount option 'sync' is not known: use ro, nosuid, nodev, noexec, noatime",
            ),
            (
                Some(capability(reader, mount(&[], "ext4"))),
                "file system type 'ext4'",
            ),
        ] {
            let error = flags(capability).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
