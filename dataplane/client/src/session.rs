//! A session with the masters: changes that take effect once, however often they are sent.

use crate::{Error, Result, master::Master, sequence::Sequence};
use bytes::Bytes;
use forebay_proto::v1::{self, call::What as Asked};
use forebay_types::{Attr, Code, Ino, Name};
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use tokio::sync::Notify;

/// A session; clones are the same one.
#[derive(Clone, Debug)]
pub struct Session {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    master: Master,
    client: String,
    cluster: String,
    state: Mutex<State>,
    /// A number was freed.
    ended: Notify,
}

#[derive(Debug)]
struct State {
    id: u64,
    sequence: Sequence,
}

/// Permission bits, owner and group of what is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Attributes to set; what is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits (`0o7777`).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of the last change, nanoseconds since the Unix epoch.
    pub mtime_ns: Option<i64>,
}

impl Session {
    /// Opens a session; `client` is for people.
    pub async fn open(master: &Master, client: &str) -> Result<Session> {
        let opened = open(master, client).await?;
        Ok(Session {
            shared: Arc::new(Shared {
                master: master.clone(),
                client: client.to_owned(),
                cluster: opened.cluster,
                state: Mutex::new(State {
                    id: opened.session,
                    sequence: Sequence::new(),
                }),
                ended: Notify::new(),
            }),
        })
    }

    /// The cluster's identity.
    pub fn cluster(&self) -> &str {
        &self.shared.cluster
    }

    pub(crate) fn id(&self) -> u64 {
        self.shared.state.lock().id
    }

    /// Opens another session in the place of `old`, which the masters have forgotten.
    pub(crate) async fn renew(&self, old: u64) -> Result<()> {
        let opened = open(&self.shared.master, &self.shared.client).await?;
        let mut state = self.shared.state.lock();
        // Another caller may have been faster.
        if state.id == old {
            state.id = opened.session;
        }
        Ok(())
    }

    /// Makes an empty file.
    pub async fn create(&self, parent: Ino, name: &Name, access: Access) -> Result<Attr> {
        let make = Asked::Create(make(parent, name, access));
        self.making("create", make).await
    }

    /// Makes an empty directory.
    pub async fn mkdir(&self, parent: Ino, name: &Name, access: Access) -> Result<Attr> {
        let make = Asked::Mkdir(make(parent, name, access));
        self.making("mkdir", make).await
    }

    /// Gives what is at `from` the name `to`, in place of what has that name; with `no_replace` only
    /// if nothing has.
    pub async fn rename(
        &self,
        from: (Ino, &Name),
        to: (Ino, &Name),
        no_replace: bool,
    ) -> Result<()> {
        let rename = Asked::Rename(v1::RenameRequest {
            parent: from.0.0,
            name: bytes(from.1),
            new_parent: to.0.0,
            new_name: bytes(to.1),
            no_replace,
        });
        self.change("rename", rename).await.map(drop)
    }

    /// Takes a file's name away.
    pub async fn remove(&self, parent: Ino, name: &Name) -> Result<()> {
        let remove = Asked::Remove(remove(parent, name));
        self.change("remove", remove).await.map(drop)
    }

    /// Takes an empty directory away.
    pub async fn remove_dir(&self, parent: Ino, name: &Name) -> Result<()> {
        let remove = Asked::RemoveDir(remove(parent, name));
        self.change("remove of a directory", remove).await.map(drop)
    }

    /// Sets attributes.
    pub async fn set_attr(&self, ino: Ino, set: SetAttr) -> Result<Attr> {
        let set = Asked::SetAttr(v1::SetAttrRequest {
            ino: ino.0,
            mode: set.mode,
            uid: set.uid,
            gid: set.gid,
            mtime_ns: set.mtime_ns,
        });
        self.making("setattr", set).await
    }

    async fn making(&self, what: &str, change: Asked) -> Result<Attr> {
        let attr = self.change(what, change).await?;
        attr.map(Attr::from).ok_or_else(|| {
            let master = self.shared.master.address();
            let text = format!("{what} at {master}: the answer is incomplete");
            Error::new(Code::Internal, text)
        })
    }

    /// Makes a change once: repeats the call under the same number while it fails for reasons that
    /// pass.
    async fn change(&self, what: &str, change: Asked) -> Result<Option<v1::Attr>> {
        let mut renewed = false;
        loop {
            let request = self.begin().await;
            let id = request.id;
            let sent = AtomicU32::new(0);
            let answer = self
                .shared
                .master
                .retrying(what, || {
                    sent.fetch_add(1, Ordering::Relaxed);
                    let (calls, change) = (self.shared.master.calls().clone(), change.clone());
                    async move { calls.change(id, change).await }
                })
                .await;
            match answer {
                // Sent once and refused: it had no effect, and can be sent under another number.
                Err(error)
                    if error.code == Code::Stale
                        && sent.load(Ordering::Relaxed) == 1
                        && !renewed =>
                {
                    renewed = true;
                    self.renew(id.session).await?;
                }
                answer => return answer,
            }
        }
    }

    async fn begin(&self) -> Request<'_> {
        loop {
            let ended = self.shared.ended.notified();
            {
                let mut state = self.shared.state.lock();
                if let Some((sequence, acknowledged)) = state.sequence.begin() {
                    let session = state.id;
                    let id = v1::RequestId {
                        session,
                        sequence,
                        acknowledged,
                    };
                    let shared = &self.shared;
                    return Request { shared, id };
                }
            }
            ended.await;
        }
    }
}

/// A request under way; its number is open until this is dropped.
struct Request<'a> {
    shared: &'a Shared,
    id: v1::RequestId,
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if self.shared.state.lock().sequence.end(self.id.sequence) {
            self.shared.ended.notify_waiters();
        }
    }
}

async fn open(master: &Master, client: &str) -> Result<v1::OpenSessionResponse> {
    let ask = || {
        let (mut metadata, client) = (master.metadata(), client.to_owned());
        async move {
            metadata
                .open_session(v1::OpenSessionRequest { client })
                .await
        }
    };
    Ok(master.retrying("session", ask).await?.into_inner())
}

fn make(parent: Ino, name: &Name, access: Access) -> v1::MakeRequest {
    v1::MakeRequest {
        parent: parent.0,
        name: bytes(name),
        mode: access.mode,
        uid: access.uid,
        gid: access.gid,
    }
}

fn remove(parent: Ino, name: &Name) -> v1::RemoveRequest {
    v1::RemoveRequest {
        parent: parent.0,
        name: bytes(name),
    }
}

fn bytes(name: &Name) -> Bytes {
    name.clone().into_bytes()
}
