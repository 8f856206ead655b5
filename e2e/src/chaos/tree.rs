//! The directories of the run, and what is in them, as a master says.

use super::directory::Entry;
use forebay_client::{Access, Error, Master, Session, call::error_of};
use forebay_proto::v1::{LookupRequest, ReadDirRequest, ResolveRequest};
use forebay_types::{Attr, Ino, MountSpec, Name, SyncPolicy};
use std::collections::BTreeMap;
use tonic::Status;

/// Where the run has its scratch mount.
const TOP: &str = "/chaos";

/// Of everything that is made.
pub(super) const ACCESS: Access = Access {
    mode: 0o755,
    uid: 0,
    gid: 0,
};

/// A directory as it was listed.
pub(super) type Listing = BTreeMap<Name, Entry>;

/// The directories.
pub(super) struct Tree {
    /// One for each client.
    pub(super) own: Vec<Ino>,
    pub(super) shared: Ino,
    /// For what is made behind the back of a stopped leader.
    pub(super) witness: Ino,
}

impl Tree {
    /// Makes a scratch mount and the directories in it.
    pub(super) async fn make(master: &Master, clients: usize) -> Result<Tree, Error> {
        let spec = MountSpec {
            path: TOP.to_owned(),
            uri: MountSpec::SCRATCH.to_owned(),
            options: BTreeMap::new(),
            sync: SyncPolicy::Never,
            credentials: None,
        };
        master.mount(&spec).await?;
        let ask = || {
            let calls = master.calls();
            async move { calls.resolve(ResolveRequest { path: TOP.into() }).await }
        };
        let top = master.retrying("resolve", ask).await?;
        let top = Ino(top.attr.unwrap_or_default().ino);
        let session = Session::open(master, "chaos").await?;
        let below = async |name: String| {
            let name = Name::new(name).expect("letters and digits are a name");
            session.mkdir(top, &name, ACCESS).await.map(|attr| attr.ino)
        };
        let mut own = Vec::new();
        for number in 0..clients {
            own.push(below(format!("client-{number}")).await?);
        }
        Ok(Tree {
            own,
            shared: below("shared".to_owned()).await?,
            witness: below("witness".to_owned()).await?,
        })
    }
}

/// What a name leads to.
pub(super) async fn lookup(master: &Master, dir: Ino, name: &Name) -> Result<Option<Attr>, Error> {
    let ask = || {
        let (calls, parent, name) = (master.calls(), dir.0, name.clone().into_bytes());
        async move { calls.lookup(LookupRequest { parent, name }).await }
    };
    let answer = master.retrying("lookup", ask).await?;
    Ok(answer.attr.map(Attr::from))
}

/// Lists a directory at the master that calls go to, and at no other.
pub(super) async fn list(master: &Master, dir: Ino) -> Result<Listing, Error> {
    let address = master.address();
    let listed = list_here(master, dir).await;
    listed.map_err(|status| error_of(&address, "list", &status))
}

/// Lists a directory at the leader.
pub(super) async fn list_at_leader(master: &Master, dir: Ino) -> Result<Listing, Error> {
    master.retrying("list", || list_here(master, dir)).await
}

async fn list_here(master: &Master, dir: Ino) -> Result<Listing, Status> {
    let request = ReadDirRequest {
        ino: dir.0,
        ..ReadDirRequest::default()
    };
    let mut batches = master.metadata().read_dir(request).await?.into_inner();
    let mut listing = Listing::new();
    while let Some(batch) = batches.message().await? {
        for entry in batch.entries {
            let name = Name::new(entry.name);
            let name = name.map_err(|error| Status::internal(error.to_string()))?;
            let attr = Attr::from(entry.attr.unwrap_or_default());
            let (ino, kind) = (attr.ino, attr.kind);
            listing.insert(name, Entry { ino, kind });
        }
    }
    Ok(listing)
}
