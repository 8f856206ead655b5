//! Backing files, as the kernel knows them: by a number of the session. fuser's own type cannot be made of a number
//! that a predecessor was given, but in an answer; ours can.

use crate::inode::Backed;
use fuser::{BackingId, FileHandle, FopenFlags, ReplyOpen};
use rustix::ioctl::{Setter, ioctl, opcode};
use std::{
    fs::File,
    io,
    os::fd::AsFd,
    sync::{Arc, OnceLock},
};

/// `FUSE_DEV_IOC_BACKING_CLOSE` of the kernel's `fuse.h`.
const CLOSE: rustix::ioctl::Opcode = opcode::write::<u32>(229, 2);

/// The session's device, known as soon as the session is there.
pub(crate) type Device = Arc<OnceLock<File>>;

/// A backing file of the session; the kernel lets go of it with the last clone.
#[derive(Clone, Debug)]
pub struct Backing(Arc<Open>);

#[derive(Debug)]
struct Open {
    device: Device,
    number: u32,
}

impl Backing {
    /// Registers `file`.
    pub(crate) fn open(device: &Device, file: &File) -> io::Result<Backing> {
        let session = device.get().ok_or(io::ErrorKind::NotConnected)?;
        let number = BackingId::create_raw(session, file)?;
        Ok(Backing::adopt(device, number))
    }

    /// One that a predecessor registered.
    pub(crate) fn adopt(device: &Device, number: u32) -> Backing {
        let device = device.clone();
        Backing(Arc::new(Open { device, number }))
    }

    /// Answers an open with it.
    #[expect(
        unsafe_code,
        reason = "fuser knows no other way to name a backing file by its number"
    )]
    pub(crate) fn answer(&self, reply: ReplyOpen, flags: FopenFlags) {
        // SAFETY: the number is of this session and open as long as `self` lives; `into_raw` keeps fuser from closing it.
        let id = unsafe { reply.wrap_backing(self.0.number) };
        reply.opened_passthrough(FileHandle(0), flags, &id);
        id.into_raw();
    }
}

impl Backed for Backing {
    fn number(&self) -> u32 {
        self.0.number
    }
}

impl Drop for Open {
    #[expect(unsafe_code, reason = "an ioctl that neither fuser nor rustix has")]
    fn drop(&mut self) {
        let Some(device) = self.device.get() else {
            return;
        };
        // SAFETY: the kernel reads one u32 and changes nothing of ours.
        let closed = unsafe { ioctl(device.as_fd(), Setter::<CLOSE, u32>::new(self.number)) };
        if let Err(error) = closed {
            tracing::debug!(%error, "the kernel does not close a backing file");
        }
    }
}
