//! Tells the kernel what to forget.
//!
//! On a thread of its own: the kernel takes locks for it that are held by requests which wait for
//! our answers, so a thread that answers requests must never do it.

use crate::{backing::Backing, fs::Fs, inval::Epoch};
use forebay_client::Invalidation;
use forebay_types::Ino;
use fuser::{INodeNo, Notifier};
use std::{collections::BTreeSet, ffi::OsStr, io, os::unix::ffi::OsStrExt, sync::Arc, thread};
use tokio::{
    runtime::Handle,
    sync::broadcast::{
        Receiver,
        error::{RecvError, TryRecvError},
    },
};
use tokio_util::sync::CancellationToken;

/// Changes passed on before directories are told about, once each.
const BATCH: usize = 1024;

/// Passes invalidations of the namespace on until `ended`. What does not fit the queue counts as
/// [`Invalidation::All`]; so does everything that a predecessor said, if there was one.
pub(crate) fn start(
    fs: &Arc<Fs<Backing>>,
    notifier: Notifier,
    epoch: Epoch,
    inherited: bool,
    ended: CancellationToken,
) -> io::Result<thread::JoinHandle<()>> {
    let mut changes = fs.namespace().invalidations();
    let teller = Teller {
        fs: fs.clone(),
        notifier,
        epoch,
    };
    let runtime = Handle::current();
    thread::Builder::new()
        .name("fuse-notify".to_owned())
        .spawn(move || {
            if inherited {
                // What a predecessor told the kernel, nobody takes back any more.
                teller.all();
            }
            while let Some(first) = runtime.block_on(next(&mut changes, &ended)) {
                teller.tell(first, &mut changes);
            }
        })
}

async fn next(
    changes: &mut Receiver<Invalidation>,
    ended: &CancellationToken,
) -> Option<Invalidation> {
    tokio::select! {
        () = ended.cancelled() => None,
        change = changes.recv() => match change {
            Ok(change) => Some(change),
            Err(RecvError::Lagged(_)) => Some(Invalidation::All),
            Err(RecvError::Closed) => None,
        },
    }
}

struct Teller {
    fs: Arc<Fs<Backing>>,
    notifier: Notifier,
    epoch: Epoch,
}

impl Teller {
    /// Tells of a change and of those that have come meanwhile; each directory once.
    fn tell(&self, first: Invalidation, changes: &mut Receiver<Invalidation>) {
        let mut inodes = BTreeSet::new();
        let mut next = Some(first);
        for _ in 0..BATCH {
            let change = match next.take() {
                Some(change) => change,
                None => match changes.try_recv() {
                    Ok(change) => change,
                    Err(TryRecvError::Lagged(_)) => Invalidation::All,
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                },
            };
            match change {
                Invalidation::Entry(parent, name) if self.fs.top().leads_through(parent, &name) => {
                    self.all();
                }
                Invalidation::Entry(parent, name) => {
                    let parent = self.fs.top().outer(parent);
                    let name = OsStr::from_bytes(name.as_bytes());
                    said(self.notifier.inval_entry(INodeNo(parent.0), name));
                    inodes.insert(parent);
                }
                Invalidation::Inode(ino) => {
                    self.fs.inodes().forget(ino);
                    inodes.insert(self.fs.top().outer(ino));
                }
                Invalidation::All => self.all(),
            }
        }
        for ino in inodes {
            self.inode(ino);
        }
    }

    fn inode(&self, ino: Ino) {
        // From the start to the end: attributes, and what is cached of a directory's names.
        said(self.notifier.inval_inode(INodeNo(ino.0), 0, 0));
    }

    /// Every name that the kernel knows is looked up again. Where the kernel cannot do that, names and
    /// attributes end with their leases.
    fn all(&self) {
        self.epoch.raise();
        self.inode(Ino::ROOT);
    }
}

fn said(told: io::Result<()>) {
    if let Err(error) = told {
        // The mount is going away, or the kernel has forgotten by itself.
        tracing::debug!(%error, "the kernel does not take an invalidation");
    }
}
