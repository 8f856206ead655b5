//! A local worker whose bytes are made up: whole, partial or refused, as the test says.

use async_trait::async_trait;
use bytes::Bytes;
use forebay_client::{Ensured, Error, LeaseId, LocalFile, LocalWorker, Result};
use forebay_types::{Code, FileRef, Ino};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::mpsc;

/// The byte of a file at an offset.
pub(crate) fn byte(ino: u64, offset: u64) -> u8 {
    (ino.wrapping_mul(131) ^ offset ^ (offset >> 8) ^ (offset >> 17)) as u8
}

/// The bytes of a file in a range.
pub(crate) fn bytes(ino: u64, range: Range<u64>) -> Vec<u8> {
    range.map(|offset| byte(ino, offset)).collect()
}

/// How the worker treats a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// It has all of it.
    #[default]
    Whole,
    /// It fills ranges when asked.
    Partial,
    /// It opens it, but cannot take bytes.
    NotCached,
    /// It cannot open it.
    NoSpace,
    /// The under store has another content: said at open.
    StaleAtOpen,
    /// The same, said at the first read.
    StaleAtRead,
}

/// What was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) open: usize,
    pub(crate) ensure: usize,
    pub(crate) read: usize,
}

#[derive(Default)]
struct State {
    conduct: BTreeMap<Ino, Conduct>,
    usual: Conduct,
    leases: HashMap<LeaseId, (FileRef, Arc<File>)>,
    last_lease: u64,
    calls: Calls,
    written: BTreeSet<Ino>,
}

/// The worker.
pub(crate) struct FakeLocal {
    dir: PathBuf,
    state: Mutex<State>,
    recalls: mpsc::Sender<LeaseId>,
    taken: Mutex<Option<mpsc::Receiver<LeaseId>>>,
}

impl FakeLocal {
    /// A worker that keeps its files in `dir`.
    pub(crate) fn new(dir: &Path) -> FakeLocal {
        let (recalls, taken) = mpsc::channel(16);
        FakeLocal {
            dir: dir.to_owned(),
            state: Mutex::default(),
            recalls,
            taken: Mutex::new(Some(taken)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn set(&self, ino: u64, conduct: Conduct) {
        self.state().conduct.insert(Ino(ino), conduct);
    }

    /// How it treats files that no test has spoken of.
    pub(crate) fn set_usual(&self, conduct: Conduct) {
        self.state().usual = conduct;
    }

    pub(crate) fn calls(&self) -> Calls {
        self.state().calls
    }

    /// Leases that were not given back.
    pub(crate) fn leases(&self) -> Vec<LeaseId> {
        self.state().leases.keys().copied().collect()
    }

    pub(crate) async fn recall(&self, lease: LeaseId) {
        self.recalls.send(lease).await.unwrap();
    }

    pub(crate) fn path(&self, ino: u64) -> PathBuf {
        self.dir.join(format!("{ino}"))
    }

    fn conduct(state: &State, ino: Ino) -> Conduct {
        state.conduct.get(&ino).copied().unwrap_or(state.usual)
    }
}

fn stale() -> Error {
    Error::new(Code::Stale, "replaced in the under store")
}

#[async_trait]
impl LocalWorker for FakeLocal {
    async fn open(&self, file: &FileRef) -> Result<LocalFile> {
        let mut state = self.state();
        state.calls.open += 1;
        let ino = file.id.ino;
        let conduct = FakeLocal::conduct(&state, ino);
        match conduct {
            Conduct::NoSpace => return Err(Error::new(Code::NoSpace, "the disk is full")),
            Conduct::StaleAtOpen => return Err(stale()),
            _ => {}
        }
        let path = self.path(ino.0);
        let content = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let whole = conduct == Conduct::Whole;
        if whole && state.written.insert(ino) {
            content
                .write_all_at(&bytes(ino.0, 0..file.size()), 0)
                .unwrap();
        } else if !whole {
            content.set_len(file.size()).unwrap();
        }
        state.last_lease += 1;
        let lease = LeaseId(state.last_lease);
        let content = Arc::new(content);
        state.leases.insert(lease, (file.clone(), content.clone()));
        Ok(LocalFile {
            lease,
            file: content,
            whole,
        })
    }

    async fn ensure(&self, lease: LeaseId, range: Range<u64>) -> Result<Ensured> {
        let (file, content, conduct) = {
            let mut state = self.state();
            state.calls.ensure += 1;
            let (file, content) = state.leases[&lease].clone();
            let conduct = FakeLocal::conduct(&state, file.id.ino);
            if conduct == Conduct::Whole && state.written.insert(file.id.ino) {
                // It has become whole since it was opened.
                content
                    .write_all_at(&bytes(file.id.ino.0, 0..file.size()), 0)
                    .unwrap();
            }
            (file, content, conduct)
        };
        match conduct {
            Conduct::NotCached => return Ok(Ensured::NotCached),
            Conduct::StaleAtRead => return Err(stale()),
            Conduct::Partial => {
                // The fill takes its time, on another thread.
                tokio::task::yield_now().await;
                content
                    .write_all_at(&bytes(file.id.ino.0, range.clone()), range.start)
                    .unwrap();
            }
            _ => {}
        }
        Ok(Ensured::Present)
    }

    async fn read(&self, file: &FileRef, range: Range<u64>) -> Result<Bytes> {
        let conduct = {
            let mut state = self.state();
            state.calls.read += 1;
            FakeLocal::conduct(&state, file.id.ino)
        };
        if conduct == Conduct::StaleAtRead {
            return Err(stale());
        }
        Ok(bytes(file.id.ino.0, range.start..range.end.min(file.size())).into())
    }

    fn release(&self, lease: LeaseId) {
        self.state().leases.remove(&lease).unwrap();
    }

    fn take_recalls(&self) -> Option<mpsc::Receiver<LeaseId>> {
        self.taken.lock().unwrap().take()
    }
}
