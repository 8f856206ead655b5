//! Mounts whose descriptor outlives the process: made by hand, and taken over from a dead predecessor.
//!
//! As long as somebody has the descriptor of `/dev/fuse`, a mount lives: who reads waits, or reads on where the kernel
//! reads from a backing file by itself. The successor goes on where the kernel stands: it asks for the requests that the dead
//! process had taken and not answered (`FUSE_NOTIFY_RESEND`, Linux 6.9).

use fuser::{Config, Filesystem, Session, SessionACL};
use rustix::{
    fs::{Mode, OFlags},
    io::{Errno, dup2},
    mount::{MountFlags, mount},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};
use std::{
    ffi::CString,
    fs::File,
    io::{self, Write},
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

/// `FUSE_INIT` of the kernel's `fuse.h`, and the protocol that its message is of.
const INIT: u32 = 26;
const VERSION: [u32; 2] = [7, 40];
/// The flag that says that there are more than 32 flags.
const INIT_EXT: u64 = 1 << 30;
/// `FUSE_NOTIFY_RESEND` of the kernel's `fuse.h`.
const RESEND: u32 = 7;

/// Mounts at `at`, for all users, read-only; nobody serves yet.
pub(crate) fn mount_at(at: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/fuse", flags, Mode::empty())?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
        device.as_raw_fd()
    );
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    mount(
        "forebay",
        at,
        "fuse.forebay",
        flags,
        CString::new(options)?.as_c_str(),
    )?;
    Ok(device.into())
}

/// A session over the device of a mount that a predecessor served. `capabilities` is what the kernel told it.
#[expect(
    unsafe_code,
    reason = "fuser owns the descriptor that has to be exchanged"
)]
pub(crate) fn session<F: Filesystem>(
    filesystem: F,
    device: &File,
    capabilities: u64,
    acl: SessionACL,
    config: Config,
) -> io::Result<Session<F>> {
    // fuser waits for the kernel's first message, which came to the predecessor: it gets another from us, over a socket ...
    let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let (theirs, ours) = socketpair(kind.0, kind.1, SocketFlags::CLOEXEC, None)?;
    rustix::io::write(&ours, &hello(capabilities))?;
    let session = Session::from_fd(filesystem, theirs, acl, config)?;
    // ... in whose place the device comes.
    let number = session.as_fd().as_raw_fd();
    // SAFETY: the number is open and fuser's; it is not closed here, and stays fuser's when it names the device.
    let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    dup2(device, &mut place)?;
    Ok(session)
}

/// Asks for the requests again that the predecessor had not answered.
pub(crate) fn resend(mut device: &File) -> io::Result<()> {
    let mut message = [0; 16];
    message[..4].copy_from_slice(&16_u32.to_ne_bytes());
    message[4..8].copy_from_slice(&RESEND.to_ne_bytes());
    device.write_all(&message)
}

/// Whether an error of [`resend`] means that its mount is gone, or that this kernel cannot do it: then it is as good as gone.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::NODEV, Errno::NOTCONN, Errno::PERM, Errno::INVAL];
    gone.iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The kernel's first message: a `fuse_in_header` and a `fuse_init_in`.
fn hello(capabilities: u64) -> Vec<u8> {
    const LENGTH: usize = 40 + 64;
    let flags = capabilities | INIT_EXT;
    let mut message = vec![0; LENGTH];
    let mut put = |at: usize, value: u32| message[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    put(0, LENGTH as u32);
    put(4, INIT);
    put(8, 1);
    put(40, VERSION[0]);
    put(44, VERSION[1]);
    put(48, 128 << 10);
    put(52, flags as u32);
    put(56, (flags >> 32) as u32);
    message
}
