//! The mount table: which under store serves which part of the tree.

use crate::{
    config::check_path,
    error::{Error, Result},
    proposer::Proposer,
};
use forebay_meta::{Change, Meta, Mount, Reply};
use forebay_types::{Code, MountId, MountSpec, SyncPolicy};
use forebay_ufs::UnderStore;
use futures::future::try_join_all;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Makes the under store of a mount; replaced in tests.
pub type OpenUnderStore =
    Arc<dyn Fn(&MountSpec) -> forebay_ufs::Result<Arc<dyn UnderStore>> + Send + Sync>;

/// How long an under store may take to prove that it can be used.
const PROBE_LIMIT: Duration = Duration::from_secs(30);
/// How long one that is mounted may take to answer …
const ALIVE_LIMIT: Duration = Duration::from_secs(5);
/// … and how soon it is asked again within that time, if what went wrong may pass.
const ALIVE_AGAIN: Duration = Duration::from_millis(500);

/// A mount whose under store has proven that it can be used (or is away, where that is allowed).
#[derive(Clone)]
pub(crate) struct Opened {
    spec: MountSpec,
    /// None of a scratch mount.
    store: Option<Arc<dyn UnderStore>>,
}

/// The mount table of the state, with the under stores of its rows, opened when first needed:
/// another master may have made the mount.
pub(crate) struct Mounts {
    meta: Arc<Meta>,
    open: OpenUnderStore,
    stores: Mutex<BTreeMap<MountId, InUse>>,
}

/// A store, and the settings with which it was opened.
type InUse = (Arc<MountSpec>, Arc<dyn UnderStore>);

impl Mounts {
    /// The table in `meta`.
    pub(crate) fn new(meta: Arc<Meta>, open: OpenUnderStore) -> Mounts {
        Mounts {
            meta,
            open,
            stores: Mutex::default(),
        }
    }

    /// Brings the rows that come from the configuration in step with it; others stay.
    pub(crate) async fn reconcile(&self, proposer: &Proposer, opened: Vec<Opened>) -> Result<()> {
        let wanted: Vec<MountSpec> = opened.iter().map(|m| m.spec.clone()).collect();
        for mount in gone(&self.meta.mounts(), &wanted) {
            proposer.propose(Change::Unmount { mount }).await?;
        }
        for spec in missing(&self.meta.mounts(), &wanted) {
            let what = format!("cannot mount {} at {}", spec.uri, spec.path);
            let configured = true;
            proposer
                .propose(Change::Mount { spec, configured })
                .await
                .map_err(|e| e.context(what))?;
        }
        for Opened { spec, store } in opened {
            self.keep(&spec, store);
        }
        Ok(())
    }

    /// Mounts what somebody asks for.
    pub(crate) async fn mount(&self, proposer: &Proposer, spec: MountSpec) -> Result<MountId> {
        if let Err(why) = check_path(&spec.path) {
            let text = format!("bad mount path '{}': {why}", spec.path);
            return Err(Error::new(Code::InvalidArgument, text));
        }
        if let Some((id, mount)) = self.at(&spec.path)
            && mount.configured
        {
            return if *mount.spec == spec {
                Ok(id)
            } else {
                Err(configured(&spec.path))
            };
        }
        for Opened { spec, store } in
            open(std::slice::from_ref(&spec), &self.open, Away::Refused).await?
        {
            let change = Change::Mount {
                spec: spec.clone(),
                configured: false,
            };
            if let Reply::Mount(id) = proposer.propose(change).await? {
                self.keep(&spec, store);
                return Ok(id);
            }
        }
        Err(Error::new(Code::Internal, "the journal answered no mount"))
    }

    /// Takes a mount away that somebody asked for.
    pub(crate) async fn unmount(&self, proposer: &Proposer, path: &str) -> Result<()> {
        let (mount, row) = self.at(path).ok_or_else(|| nothing_at(path))?;
        if row.configured {
            return Err(configured(path));
        }
        proposer.propose(Change::Unmount { mount }).await?;
        self.stores.lock().remove(&mount);
        Ok(())
    }

    /// Whether the under store of the mount at a path still answers, and what it says if not.
    pub(crate) async fn alive(&self, path: &str) -> Result<forebay_ufs::Result<()>> {
        let (mount, _) = self.at(path).ok_or_else(|| nothing_at(path))?;
        let store = self.store(mount)?;
        let until = Instant::now() + ALIVE_LIMIT;
        let mut last = too_late(ALIVE_LIMIT);
        loop {
            match timeout_at(until, store.alive()).await {
                Ok(Err(error)) if error.code.is_transient() => last = error,
                Ok(answered) => return Ok(answered),
                Err(_) => return Ok(Err(last)),
            }
            if timeout_at(until, sleep(ALIVE_AGAIN)).await.is_err() {
                return Ok(Err(last));
            }
        }
    }

    /// The under store of a row.
    pub(crate) fn store(&self, id: MountId) -> Result<Arc<dyn UnderStore>> {
        let row = self.meta.mount(id).ok_or_else(|| {
            let text = format!("mount {id} is no longer in the mount table");
            Error::new(Code::NotFound, text)
        })?;
        if row.spec.is_scratch() {
            let text = format!("the mount at {} has no under store", row.spec.path);
            return Err(Error::new(Code::Unsupported, text));
        }
        let mut stores = self.stores.lock();
        if let Some((spec, store)) = stores.get(&id)
            && spec.same_store(&row.spec)
        {
            return Ok(store.clone());
        }
        let store = (self.open)(&row.spec)?;
        stores.retain(|id, _| self.meta.mount(*id).is_some());
        stores.insert(id, (row.spec, store.clone()));
        Ok(store)
    }

    /// When the mount's metadata is compared with the under store again; `None`: never, because
    /// there is no such mount or no under store.
    pub(crate) fn policy(&self, id: Option<MountId>) -> Option<SyncPolicy> {
        let spec = self.meta.mount(id?)?.spec;
        (!spec.is_scratch()).then_some(spec.sync)
    }

    /// The path of a mount, if it is there.
    pub(crate) fn path(&self, id: MountId) -> Option<String> {
        Some(self.meta.mount(id)?.spec.path.clone())
    }

    /// Rows in the order of ids.
    pub(crate) fn rows(&self) -> Vec<(MountId, Mount)> {
        self.meta.mounts()
    }

    fn at(&self, path: &str) -> Option<(MountId, Mount)> {
        let mut rows = self.meta.mounts().into_iter();
        rows.find(|(_, mount)| mount.spec.path == path)
    }

    /// Keeps a store that was opened for a mount just made.
    fn keep(&self, spec: &MountSpec, store: Option<Arc<dyn UnderStore>>) {
        if let (Some((id, row)), Some(store)) = (self.at(&spec.path), store)
            && *row.spec == *spec
        {
            self.stores.lock().insert(id, (row.spec, store));
        }
    }
}

fn nothing_at(path: &str) -> Error {
    let text = format!("nothing is mounted at '{path}'");
    Error::new(Code::NotFound, text)
}

fn configured(path: &str) -> Error {
    let text = format!("the mount at {path} is in the masters' configuration: change it there");
    Error::new(Code::InvalidArgument, text)
}

/// What is done about an under store that does not answer now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Away {
    /// Its mount is refused: somebody waits for it.
    Refused,
    /// It is told, and tried again when it is needed: other masters serve the rest of the tree.
    Told,
}

/// Opens and probes the under stores, all at the same time.
pub(crate) async fn open(
    specs: &[MountSpec],
    open: &OpenUnderStore,
    away: Away,
) -> Result<Vec<Opened>> {
    try_join_all(specs.iter().map(async |spec| {
        let refuse = |error: forebay_ufs::Error| {
            // What a library or the system says is no advice; the store's own words have one.
            let advice = if error.source.is_some() {
                advice(error.code)
            } else {
                ""
            };
            let error = Error::from(error);
            let text = format!(
                "cannot mount {} at {}: {error}{advice}",
                spec.uri, spec.path
            );
            Error::new(error.code, text)
        };
        let store = if spec.is_scratch() {
            if let Some(option) = spec.options.keys().next() {
                let text = format!("a scratch mount has no option '{option}': take it out");
                return Err(refuse(forebay_ufs::Error::new(Code::InvalidArgument, text)));
            }
            None
        } else {
            let store = open(spec).map_err(refuse)?;
            let probed = timeout(PROBE_LIMIT, store.probe()).await;
            match probed.unwrap_or_else(|_| Err(too_late(PROBE_LIMIT))) {
                Ok(()) => {}
                Err(error) if away == Away::Told && error.code.is_transient() => {
                    let why = refuse(error);
                    tracing::warn!(%why, "an under store is away");
                }
                Err(error) => return Err(refuse(error)),
            }
            Some(store)
        };
        Ok(Opened {
            spec: spec.clone(),
            store,
        })
    }))
    .await
}

fn too_late(limit: Duration) -> forebay_ufs::Error {
    let limit = limit.as_secs();
    let text = format!("no answer within {limit} s: check the endpoint and the network");
    forebay_ufs::Error::new(Code::Timeout, text)
}

fn advice(code: Code) -> &'static str {
    match code {
        Code::PermissionDenied => ": check the credentials and what they may do",
        Code::NotFound | Code::NotDirectory => ": check the name in the URI",
        Code::InvalidArgument | Code::Unsupported => ": check the URI and the options",
        _ => ": check the endpoint and the network",
    }
}

/// Rows to take away, the deepest first: configured ones at a path that is wanted no longer, and
/// any at a path that is wanted for another URI now.
fn gone(have: &[(MountId, Mount)], wanted: &[MountSpec]) -> Vec<MountId> {
    let kept = |mount: &Mount| match wanted.iter().find(|w| w.path == mount.spec.path) {
        Some(wanted) => wanted.uri == mount.spec.uri,
        None => !mount.configured,
    };
    let mut gone: Vec<&(MountId, Mount)> = have.iter().filter(|(_, m)| !kept(m)).collect();
    gone.sort_by(|(_, a), (_, b)| b.spec.path.cmp(&a.spec.path));
    gone.into_iter().map(|(id, _)| *id).collect()
}

/// Mounts to make or to change, a mount before those within it.
fn missing(have: &[(MountId, Mount)], wanted: &[MountSpec]) -> Vec<MountSpec> {
    let there = |wanted: &&MountSpec| {
        have.iter()
            .any(|(_, mount)| mount.configured && *mount.spec == **wanted)
    };
    let mut missing: Vec<MountSpec> = wanted.iter().filter(|w| !there(w)).cloned().collect();
    missing.sort_by(|a, b| a.path.cmp(&b.path));
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &str, uri: &str) -> MountSpec {
        let sync = SyncPolicy::Never;
        MountSpec {
            path: path.into(),
            uri: uri.into(),
            options: BTreeMap::new(),
            sync,
            credentials: None,
        }
    }

    fn row(id: u32, configured: bool, path: &str, uri: &str) -> (MountId, Mount) {
        let spec = Arc::new(spec(path, uri));
        (MountId(id), Mount { spec, configured })
    }

    #[test]
    fn mounts_that_are_wanted_no_longer_go_deepest_first() {
        let have = [
            row(1, true, "/", "a:"),
            row(2, true, "/x", "b:"),
            row(3, true, "/x/y", "c:"),
            row(4, false, "/asked", "d:"),
        ];
        let wanted = [spec("/", "a:"), spec("/x", "other:")];
        assert_eq!(gone(&have, &wanted), [MountId(3), MountId(2)]);
        assert_eq!(gone(&have, &[]), [MountId(3), MountId(2), MountId(1)]);
        assert_eq!(gone(&have[3..], &[spec("/asked", "e:")]), [MountId(4)]);
    }

    #[test]
    fn new_and_changed_mounts_are_made_outermost_first() {
        let have = [row(1, true, "/x", "b:"), row(2, false, "/asked", "d:")];
        let changed = MountSpec {
            sync: SyncPolicy::Always,
            ..spec("/x", "b:")
        };
        let wanted = [spec("/x/y", "c:"), changed.clone(), spec("/", "a:")];
        assert_eq!(
            missing(&have, &wanted),
            [spec("/", "a:"), changed, spec("/x/y", "c:")]
        );
        assert_eq!(missing(&have, &[spec("/x", "b:")]), []);
        let asked = spec("/asked", "d:");
        assert_eq!(missing(&have, std::slice::from_ref(&asked)), [asked]);
    }
}
