//! A master in a temporary directory, and a client of it.

use forebay_client::Calls;
use forebay_master::{Master, OpenUnderStore, config::MasterConfig};
use forebay_proto::{
    convert::code_of,
    v1::{
        self, admin_client::AdminClient, metadata_client::MetadataClient,
        registry_client::RegistryClient,
    },
};
use forebay_service::{ByteSize, Shutdown};
use forebay_types::{Address, Code, MountSpec};
use forebay_ufs::{UnderStore, memory::MemStore};
use prometheus_client::registry::Registry;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tonic::{Status, transport::Channel};

/// Longest wait for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Under stores by mount path, with a sync policy each.
pub(crate) type Stores = Vec<(&'static str, &'static str, Arc<dyn UnderStore>)>;

pub(crate) struct Cluster {
    master: Master,
    shutdown: Shutdown,
    channel: Channel,
    calls: Calls,
    pub(crate) dir: TempDir,
}

pub(crate) fn config(dir: &Path, stores: &Stores) -> MasterConfig {
    let mount = |(path, sync, _): &(&str, &str, Arc<dyn UnderStore>)| MountSpec {
        path: (*path).to_owned(),
        uri: format!("s3://bucket{path}"),
        options: BTreeMap::new(),
        sync: sync.parse().unwrap(),
        credentials: None,
    };
    MasterConfig {
        data_dir: dir.join("data"),
        listen: Address::Unix(dir.join("master.sock")),
        seal_key: None,
        id: 1,
        peers: Vec::new(),
        join: Vec::new(),
        http: None,
        mounts: stores.iter().map(mount).collect(),
        memory: ByteSize(64 << 20),
    }
}

pub(crate) fn opener(stores: &Stores) -> OpenUnderStore {
    let by_path: HashMap<String, Arc<dyn UnderStore>> = stores
        .iter()
        .map(|(path, _, store)| ((*path).to_owned(), store.clone()))
        .collect();
    // Others are opened as they say.
    Arc::new(move |spec: &MountSpec| match by_path.get(&spec.path) {
        Some(store) => Ok(store.clone()),
        None => forebay_ufs::config::open(&spec.uri, &spec.options),
    })
}

impl Cluster {
    pub(crate) async fn start(stores: Stores) -> Cluster {
        Cluster::start_in(tempfile::tempdir().unwrap(), stores).await
    }

    pub(crate) async fn start_in(dir: TempDir, stores: Stores) -> Cluster {
        let shutdown = Shutdown::new();
        let config = config(dir.path(), &stores);
        let open = opener(&stores);
        let master = Master::start_with(config, open, &mut Registry::default(), &shutdown)
            .await
            .unwrap();
        let channel = forebay_client::channel::connect(master.address());
        Cluster {
            master,
            shutdown,
            calls: Calls::new(channel.clone()),
            channel,
            dir,
        }
    }

    /// Where it serves.
    pub(crate) fn address(&self) -> Address {
        self.master.address().clone()
    }

    /// Stops the master; its directory can serve the next one.
    pub(crate) async fn stop(self) -> TempDir {
        self.shutdown.finish().await;
        self.master.close().await;
        self.dir
    }

    pub(crate) fn calls(&self) -> &Calls {
        &self.calls
    }

    pub(crate) fn metadata(&self) -> MetadataClient<Channel> {
        MetadataClient::new(self.channel.clone())
    }

    pub(crate) fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel.clone())
    }

    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    /// A fresh place for a socket.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn lookup(
        &self,
        parent: u64,
        name: &str,
    ) -> Result<v1::LookupResponse, Status> {
        let request = v1::LookupRequest {
            parent,
            name: name.as_bytes().to_vec().into(),
        };
        self.calls.lookup(request).await
    }

    /// The inode of a path, if there is one.
    pub(crate) async fn resolve(&self, path: &str) -> Option<v1::Attr> {
        let request = v1::ResolveRequest {
            path: path.as_bytes().to_vec().into(),
        };
        match self.calls.resolve(request).await {
            Ok(found) => found.attr,
            Err(status) if code_of(&status) == Code::NotFound => None,
            Err(status) => panic!("{path}: {status}"),
        }
    }

    /// The names of a directory.
    pub(crate) async fn names(&self, path: &str) -> Vec<String> {
        self.try_names(path).await.unwrap()
    }

    pub(crate) async fn try_names(&self, path: &str) -> Result<Vec<String>, Status> {
        let request = v1::ResolveRequest {
            path: path.as_bytes().to_vec().into(),
        };
        let found = self.calls.resolve(request).await?;
        let ino = found.attr.unwrap().ino;
        let request = v1::ReadDirRequest {
            ino,
            ..v1::ReadDirRequest::default()
        };
        let mut batches = self.metadata().read_dir(request).await?.into_inner();
        let mut names = Vec::new();
        while let Some(batch) = batches.message().await? {
            names.extend(
                batch
                    .entries
                    .iter()
                    .map(|e| String::from_utf8_lossy(&e.name).into_owned()),
            );
        }
        Ok(names)
    }

    pub(crate) async fn sync(&self, path: &str) -> Result<v1::SyncResponse, Status> {
        let request = v1::PathRequest {
            path: path.as_bytes().to_vec().into(),
            recursive: true,
        };
        Ok(self.admin().sync(request).await?.into_inner())
    }

    pub(crate) async fn problems(&self) -> Vec<(String, String)> {
        let answer = self
            .admin()
            .problems(v1::ProblemsRequest::default())
            .await
            .unwrap();
        let answer = answer.into_inner();
        assert_eq!(answer.total, answer.problems.len() as u64);
        answer
            .problems
            .into_iter()
            .map(|p| (String::from_utf8_lossy(&p.key).into_owned(), p.reason))
            .collect()
    }

    /// A Watch stream that is in force.
    pub(crate) async fn watch(&self) -> tonic::Streaming<v1::Invalidation> {
        let request = v1::WatchRequest::default();
        let mut stream = self.metadata().watch(request).await.unwrap().into_inner();
        assert_eq!(
            stream.message().await.unwrap(),
            Some(v1::Invalidation::default())
        );
        stream
    }
}

/// Asks again until `check` holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let begun = std::time::Instant::now();
    while !check().await {
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// `n` files of 10 bytes in directories of 100.
pub(crate) fn store(n: usize) -> MemStore {
    let store = MemStore::new();
    for i in 0..n {
        store.put(format!("d{}/f{i}", i / 100), "ten bytes!");
    }
    store
}

/// A master with that store at `/`.
pub(crate) async fn cluster(store: &MemStore) -> Cluster {
    Cluster::start(vec![("/", "never", Arc::new(store.clone()))]).await
}
