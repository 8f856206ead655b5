//! A real mount over a master and a worker in memory. Everything lies under a temporary directory,
//! and is unmounted also when a test fails.

use crate::{local::FakeLocal, master::FakeMaster};
use forebay_client::LocalWorker;
use forebay_fuse::{FuseHost, config::FuseConfig};
use forebay_service::{ByteSize, Shutdown};
use prometheus_client::registry::Registry;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::runtime::Runtime;

pub(crate) struct Fixture {
    pub(crate) master: FakeMaster,
    pub(crate) local: Arc<FakeLocal>,
    pub(crate) mount: PathBuf,
    pub(crate) native: PathBuf,
    pub(crate) host: Option<FuseHost>,
    pub(crate) shutdown: Shutdown,
    pub(crate) runtime: Runtime,
    pub(crate) registry: Registry,
    _dir: tempfile::TempDir,
}

pub(crate) fn fixture(passthrough: bool) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (mount, native) = (dir.path().join("mount"), dir.path().join("tier"));
    std::fs::create_dir(&mount).unwrap();
    std::fs::create_dir(&native).unwrap();
    let entered = runtime.enter();
    let master = FakeMaster::start(&dir.path().join("master"), Duration::from_mins(10));
    let local = Arc::new(FakeLocal::new(&native));
    let config = FuseConfig {
        mount_point: mount.clone(),
        master: master.address().into(),
        spread_reads: false,
        worker_socket: None,
        http: None,
        allow_other: false,
        passthrough,
        keep_cores_awake: true,
        memory: ByteSize(64 << 20),
    };
    let shutdown = Shutdown::new();
    let mut registry = Registry::default();
    let worker = Some(local.clone() as Arc<dyn LocalWorker>);
    let host = runtime
        .block_on(FuseHost::start(config, worker, &mut registry, &shutdown))
        .expect("it mounts: this test needs root and /dev/fuse");
    drop(entered);
    Fixture {
        master,
        local,
        mount,
        native,
        host: Some(host),
        shutdown,
        runtime,
        registry,
        _dir: dir,
    }
}

impl Fixture {
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// The value of a metric.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.metrics();
        let line = text
            .lines()
            .find(|l| l.starts_with(name) && l[name.len()..].starts_with(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(host) = self.host.take() {
            let ended = self.runtime.block_on(host.unmount());
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
        self.runtime.block_on(self.shutdown.finish());
    }
}

/// Waits until `holds`, for some seconds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{what} does not come to hold"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}
