//! Packets with a file descriptor: a Unix `SOCK_SEQPACKET` socket for tokio. The node's worker and
//! its FUSE host talk through it.

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType, bind, connect, listen, recvmsg, sendmsg, socket_with,
    },
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
};

/// Largest packet, in bytes: a file reference with a long key fits many times.
pub const MAX_PACKET: usize = 64 << 10;

const CONTROL: usize = rustix::cmsg_space!(ScmRights(1));
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// A connected socket. Sending and receiving may go on at the same time.
#[derive(Debug)]
pub struct Socket {
    // tokio knows no packet sockets; its stream only watches the descriptor here, all calls are ours.
    fd: UnixStream,
}

/// A packet that came in: its length in the buffer, and the descriptor that came with it.
#[derive(Debug)]
pub struct Packet {
    /// Bytes written to the buffer.
    pub len: usize,
    /// The descriptor.
    pub fd: Option<OwnedFd>,
}

impl Socket {
    /// Connects to the socket at `path`. Must be called within a tokio runtime, like all of this type.
    pub fn connect(path: &Path) -> io::Result<Socket> {
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
        connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Socket {
            fd: UnixStream::from_std(fd.into())?,
        })
    }

    /// Sends without waiting; `WouldBlock` if the other side does not keep up.
    pub fn try_send(&self, packet: &[u8], passed: Option<BorrowedFd<'_>>) -> io::Result<()> {
        send_now(self.fd.as_fd(), packet, passed)
    }

    /// Sends a packet, with a descriptor if there is one.
    pub async fn send(&self, packet: &[u8], passed: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match self.try_send(packet, passed) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        self.fd
            .async_io(Interest::WRITABLE, || {
                send_now(self.fd.as_fd(), packet, passed)
            })
            .await
    }

    /// Receives a packet; `None` when the other side has hung up. A packet longer than `buffer` is an
    /// error: use [`MAX_PACKET`].
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<Option<Packet>> {
        self.fd
            .async_io(Interest::READABLE, || recv_now(self.fd.as_fd(), buffer))
            .await
    }
}

fn send_now(fd: BorrowedFd<'_>, packet: &[u8], passed: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let passed: Vec<BorrowedFd<'_>> = passed.into_iter().collect();
    if !passed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&passed));
    }
    loop {
        match sendmsg(
            fd,
            &[IoSlice::new(packet)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn recv_now(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<Packet>> {
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut slices = [IoSliceMut::new(buffer)];
        match recvmsg(fd, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    if message.bytes == 0 {
        return Ok(None);
    }
    if message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "packet is too long",
        ));
    }
    Ok(Some(Packet {
        len: message.bytes,
        fd,
    }))
}

/// Takes connections.
#[derive(Debug)]
pub struct Listener {
    fd: UnixListener,
}

impl Listener {
    /// Listens at `path`, in place of a socket that a dead predecessor left there.
    pub fn bind(path: &Path) -> io::Result<Listener> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
        bind(&fd, &SocketAddrUnix::new(path)?)?;
        listen(&fd, 128)?;
        Ok(Listener {
            fd: UnixListener::from_std(fd.into())?,
        })
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<Socket> {
        let (fd, _) = self.fd.accept().await?;
        Ok(Socket { fd })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::Read, io::Seek, io::Write};

    #[tokio::test]
    async fn packets_keep_their_bounds_and_carry_a_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::bind(&path).unwrap();
        let client = Socket::connect(&path).unwrap();
        let server = listener.accept().await.unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        server.send(b"one", None).await.unwrap();
        server.send(b"second", Some(file.as_fd())).await.unwrap();
        drop(server);
        let mut buffer = vec![0; MAX_PACKET];
        let first = client.recv(&mut buffer).await.unwrap().unwrap();
        assert_eq!(
            (&buffer[..first.len], first.fd.is_none()),
            (&b"one"[..], true)
        );
        let second = client.recv(&mut buffer).await.unwrap().unwrap();
        assert_eq!(&buffer[..second.len], b"second");
        let mut passed = File::from(second.fd.unwrap());
        let mut text = String::new();
        passed.rewind().unwrap();
        passed.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert!(client.recv(&mut buffer).await.unwrap().is_none());
    }
}
