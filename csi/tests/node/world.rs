//! A node: a kubelet's directory, a FUSE host, the driver.

use crate::fake_host::{FakeHost, Kind};
use forebay_csi::{
    mount_table::{Mount, MountTable},
    proto::csi::{
        NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest,
        NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
        VolumeCapability,
        node_client::NodeClient,
        volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
    },
};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// A round of the driver's repairs takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that nobody announces.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) struct World {
    dir: TempDir,
    pub(crate) host: Option<FakeHost>,
    driver: Option<Child>,
    http: SocketAddr,
    /// How mounts spread between the driver's container and the others; absent: there is one only.
    propagation: Option<&'static str>,
}

impl Drop for World {
    fn drop(&mut self) {
        // The FUSE host first: the driver cannot end while it waits for one that is silent.
        self.host = None;
        if self.driver.is_some() {
            self.kill();
        }
        // Else the directory cannot be removed.
        let table = fs::read_to_string(MountTable::PATH).unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let points: Vec<&str> = points.collect();
        for point in points.into_iter().rev() {
            if Path::new(point).starts_with(self.dir.path()) {
                unmount(point, UnmountFlags::DETACH).unwrap();
            }
        }
    }
}

impl World {
    pub(crate) fn new() -> World {
        World {
            dir: tempfile::tempdir().unwrap(),
            host: None,
            driver: None,
            // Free a moment ago.
            propagation: None,
            http: TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap(),
        }
    }

    /// With a FUSE host and a driver.
    pub(crate) async fn begin(&mut self, kind: Kind) -> NodeClient<Channel> {
        self.start_host(kind);
        self.start_driver();
        self.node().await
    }

    /// Puts the driver into a mount namespace of its own, as a container is, on a directory that
    /// is shared with it.
    pub(crate) fn separate(&mut self, propagation: &'static str) {
        let dir = self.dir.path();
        mount("kubelet", dir, "tmpfs", MountFlags::empty(), None).unwrap();
        mount_change(dir, MountPropagationFlags::SHARED).unwrap();
        self.propagation = Some(propagation);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn host(&self) -> &FakeHost {
        self.host.as_ref().unwrap()
    }

    pub(crate) fn start_host(&mut self, kind: Kind) {
        self.host = Some(FakeHost::start(&self.path("host.sock"), kind));
    }

    pub(crate) fn start_driver(&mut self) {
        let dir = self.dir.path().display();
        let config = format!(
            "node_name = 'node-1'\nendpoint = '{dir}/csi.sock'\nregistration_dir = '{dir}/reg'\n\
             host_socket = '{dir}/host.sock'\nsockets_dir = '{dir}/run'\nstate_dir = '{dir}/state'\n\
             kubelet_endpoint = '/kubelet/csi.sock'\nhttp = '{}'\n",
            self.http
        );
        fs::write(self.path("csi.toml"), config).unwrap();
        let program = env!("CARGO_BIN_EXE_forebay-csi");
        let mut driver = if let Some(propagation) = self.propagation {
            let mut unshare = Command::new("unshare");
            unshare.args(["--mount", "--propagation", propagation, "--", program]);
            unshare
        } else {
            Command::new(program)
        };
        let mut driver = driver
            .arg("--config")
            .arg(self.path("csi.toml"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(driver.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, format!("ready {dir}/csi.sock\n"));
        self.driver = Some(driver);
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    /// As the kernel does when memory is short.
    pub(crate) fn kill(&mut self) {
        let mut driver = self.driver.take().unwrap();
        driver.kill().unwrap();
        driver.wait().unwrap();
    }

    /// As Kubernetes does; returns the exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        let mut driver = self.driver.take().unwrap();
        let pid = rustix::process::Pid::from_child(&driver);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        driver.wait().unwrap().code()
    }

    pub(crate) async fn channel(&self, socket: &str) -> Channel {
        let uri = format!("unix://{}", self.text(socket));
        let endpoint = Endpoint::from_shared(uri).unwrap();
        endpoint.connect().await.unwrap()
    }

    pub(crate) async fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel("csi.sock").await)
    }

    /// What is mounted at a path.
    pub(crate) fn mount(&self, name: &str) -> Option<Mount> {
        mount_at(&self.path(name))
    }

    /// Whether pods see the volume as it is mounted now.
    pub(crate) fn shows(&self, target: &str, staging: &str) -> bool {
        match (self.mount(target), self.mount(staging)) {
            (Some(target), Some(staging)) => target.device == staging.device,
            _ => false,
        }
    }

    pub(crate) fn stage_request(&self, id: &str) -> NodeStageVolumeRequest {
        let attributes = [
            ("cluster", "uid-1"),
            ("masters", "m-1:7000,m-2:7000"),
            ("path", "/ns/data"),
        ];
        NodeStageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: self.text(&format!("staging-{id}")),
            volume_capability: Some(capability(Mode::MultiNodeReaderOnly, &[])),
            volume_context: attributes
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..NodeStageVolumeRequest::default()
        }
    }

    pub(crate) fn publish_request(
        &self,
        id: &str,
        target: &str,
        flags: &[&str],
    ) -> NodePublishVolumeRequest {
        NodePublishVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: self.text(&format!("staging-{id}")),
            target_path: self.text(target),
            volume_capability: Some(capability(Mode::MultiNodeReaderOnly, flags)),
            readonly: true,
            volume_context: HashMap::new(),
            ..NodePublishVolumeRequest::default()
        }
    }

    /// Stages and publishes at `pod`.
    pub(crate) async fn use_volume(&self, id: &str, pod: &str) {
        let mut node = self.node().await;
        node.node_stage_volume(self.stage_request(id))
            .await
            .unwrap();
        let request = self.publish_request(id, pod, &[]);
        node.node_publish_volume(request).await.unwrap();
    }

    pub(crate) async fn unpublish(&self, id: &str, target: &str) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: id.to_owned(),
            target_path: self.text(target),
        };
        self.node()
            .await
            .node_unpublish_volume(request)
            .await
            .map(drop)
    }

    pub(crate) async fn unstage(&self, id: &str) -> Result<(), Status> {
        let request = NodeUnstageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: self.text(&format!("staging-{id}")),
        };
        self.node()
            .await
            .node_unstage_volume(request)
            .await
            .map(drop)
    }

    pub(crate) async fn stats(
        &self,
        id: &str,
        path: &str,
    ) -> Result<NodeGetVolumeStatsResponse, Status> {
        let request = NodeGetVolumeStatsRequest {
            volume_id: id.to_owned(),
            volume_path: self.text(path),
            ..NodeGetVolumeStatsRequest::default()
        };
        let answer = self.node().await.node_get_volume_stats(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// Files of records.
    pub(crate) fn records(&self) -> usize {
        fs::read_dir(self.path("state/volumes")).unwrap().count()
    }
}

pub(crate) fn mount_at(point: &Path) -> Option<Mount> {
    MountTable::read().unwrap().at(point).cloned()
}

pub(crate) fn capability(mode: Mode, flags: &[&str]) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume {
            mount_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            ..MountVolume::default()
        })),
    }
}
