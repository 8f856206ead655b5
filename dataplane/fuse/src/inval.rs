//! The one notification that fuser does not know: a new epoch, which makes the kernel look up every
//! name again (Linux 6.16, `FUSE_NOTIFY_INC_EPOCH`).

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, Ordering},
};

/// `FUSE_NOTIFY_INC_EPOCH` of the kernel's `fuse.h`.
const INC_EPOCH: u32 = 8;

/// Raises the epoch of a mount.
pub(crate) struct Epoch {
    device: File,
    missing: AtomicBool,
}

impl Epoch {
    /// Over another descriptor of the session's device.
    pub(crate) fn new(device: OwnedFd) -> Epoch {
        Epoch {
            device: File::from(device),
            missing: AtomicBool::new(false),
        }
    }

    /// One more descriptor of the device.
    pub(crate) fn device(&self) -> io::Result<File> {
        self.device.try_clone()
    }

    /// Raises it; says once if the kernel cannot.
    pub(crate) fn raise(&self) {
        let told = (&self.device).write(&message());
        match told {
            Err(error)
                if error.kind() == io::ErrorKind::InvalidInput
                    && !self.missing.swap(true, Ordering::Relaxed) =>
            {
                tracing::info!(
                    "this kernel cannot forget all names at once (Linux 6.16 can); they end with their leases"
                );
            }
            Err(error) => tracing::debug!(%error, "the kernel does not take a new epoch"),
            Ok(_) => {}
        }
    }
}

/// A `fuse_out_header`: length, code in the place of the error, and no request.
fn message() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&16u32.to_ne_bytes());
    bytes[4..8].copy_from_slice(&INC_EPOCH.to_ne_bytes());
    bytes
}
