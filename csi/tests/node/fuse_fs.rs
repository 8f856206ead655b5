//! The smallest FUSE file system: it can be asked for its figures, fall silent and die.

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags, open},
    io::{Errno, write},
    mount::{MountFlags, mount},
};
use std::{
    ffi::CString,
    io::{PipeReader, PipeWriter, Read, Write, pipe},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// What it says it holds.
pub(crate) const BLOCKS: u64 = 1000;
pub(crate) const BLOCK_SIZE: u32 = 4096;

const HEADER: usize = 40;
const INIT: u32 = 26;
const STATFS: u32 = 17;

/// One that is mounted. Dropped, it dies.
pub(crate) struct FuseFs {
    silent: Arc<AtomicBool>,
    wake: Option<PipeWriter>,
    server: Option<JoinHandle<()>>,
}

impl FuseFs {
    pub(crate) fn mount(point: &Path) -> FuseFs {
        let device = open("/dev/fuse", OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let options = CString::new(options).unwrap();
        mount("forebay", point, "fuse", flags, Some(options.as_c_str())).unwrap();
        let silent = Arc::new(AtomicBool::new(false));
        let (mut woken, wake) = pipe().unwrap();
        let quiet = Arc::clone(&silent);
        let server = thread::spawn(move || serve(&device, &mut woken, &quiet));
        FuseFs {
            silent,
            wake: Some(wake),
            server: Some(server),
        }
    }

    /// Takes requests no more.
    pub(crate) fn fall_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
        self.wake.as_ref().unwrap().write_all(b".").unwrap();
    }
}

impl Drop for FuseFs {
    fn drop(&mut self) {
        drop(self.wake.take());
        self.server.take().unwrap().join().unwrap();
    }
}

fn serve(device: &OwnedFd, woken: &mut PipeReader, silent: &AtomicBool) {
    let mut request = vec![0; 1 << 20];
    loop {
        let mut fds = vec![PollFd::new(&*woken, PollFlags::IN)];
        if !silent.load(Ordering::SeqCst) {
            fds.push(PollFd::new(device, PollFlags::IN));
        }
        poll(&mut fds, None).unwrap();
        let told = fds[0].revents();
        if told.contains(PollFlags::IN) {
            woken.read_exact(&mut request[..1]).unwrap();
            continue;
        }
        if told.contains(PollFlags::HUP) {
            return;
        }
        match rustix::io::read(device, &mut request[..]) {
            Ok(length) => answer(device, &request[..length]),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => {}
            // Unmounted.
            Err(_) => return,
        }
    }
}

fn answer(device: &OwnedFd, request: &[u8]) {
    assert!(request.len() >= HEADER);
    let opcode = u32::from_ne_bytes(request[4..8].try_into().unwrap());
    let unique = &request[8..16];
    let (error, body) = match opcode {
        INIT => (0, init()),
        STATFS => (0, statfs()),
        _ => (-Errno::NOSYS.raw_os_error(), Vec::new()),
    };
    let mut reply = Vec::new();
    reply.extend(u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
    reply.extend(error.to_ne_bytes());
    reply.extend(unique);
    reply.extend(body);
    // Nobody waits any more if this fails.
    let _ = write(device, &reply);
}

fn init() -> Vec<u8> {
    let mut body = Vec::new();
    for word in [7_u32, 31, 1 << 16, 0, 0, 4096, 1] {
        body.extend(word.to_ne_bytes());
    }
    body.resize(64, 0);
    body
}

fn statfs() -> Vec<u8> {
    let mut body = Vec::new();
    for count in [BLOCKS, BLOCKS / 2, BLOCKS / 4, 50, 20] {
        body.extend(count.to_ne_bytes());
    }
    for word in [BLOCK_SIZE, 255, BLOCK_SIZE] {
        body.extend(word.to_ne_bytes());
    }
    body.resize(80, 0);
    body
}
