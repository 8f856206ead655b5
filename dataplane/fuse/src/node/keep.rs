//! What is left with the keeper, so that a successor of this process finds the mounts.

use crate::keeper::{DONE, DROP, KEEP, LIST};
use backon::BackoffBuilder;
use forebay_client::{
    call::backoff,
    seqpacket::{MAX_PACKET, Socket},
};
use forebay_service::Shutdown;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// A keeper that does not answer for so long is not there.
const PATIENCE: Duration = Duration::from_secs(2);

/// Descriptors by name, with the keeper and with us.
pub(super) struct Keep {
    socket: PathBuf,
    ours: Mutex<BTreeMap<String, Arc<OwnedFd>>>,
}

impl Keep {
    /// With the keeper at `socket`; it is given everything again whenever it was away.
    pub(super) fn new(socket: &Path, shutdown: &Shutdown) -> Arc<Keep> {
        let keep = Arc::new(Keep {
            socket: socket.to_owned(),
            ours: Mutex::default(),
        });
        shutdown.spawn(keep.clone().follow());
        keep
    }

    /// What a predecessor left.
    pub(super) async fn inherited(&self) -> io::Result<BTreeMap<String, OwnedFd>> {
        let mut found = BTreeMap::new();
        let listed = async {
            let mut waits = backoff().build();
            let socket = loop {
                match (Socket::connect(&self.socket), waits.next()) {
                    (Ok(socket), _) => break socket,
                    (Err(error), None) => return Err(error),
                    (Err(_), Some(wait)) => sleep(wait).await,
                }
            };
            socket.send(&[LIST], None).await?;
            let mut buffer = vec![0; MAX_PACKET];
            loop {
                let packet = socket.recv(&mut buffer).await?;
                let packet = packet.ok_or(io::ErrorKind::UnexpectedEof)?;
                let name = &buffer[..packet.len];
                match packet.fd {
                    Some(fd) => drop(found.insert(String::from_utf8_lossy(name).into_owned(), fd)),
                    None if name == [DONE] => return Ok(()),
                    None => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
        };
        listed.await?;
        Ok(found)
    }

    /// Leaves a descriptor there. If the keeper is away, it gets it when it is back.
    pub(super) async fn put(&self, name: &str, fd: OwnedFd) {
        let fd = Arc::new(fd);
        self.ours.lock().insert(name.to_owned(), fd.clone());
        if let Err(error) = self.say(KEEP, name, Some(fd.as_fd())).await {
            tracing::warn!(%error, socket = %self.socket.display(), "the keeper is away: a mount would not outlive this process");
        }
    }

    /// Takes one back.
    pub(super) async fn take(&self, name: &str) {
        self.ours.lock().remove(name);
        if let Err(error) = self.say(DROP, name, None).await {
            tracing::warn!(%error, "the keeper is away");
        }
    }

    async fn say(&self, what: u8, name: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let socket = Socket::connect(&self.socket)?;
        tell(&socket, what, name, fd).await
    }

    /// Waits for the end of the keeper, and gives its successor everything.
    async fn follow(self: Arc<Self>) {
        let mut waits = backoff().without_max_times().build();
        loop {
            if let Ok(socket) = Socket::connect(&self.socket) {
                waits = backoff().without_max_times().build();
                let ours: Vec<_> = {
                    let ours = self.ours.lock();
                    ours.iter()
                        .map(|(name, fd)| (name.clone(), fd.clone()))
                        .collect()
                };
                let mut told = Ok(());
                for (name, fd) in ours {
                    told = tell(&socket, KEEP, &name, Some(fd.as_fd())).await;
                    if told.is_err() {
                        break;
                    }
                }
                if told.is_ok() {
                    // Nothing comes; it ends when the keeper does.
                    let mut buffer = [0; 1];
                    let _ = socket.recv(&mut buffer).await;
                }
            }
            sleep(waits.next().unwrap_or_default()).await;
        }
    }
}

async fn tell(socket: &Socket, what: u8, name: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let told = async {
        let packet = [&[what], name.as_bytes()].concat();
        socket.send(&packet, fd).await?;
        let mut buffer = [0; 64];
        match socket.recv(&mut buffer).await? {
            Some(packet) if buffer[..packet.len] == [DONE] => Ok(()),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    };
    timeout(PATIENCE, told).await?
}
