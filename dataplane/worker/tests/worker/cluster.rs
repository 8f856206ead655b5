//! Whole workers on loopback, with a scripted master.

use crate::support::{MIB, content, until};
use bytes::Bytes;
use forebay_client::{LocalWorker, WorkerPool};
use forebay_proto::v1::{self, registry_server::Registry as RegistryService};
use forebay_service::{ByteSize, Shutdown};
use forebay_types::{
    Address, Code, ContentVersion, FileId, FileRef, Ino, Medium, MountId, MountSpec, SyncPolicy,
};
use forebay_ufs::UnderStore;
use forebay_worker::{
    Worker,
    config::{Eviction, TierSpec, WorkerConfig},
};
use futures::{StreamExt, TryStreamExt};
use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tonic::{Request, Response, Status};

#[derive(Clone, Default)]
struct Master {
    workers: Arc<Mutex<HashMap<u64, v1::Worker>>>,
    counters: Arc<Mutex<HashMap<u64, v1::WorkerCounters>>>,
    registrations: Arc<Mutex<Vec<u64>>>,
    forget: Arc<AtomicBool>,
    mounts: Arc<Mutex<Vec<(MountId, MountSpec)>>>,
    /// Nobody hears of the topology before so many workers have registered.
    expected: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl RegistryService for Master {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.tiers.len(), 1);
        let worker = request.worker.unwrap();
        self.registrations.lock().unwrap().push(worker.id);
        self.workers.lock().unwrap().insert(worker.id, worker);
        Ok(Response::new(v1::RegisterResponse {
            cluster: "loop".into(),
            heartbeat_ms: 100,
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let beat = request.into_inner();
        if let Some(counters) = beat.counters {
            self.counters.lock().unwrap().insert(beat.worker, counters);
        }
        Ok(Response::new(v1::HeartbeatResponse {
            known: !self.forget.swap(false, Ordering::SeqCst),
            heartbeat_ms: 100,
            topology: None,
        }))
    }

    async fn topology(
        &self,
        _: Request<v1::TopologyRequest>,
    ) -> Result<Response<v1::TopologyResponse>, Status> {
        let complete =
            || self.workers.lock().unwrap().len() >= self.expected.load(Ordering::SeqCst);
        until("all workers are there", complete).await;
        let mounts = self.mounts.lock().unwrap().clone();
        let mounts = mounts
            .into_iter()
            .map(|(id, spec)| forebay_proto::convert::mount_to_wire(id, &spec));
        Ok(Response::new(v1::TopologyResponse {
            cluster: "loop".into(),
            mounts: mounts.collect(),
            workers: self.workers.lock().unwrap().values().cloned().collect(),
            whole: true,
            ..v1::TopologyResponse::default()
        }))
    }
}

struct Cluster {
    master: Master,
    address: Address,
    dir: tempfile::TempDir,
    shutdown: Shutdown,
    count: AtomicUsize,
}

impl Cluster {
    async fn new() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("remote")).unwrap();
        let master = Master::default();
        master.mounts.lock().unwrap().push((
            MountId(1),
            MountSpec {
                path: "/".into(),
                uri: format!("file://{}", dir.path().join("remote").display()),
                options: std::collections::BTreeMap::default(),
                sync: SyncPolicy::Never,
                credentials: None,
            },
        ));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap().to_string());
        let shutdown = Shutdown::new();
        let service = v1::registry_server::RegistryServer::new(master.clone());
        let serve = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener));
        shutdown.spawn(async move { serve.await.unwrap() });
        Cluster {
            master,
            address,
            dir,
            shutdown,
            count: AtomicUsize::new(0),
        }
    }

    async fn worker(&self) -> (Worker, Shutdown) {
        self.worker_with(|_| ()).await
    }

    async fn worker_with(&self, change: impl FnOnce(&mut WorkerConfig)) -> (Worker, Shutdown) {
        let n = self.count.fetch_add(1, Ordering::SeqCst);
        let dir = self.dir.path().join(format!("worker-{n}"));
        let shutdown = Shutdown::new();
        let mut registry = prometheus_client::registry::Registry::default();
        let mut config = config(&dir, &self.address);
        change(&mut config);
        let worker = Worker::start(config, &mut registry, &shutdown)
            .await
            .unwrap();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(
            text.contains("forebay_worker_tier_quota_bytes{medium=\"SSD\""),
            "{text}"
        );
        (worker, shutdown)
    }

    /// An object and its reference.
    async fn put(&self, key: &str, ino: u64, content: &Bytes) -> FileRef {
        let dir = self.dir.path().join("remote");
        std::fs::write(dir.join(key), content).unwrap();
        let store = forebay_ufs::open(
            &format!("file://{}", dir.display()),
            &std::collections::BTreeMap::default(),
        );
        let object = UnderStore::stat(&*store.unwrap(), key.as_bytes())
            .await
            .unwrap();
        FileRef {
            id: FileId {
                ino: Ino(ino),
                version: ContentVersion(1),
            },
            mount: MountId(1),
            key: object.key,
            fingerprint: object.fingerprint,
        }
    }

    fn sum(&self, what: impl Fn(&v1::WorkerCounters) -> u64) -> u64 {
        self.master
            .counters
            .lock()
            .unwrap()
            .values()
            .map(what)
            .sum()
    }

    async fn end(self, workers: Vec<Shutdown>) {
        for worker in workers {
            worker.finish().await;
        }
        self.shutdown.finish().await;
    }
}

fn config(dir: &Path, master: &Address) -> WorkerConfig {
    WorkerConfig {
        data_dir: dir.join("data"),
        master: master.into(),
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        socket: None,
        http: None,
        tiers: vec![TierSpec {
            medium: Medium::Ssd,
            dir: dir.join("tier"),
            size: ByteSize(200 * MIB),
        }],
        eviction: Eviction::default(),
        high_watermark: 0.95,
        low_watermark: 0.9,
        seal_key: None,
        memory: ByteSize(64 * MIB),
    }
}

async fn read_all(local: &Arc<dyn LocalWorker>, file: &FileRef) -> Bytes {
    let open = local.open(file).await.unwrap();
    for at in (0..file.size()).step_by(MIB as usize) {
        let end = (at + MIB).min(file.size());
        let ensured = local.ensure(open.lease, at..end).await.unwrap();
        assert_eq!(ensured, forebay_client::Ensured::Present);
    }
    let bytes = crate::support::pread(&open, 0..file.size());
    local.release(open.lease);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_under_store_sees_each_page_once_per_cluster() {
    let cluster = Cluster::new().await;
    cluster.master.expected.store(2, Ordering::SeqCst);
    let ((a, stop_a), (b, stop_b)) = tokio::join!(cluster.worker(), cluster.worker());
    let mut files = Vec::new();
    let mut total = 0;
    for n in 0..6 {
        let data = content(n, 20 * MIB + n * 77);
        total += data.len() as u64;
        files.push((cluster.put(&format!("f{n}"), 10 + n, &data).await, data));
    }
    for (file, data) in &files {
        let (on_a, on_b) = (a.local(), b.local());
        let both = tokio::join!(read_all(&on_a, file), read_all(&on_b, file));
        assert!(both.0 == *data && both.1 == *data);
    }
    let sums = || {
        (
            cluster.sum(|c| c.bytes_from_ufs),
            cluster.sum(|c| c.bytes_from_peers),
        )
    };
    let arrived = || sums().0 >= total && sums().1 >= total;
    until("the counters arrive", arrived).await;
    assert_eq!(sums(), (total, total));
    cluster.end(vec![stop_a, stop_b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_nodes_read_load_pin_and_free_over_grpc_and_registration_is_repeated() {
    let cluster = Cluster::new().await;
    let (worker, stop) = cluster.worker().await;
    let data = content(1, 5 * MIB + 321);
    let file = cluster.put("large", 10, &data).await;
    let mut client = WorkerPool::new().get(worker.address());

    let (offset, length) = (MIB - 100, 2 * MIB + 5);
    let request = v1::ReadRequest {
        file: Some(file.clone().into()),
        offset,
        length,
        from_peer: false,
    };
    let pieces = client.read(request).await.unwrap().into_inner();
    let pieces: Vec<v1::ReadResponse> = pieces.try_collect().await.unwrap();
    let got: Vec<u8> = pieces.into_iter().flat_map(|p| p.data).collect();
    assert!(got == data.slice(offset as usize..(offset + length) as usize));

    // Many small files, one of which has changed since, and one that is gone.
    let mut small = Vec::new();
    for n in 0..200 {
        small.push(
            cluster
                .put(&format!("s{n}"), 100 + n, &content(n, 3_000 + n))
                .await,
        );
    }
    std::fs::write(cluster.dir.path().join("remote/s7"), b"other").unwrap();
    std::fs::remove_file(cluster.dir.path().join("remote/s8")).unwrap();
    let all = small.iter().chain([&file]).map(|f| v1::LoadFile {
        file: Some(f.clone().into()),
        bandwidth: 0,
    });
    let all: Vec<_> = all.collect();
    let results = client
        .load(futures::stream::iter(all.clone()))
        .await
        .unwrap()
        .into_inner();
    let results: Vec<v1::LoadFileResult> = results.try_collect().await.unwrap();
    assert_eq!(results.len(), 201);
    let mut failed: Vec<_> = results
        .iter()
        .filter(|r| r.code != 0)
        .map(|r| (r.ino, r.code))
        .collect();
    failed.sort_unstable();
    let codes = [
        u32::from(Code::Stale as u8),
        u32::from(Code::NotFound as u8),
    ];
    assert_eq!(failed[0], (107, codes[0]));
    assert!(
        failed[1].0 == 108 && codes.contains(&failed[1].1),
        "{failed:?}"
    );
    let again = client
        .load(futures::stream::iter(all))
        .await
        .unwrap()
        .into_inner();
    let cached = again.filter(|r| futures::future::ready(r.as_ref().unwrap().cached_before));
    assert_eq!(cached.count().await, 199);

    let files = v1::FilesRequest {
        files: vec![file.id.into(), small[0].id.into(), small[8].id.into()],
    };
    let pinned = client.pin(files.clone()).await.unwrap().into_inner();
    assert!(pinned.files >= 2);
    let known = client.stat(files.clone()).await.unwrap().into_inner().files;
    let large = known
        .iter()
        .find(|f| f.file == Some(file.id.into()))
        .unwrap();
    assert_eq!(
        (large.cached_bytes, large.pinned, &*large.medium),
        (file.size(), true, "SSD")
    );
    client.unpin(files.clone()).await.unwrap();
    let freed = client.free(files.clone()).await.unwrap().into_inner();
    assert_eq!(freed.bytes, file.size() + small[0].size());
    let left = client.stat(files).await.unwrap().into_inner().files;
    assert!(left.iter().all(|f| f.cached_bytes == 0), "{left:?}");

    cluster.master.forget.store(true, Ordering::SeqCst);
    let registered = || cluster.master.registrations.lock().unwrap().len() == 2;
    until("it registers again", registered).await;
    cluster.end(vec![stop]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_told_the_advertised_address() {
    let cluster = Cluster::new().await;
    let (_worker, stop) = cluster
        .worker_with(|config| {
            config.listen = "0.0.0.0:0".parse().unwrap();
            config.advertise = Some("node-7:7100".parse().unwrap());
        })
        .await;
    let told: Vec<_> = {
        let workers = cluster.master.workers.lock().unwrap();
        workers.values().map(|w| w.address.clone()).collect()
    };
    assert_eq!(told, ["node-7:7100"]);
    cluster.end(vec![stop]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_is_gone_round() {
    let cluster = Cluster::new().await;
    let (a, stop_a) = cluster.worker().await;
    let (b, stop_b) = cluster.worker().await;
    // Known to the second from the start, and dead from now on.
    stop_a.finish().await;
    drop(a);
    let local = b.local();
    for n in 0..8 {
        let data = content(n, 3 * MIB);
        let file = cluster.put(&format!("f{n}"), 10 + n, &data).await;
        assert!(read_all(&local, &file).await == data);
    }
    until("the counters arrive", || {
        cluster.sum(|c| c.bytes_from_ufs) == 24 * MIB
    })
    .await;
    cluster.end(vec![stop_b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmounted_store_leaves_the_cache_and_a_new_mount_is_found_when_it_is_needed() {
    let cluster = Cluster::new().await;
    let (worker, stop) = cluster.worker().await;
    let data = content(1, 2 * MIB);
    let old = cluster.put("a", 10, &data).await;
    assert!(read_all(&worker.local(), &old).await == data);
    let mut client = WorkerPool::new().get(worker.address());
    let spec = cluster.master.mounts.lock().unwrap().pop().unwrap().1;
    cluster
        .master
        .mounts
        .lock()
        .unwrap()
        .push((MountId(2), spec));
    // The worker has not heard of mount 2; a read makes it ask.
    let new = FileRef {
        id: FileId {
            ino: Ino(11),
            ..old.id
        },
        mount: MountId(2),
        ..old.clone()
    };
    assert!(read_all(&worker.local(), &new).await == data);
    let request = v1::FilesRequest {
        files: vec![old.id.into()],
    };
    let gone = async {
        while !client
            .stat(request.clone())
            .await
            .unwrap()
            .into_inner()
            .files
            .is_empty()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(20), gone).await;
    gone.expect("the file of the unmounted store is still cached");
    cluster.end(vec![stop]).await;
}
