//! A mounted file system, from its start to its end.

use crate::{
    adapter::Adapter,
    backing::{Backing, Device},
    config::FuseConfig,
    fs::{Fs, Sources},
    inval::Epoch,
    metrics::Metrics,
    mount, notify, takeover,
    top::Top,
    wake::{self, Wake},
};
use anyhow::Context;
use forebay_client::{LocalWorker, Master, Namespace, ReadAhead, RemoteReader, SocketWorker};
use forebay_service::Shutdown;
use fuser::{Config, Session, SessionACL};
use prometheus_client::registry::Registry;
use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
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
    fs: Arc<Fs<Backing>>,
    waiting: TaskTracker,
    capabilities: u64,
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
        let options = mount::options(config.allow_other);
        let link = Link::Mount(options);
        FuseHost::serve(fs, mount_point, link, Device::default(), wake, shutdown).await
    }

    /// Serves `fs` at `mount_point`; returns when it does. `device` becomes the session's.
    pub(crate) async fn serve(
        fs: Fs<Backing>,
        mount_point: PathBuf,
        link: Link,
        device: Device,
        wake: Arc<Wake>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<FuseHost> {
        let fs = Arc::new(fs);
        let waiting = TaskTracker::new();
        let capabilities = Arc::new(AtomicU64::new(0));
        let adapter = Adapter {
            wake,
            device: device.clone(),
            capabilities: capabilities.clone(),
            fs: fs.clone(),
            runtime: Handle::current(),
            waiting: waiting.clone(),
            owner: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
        };
        let inherited = matches!(link, Link::Inherited(..));
        let at = mount_point.clone();
        let session = tokio::task::spawn_blocking(move || link.session(adapter, &at));
        let session = session.await?.with_context(|| {
            format!(
                "cannot mount at {}: root or fusermount3 is needed",
                mount_point.display()
            )
        })?;
        let ended = CancellationToken::new();
        let epoch = Epoch::new(session.as_fd().try_clone_to_owned()?);
        let own = epoch.device()?;
        device.get_or_init(|| own);
        let notifying = notify::start(&fs, session.notifier(), epoch, inherited, ended.clone())?;
        follow_recalls(&fs, shutdown);
        run(session, ended.clone())?;
        mount::raise_read_ahead(&mount_point);
        Ok(FuseHost {
            mount_point,
            fs,
            waiting,
            capabilities: capabilities.load(Ordering::Relaxed),
            ended,
            notifying,
        })
    }

    /// What the kernel said that it can do.
    pub(crate) fn capabilities(&self) -> u64 {
        self.capabilities
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// The file system.
    pub fn fs(&self) -> &Arc<Fs<Backing>> {
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
    // Half for metadata, half for read-ahead.
    let master = if config.spread_reads {
        Master::spreading_reads(&config.master)
    } else {
        Master::new(&config.master)
    };
    let namespace = Namespace::connect(master, memory / 2, stop.clone()).await?;
    let ahead = ReadAhead::new(memory / 2);
    let remote = Arc::new(RemoteReader::new(&config.master, &ahead));
    let local = match (local, &config.worker_socket) {
        (Some(local), _) => Some(local),
        (None, Some(path)) => {
            let worker = SocketWorker::connect(path, remote.clone(), stop).await?;
            Some(worker as Arc<dyn LocalWorker>)
        }
        (None, None) => None,
    };
    Ok(Sources {
        namespace,
        local,
        remote,
    })
}

/// Gives back the leases that the worker asks for.
fn follow_recalls(fs: &Arc<Fs<Backing>>, shutdown: &Shutdown) {
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

/// How the session comes to its device.
pub(crate) enum Link {
    /// It mounts.
    Mount(Config),
    /// It is mounted, and nobody has served it.
    Fresh(File),
    /// A predecessor served it, to which the kernel said that it can do this.
    Inherited(File, u64),
}

impl Link {
    fn session(self, adapter: Adapter, at: &Path) -> io::Result<Session<Adapter>> {
        let config = mount::options(true);
        match self {
            Link::Mount(options) => Session::new(adapter, at, &options),
            Link::Fresh(device) => {
                Session::from_fd(adapter, device.into(), SessionACL::All, config)
            }
            Link::Inherited(device, capabilities) => {
                takeover::session(adapter, &device, capabilities, SessionACL::All, config)
            }
        }
    }
}

/// Serves on threads of its own until the kernel ends the session.
fn run(session: Session<Adapter>, ended: CancellationToken) -> anyhow::Result<()> {
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
