//! The keeper: a process that holds descriptors for the FUSE host of the node, so that mounts outlive it.
//!
//! It knows nothing of what it holds. Over a packet socket it is told `P`NAME with a descriptor (keep it, in place of one
//! of that name), `D`NAME (drop it) and `L` (show all), and answers `.`; before that, to `L`, each descriptor with its name.

use forebay_client::seqpacket::{Listener, MAX_PACKET, Socket};
use forebay_service::Shutdown;
use parking_lot::Mutex;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Descriptors that are held at most: two for a volume, and a node has some hundred pods.
const MOST: usize = 4_096;

/// What is sent.
pub(crate) const KEEP: u8 = b'P';
pub(crate) const DROP: u8 = b'D';
pub(crate) const LIST: u8 = b'L';
/// The end of an answer.
pub(crate) const DONE: u8 = b'.';

/// Settings of a keeper.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeeperConfig {
    /// The Unix socket on which it is told.
    pub socket: PathBuf,
}

type Held = Arc<Mutex<BTreeMap<Vec<u8>, Arc<OwnedFd>>>>;

/// Serves until shutdown; returns when it does.
pub fn start(config: &KeeperConfig, shutdown: &Shutdown) -> io::Result<()> {
    let listener = bind(&config.socket)?;
    let held = Held::default();
    let tasks = shutdown.clone();
    shutdown.spawn(async move {
        loop {
            match listener.accept().await {
                Ok(socket) => {
                    let held = held.clone();
                    tasks.spawn(async move {
                        if let Err(error) = converse(&socket, &held).await {
                            tracing::debug!(%error, "a connection broke");
                        }
                    });
                }
                Err(error) => tracing::warn!(%error, "cannot take a connection"),
            }
        }
    });
    Ok(())
}

/// Under another name first: who connects to the name finds somebody who listens.
fn bind(path: &Path) -> io::Result<Listener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let hidden = path.with_extension("new");
    let listener = Listener::bind(&hidden)?;
    rustix::fs::chmod(&hidden, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    fs::rename(&hidden, path)?;
    Ok(listener)
}

async fn converse(socket: &Socket, held: &Held) -> io::Result<()> {
    let mut buffer = vec![0; MAX_PACKET];
    while let Some(packet) = socket.recv(&mut buffer).await? {
        let Some((what, name)) = buffer[..packet.len].split_first() else {
            continue;
        };
        match (*what, packet.fd) {
            (KEEP, Some(fd)) => {
                let mut held = held.lock();
                if held.len() >= MOST && !held.contains_key(name) {
                    return Err(io::Error::other("too many descriptors are held"));
                }
                held.insert(name.to_vec(), Arc::new(fd));
            }
            (DROP, None) => {
                held.lock().remove(name);
            }
            (LIST, None) => {
                let all: Vec<_> = held
                    .lock()
                    .iter()
                    .map(|(n, fd)| (n.clone(), fd.clone()))
                    .collect();
                for (name, fd) in all {
                    socket.send(&name, Some(fd.as_fd())).await?;
                }
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        socket.send(&[DONE], None).await?;
    }
    Ok(())
}
