//! The mount table: which under store serves which part of the tree.

use crate::{
    error::{Error, Result},
    proposer::Proposer,
};
use forebay_meta::{Change, Meta};
use forebay_types::{Code, MountId, MountSpec, SyncPolicy};
use forebay_ufs::UnderStore;
use futures::future::try_join_all;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Makes the under store of a mount; replaced in tests.
pub type OpenUnderStore =
    Arc<dyn Fn(&MountSpec) -> forebay_ufs::Result<Arc<dyn UnderStore>> + Send + Sync>;

/// How long an under store may take to prove that it can be used.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// A mounted under store.
#[derive(Clone)]
pub(crate) struct Mount {
    /// Path, URI, options and policy.
    pub(crate) spec: MountSpec,
    /// The store.
    pub(crate) store: Arc<dyn UnderStore>,
}

/// The mounts by id.
#[derive(Default)]
pub(crate) struct Mounts {
    by_id: BTreeMap<MountId, Mount>,
}

impl Mounts {
    /// Brings the table of the state in step with the configuration, and joins each row with its
    /// store from `opened`.
    pub(crate) async fn reconcile(
        meta: &Meta,
        proposer: &Proposer,
        opened: Vec<Mount>,
    ) -> Result<Mounts> {
        let wanted: Vec<MountSpec> = opened.iter().map(|m| m.spec.clone()).collect();
        for mount in gone(&meta.mounts()?, &wanted) {
            proposer.propose(Change::Unmount { mount }).await?;
        }
        for spec in missing(&meta.mounts()?, &wanted) {
            let what = format!("cannot mount {} at {}", spec.uri, spec.path);
            proposer
                .propose(Change::Mount { spec })
                .await
                .map_err(|e| e.context(what))?;
        }
        let mut stores: BTreeMap<String, Mount> = opened
            .into_iter()
            .map(|m| (m.spec.path.clone(), m))
            .collect();
        let mut by_id = BTreeMap::new();
        for (id, spec) in meta.mounts()? {
            let mount = stores.remove(&spec.path).ok_or_else(|| {
                Error::new(
                    Code::Internal,
                    format!("mount {} was not taken away", spec.path),
                )
            })?;
            by_id.insert(id, mount);
        }
        Ok(Mounts { by_id })
    }

    /// The mount of a row.
    pub(crate) fn get(&self, id: MountId) -> Result<&Mount> {
        self.by_id.get(&id).ok_or_else(|| {
            Error::new(
                Code::NotFound,
                format!("mount {id} is no longer in the mount table"),
            )
        })
    }

    /// When the mount's metadata is compared with the under store again; `None`: never, because
    /// there is no such mount.
    pub(crate) fn policy(&self, id: Option<MountId>) -> Option<SyncPolicy> {
        Some(self.by_id.get(&id?)?.spec.sync)
    }

    /// Rows in the order of ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (MountId, &Mount)> {
        self.by_id.iter().map(|(id, mount)| (*id, mount))
    }
}

/// Opens and probes the under stores, all at the same time.
pub(crate) async fn open(specs: &[MountSpec], open: &OpenUnderStore) -> Result<Vec<Mount>> {
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
        let store = open(spec).map_err(refuse)?;
        let probed = tokio::time::timeout(PROBE_LIMIT, store.probe()).await;
        probed.unwrap_or_else(|_| Err(too_late())).map_err(refuse)?;
        Ok(Mount {
            spec: spec.clone(),
            store,
        })
    }))
    .await
}

fn too_late() -> forebay_ufs::Error {
    let limit = PROBE_LIMIT.as_secs();
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

/// Rows to take away, the deepest first: those at a path that is wanted no longer, or for another
/// URI now.
fn gone(have: &[(MountId, MountSpec)], wanted: &[MountSpec]) -> Vec<MountId> {
    let kept = |spec: &MountSpec| {
        wanted
            .iter()
            .any(|w| w.path == spec.path && w.uri == spec.uri)
    };
    let mut gone: Vec<&(MountId, MountSpec)> = have.iter().filter(|(_, s)| !kept(s)).collect();
    gone.sort_by(|(_, a), (_, b)| b.path.cmp(&a.path));
    gone.into_iter().map(|(id, _)| *id).collect()
}

/// Mounts to make or to change, a mount before those within it.
fn missing(have: &[(MountId, MountSpec)], wanted: &[MountSpec]) -> Vec<MountSpec> {
    let mut missing: Vec<MountSpec> = wanted
        .iter()
        .filter(|w| !have.iter().any(|(_, spec)| spec == *w))
        .cloned()
        .collect();
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
        }
    }

    #[test]
    fn mounts_that_are_wanted_no_longer_go_deepest_first() {
        let have = [
            (MountId(1), spec("/", "a:")),
            (MountId(2), spec("/x", "b:")),
            (MountId(3), spec("/x/y", "c:")),
        ];
        let wanted = [spec("/", "a:"), spec("/x", "other:")];
        assert_eq!(gone(&have, &wanted), [MountId(3), MountId(2)]);
        assert_eq!(gone(&have, &[]), [MountId(3), MountId(2), MountId(1)]);
    }

    #[test]
    fn new_and_changed_mounts_are_made_outermost_first() {
        let have = [(MountId(1), spec("/x", "b:"))];
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
    }
}
