//! A mounted file system, from its start to its end.

use crate::{
    adapter::Adapter,
    config::FuseConfig,
    fs::{Fs, Sources},
    inval::Epoch,
    metrics::Metrics,
    mount, notify,
    top::Top,
    wake::{self, Wake},
};
use anyhow::Context;
use forebay_client::{LocalWorker, Master, Namespace, RemoteReader, SocketWorker};
use forebay_service::Shutdown;
use fuser::{BackingId, Session};
use prometheus_client::registry::Registry;
use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};
use tokio::{runtime::Handle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long unmounting waits for requests under way and for files that are still open. After that the
/// end of the process takes the mount down.
const PATIENCE: Duration = Duration::from_secs(5);

/// A mounted file system.
pub struct FuseHost {
    mount_point: PathBuf,
    fs: Arc<Fs<BackingId>>,
    waiting: TaskTracker,
    /// The kernel has ended the session.
    ended: CancellationToken,
    notifying: thread::JoinHandle<()>,
}

impl FuseHost {
    /// Connects to the master, mounts, and returns when the mount serves.
    pub async fn start(
        config: FuseConfig,
        local: Option<Arc<dyn LocalWorker>>,
        registry: &mut Registry,
        shutdown: &Shutdown,
    ) -> anyhow::Result<FuseHost> {
        let mount_point = mount::check(&config.mount_point)?;
        let sources = sources(&config, local, shutdown).await?;
        let metrics = Metrics::register(registry);
        let fs = Fs::new(sources, Top::default(), config.passthrough, metrics);
        let wake = Arc::new(Wake::default());
        if config.keep_cores_awake {
            keep_awake(wake.clone(), shutdown);
        }
        FuseHost::mount(fs, mount_point, config.allow_other, wake, shutdown).await
    }

    /// Mounts `fs` at `mount_point`, which [`mount::check`] has approved of, and returns when the mount serves.
    pub(crate) async fn mount(
        fs: Fs<BackingId>,
        mount_point: PathBuf,
        allow_other: bool,
        wake: Arc<Wake>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<FuseHost> {
        let fs = Arc::new(fs);
        let waiting = TaskTracker::new();
        let adapter = Adapter {
            wake,
            fs: fs.clone(),
            runtime: Handle::current(),
            waiting: waiting.clone(),
            owner: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
        };
        let options = mount::options(allow_other);
        let at = mount_point.clone();
        let session = tokio::task::spawn_blocking(move || Session::new(adapter, &at, &options));
        let session = session.await?.with_context(|| {
            format!(
                "cannot mount at {}: root or fusermount3 is needed",
                mount_point.display()
            )
        })?;
        let ended = CancellationToken::new();
        let epoch = Epoch::new(session.as_fd().try_clone_to_owned()?);
        let notifying = notify::start(&fs, session.notifier(), epoch, ended.clone())?;
        follow_recalls(&fs, shutdown);
        serve(session, ended.clone())?;
        mount::raise_read_ahead(&mount_point);
        Ok(FuseHost {
            mount_point,
            fs,
            waiting,
            ended,
            notifying,
        })
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// The file system.
    pub fn fs(&self) -> &Arc<Fs<BackingId>> {
        &self.fs
    }

    /// Whether the kernel has ended the session.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Resolves when the kernel has ended the session (somebody unmounted it).
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Unmounts (lazily if files are open) and waits for the session's threads, for some seconds if
    /// files stay open.
    pub async fn unmount(self) -> anyhow::Result<()> {
        let at = self.mount_point.clone();
        let shown = self.mount_point.display();
        let busy = tokio::task::spawn_blocking(move || mount::unmount(&at)).await?;
        if busy.with_context(|| format!("cannot unmount {shown}; run: umount -l {shown}"))? {
            tracing::warn!(mount_point = %shown, "files are still open; the mount is detached");
        }
        self.waiting.close();
        let quiet = async {
            self.ended.cancelled().await;
            self.waiting.wait().await;
        };
        if timeout(PATIENCE, quiet).await.is_err() {
            tracing::warn!(mount_point = %shown, "files stay open; they end with this process");
            return Ok(());
        }
        let notifying = self.notifying;
        tokio::task::spawn_blocking(move || notifying.join())
            .await?
            .map_err(|_| anyhow::anyhow!("the thread that notifies the kernel panicked"))
    }
}

async fn sources(
    config: &FuseConfig,
    local: Option<Arc<dyn LocalWorker>>,
    shutdown: &Shutdown,
) -> anyhow::Result<Sources> {
    let memory = config.memory.0;
    let stop = shutdown.token();
    // Half for metadata, a quarter each for the read-ahead of streams with and without a local worker.
    let master = if config.spread_reads {
        Master::spreading_reads(&config.master)
    } else {
        Master::new(&config.master)
    };
    let namespace = Namespace::connect(master, memory / 2, stop.clone()).await?;
    let local = match (local, &config.worker_socket) {
        (Some(local), _) => Some(local),
        (None, Some(path)) => {
            let remote = Arc::new(RemoteReader::new(&config.master, memory / 4));
            Some(SocketWorker::connect(path, remote, stop).await? as Arc<dyn LocalWorker>)
        }
        (None, None) => None,
    };
    let remote = Arc::new(RemoteReader::new(&config.master, memory / 4));
    Ok(Sources {
        namespace,
        local,
        remote,
    })
}

/// Gives back the leases that the worker asks for.
fn follow_recalls(fs: &Arc<Fs<BackingId>>, shutdown: &Shutdown) {
    let Some(mut recalls) = fs.local().and_then(|local| local.take_recalls()) else {
        return;
    };
    let fs = fs.clone();
    shutdown.spawn(async move {
        while let Some(lease) = recalls.recv().await {
            fs.inodes().recall(lease);
        }
    });
}

/// Lets no core halt while the mount is busy, where that helps.
pub(crate) fn keep_awake(wake: Arc<Wake>, shutdown: &Shutdown) {
    let Some(device) = wake::device() else {
        return;
    };
    shutdown.spawn(async move { wake.run(&device).await });
}

/// Serves on threads of its own until the kernel ends the session.
fn serve(session: Session<Adapter>, ended: CancellationToken) -> anyhow::Result<()> {
    thread::Builder::new()
        .name("fuse-session".to_owned())
        .spawn(move || {
            let _ended = ended.drop_guard();
            if let Err(error) = session.run() {
                tracing::warn!(%error, "the FUSE session broke");
            }
        })?;
    Ok(())
}
