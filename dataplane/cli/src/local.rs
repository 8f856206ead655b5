//! `forebay local`: master, worker and FUSE host in one process, the same code as apart.

use crate::{
    args::LocalArgs,
    failure::Failure,
    mount_arg,
    process::{begin, say_ready},
    signal::StopSignals,
    tier_arg,
};
use forebay_fuse::{FuseHost, config::FuseConfig};
use forebay_master::{Master, config::MasterConfig};
use forebay_service::{ByteSize, Shutdown, config, data_dir::DataDir, http};
use forebay_types::{Address, MountSpec};
use forebay_worker::{
    Worker,
    config::{Eviction, TierSpec, WorkerConfig},
};
use prometheus_client::registry::Registry;
use serde::Deserialize;
use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Memory for everything when nothing was said.
const DEFAULT_MEMORY: u64 = 512 << 20;
/// Less than this cannot hold the write buffers and one fill.
const LEAST_MEMORY: u64 = 64 << 20;
/// Longest path of a Unix socket (`sun_path` less the final NUL), less our file name.
const SOCKET_DIR_MOST: usize = 107 - "/master.sock".len();

/// The file of `--config`, with the same meaning as the command line.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LocalConfig {
    mount_point: Option<PathBuf>,
    mounts: Vec<MountSpec>,
    data_dir: Option<PathBuf>,
    tiers: Vec<TierSpec>,
    memory: Option<ByteSize>,
    http: Option<SocketAddr>,
    allow_other: bool,
    eviction: Eviction,
}

/// Everything decided.
struct Plan {
    mount_point: PathBuf,
    mounts: Vec<MountSpec>,
    data_dir: PathBuf,
    tiers: Vec<TierSpec>,
    memory: u64,
    http: Option<SocketAddr>,
    allow_other: bool,
    eviction: Eviction,
}

/// Serves until it is told to stop or the mount is taken away.
pub(crate) async fn run(args: LocalArgs) -> Result<(), Failure> {
    let mut stop = StopSignals::install()?;
    let mut registry = begin();
    let mut plan = plan(args)?;
    forebay_fuse::mount::check(&plan.mount_point)?;
    let data_dir = DataDir::open(&plan.data_dir, "local")?;
    if plan.tiers.is_empty() {
        plan.tiers
            .push(tier_arg::default_tier(&plan.data_dir.join("cache"))?);
    }
    let sockets = SocketDir::make(data_dir.path())?;
    let shutdown = Shutdown::new();
    let master = MasterConfig {
        data_dir: plan.data_dir.join("master"),
        listen: Address::Unix(sockets.dir.join("master.sock")),
        id: 1,
        peers: Vec::new(),
        join: Vec::new(),
        http: None,
        mounts: plan.mounts.clone(),
        seal_key: None,
        memory: ByteSize(plan.memory / 4),
    };
    let master = tokio::select! {
        master = Master::start(master, &mut registry, &shutdown) => master,
        () = stop.wait() => return Ok(()),
    };
    // From here on everything that runs is stopped in order, whatever happens.
    let master = match master {
        Ok(master) => master,
        Err(error) => {
            shutdown.finish().await;
            return Err(error.into());
        }
    };
    let served = serve(&plan, &sockets, &master, registry, &shutdown, &mut stop).await;
    shutdown.finish().await;
    master.close().await;
    served
}

/// Starts worker and FUSE host and serves until it is told to stop.
async fn serve(
    plan: &Plan,
    sockets: &SocketDir,
    master: &Master,
    mut registry: Registry,
    shutdown: &Shutdown,
    stop: &mut StopSignals,
) -> Result<(), Failure> {
    let starting = start(plan, sockets, master, &mut registry, shutdown);
    let (_worker, host) = tokio::select! {
        started = starting => started?,
        () = stop.wait() => return Ok(()),
    };
    if let Some(listen) = plan.http {
        let serving = shutdown.clone();
        let readiness: http::Readiness =
            Arc::new(move || serving.has_begun().then(|| "stopping".to_owned()));
        http::serve(listen, Arc::new(registry), readiness, shutdown).await?;
    }
    say_ready(&plan.mount_point.display().to_string());
    let asked = tokio::select! {
        asked = stop.wait_or(shutdown) => asked,
        () = host.ended() => {
            tracing::info!("unmounted from outside");
            Ok(())
        }
    };
    host.unmount().await?;
    asked
}

async fn start(
    plan: &Plan,
    sockets: &SocketDir,
    master: &Master,
    registry: &mut Registry,
    shutdown: &Shutdown,
) -> Result<(Worker, FuseHost), Failure> {
    let quarter = plan.memory / 4;
    let worker = WorkerConfig {
        data_dir: plan.data_dir.join("worker"),
        master: master.address().into(),
        listen: Address::Unix(sockets.dir.join("worker.sock")),
        advertise: None,
        socket: None,
        http: None,
        tiers: plan.tiers.clone(),
        eviction: plan.eviction,
        high_watermark: 0.95,
        low_watermark: 0.90,
        seal_key: None,
        memory: ByteSize(2 * quarter),
    };
    let worker = Worker::start(worker, registry, shutdown).await?;
    let host = FuseConfig {
        mount_point: plan.mount_point.clone(),
        master: master.address().into(),
        spread_reads: false,
        worker_socket: None,
        http: None,
        allow_other: plan.allow_other,
        passthrough: true,
        keep_cores_awake: true,
        memory: ByteSize(quarter),
    };
    let host = FuseHost::start(host, Some(worker.local()), registry, shutdown).await?;
    Ok((worker, host))
}

/// The command line over the file over the defaults.
fn plan(args: LocalArgs) -> Result<Plan, Failure> {
    let file: LocalConfig = match &args.config {
        Some(path) => config::load(Some(path))?,
        None => LocalConfig::default(),
    };
    let mount_point = args.mount_point.or(file.mount_point).ok_or_else(|| {
        Failure::usage("no mount point: give one, or 'mount_point' in the configuration file")
    })?;
    let mount_point = std::path::absolute(&mount_point)
        .map_err(|error| Failure::usage(format!("bad mount point: {error}")))?;
    let mut mounts = mount_arg::mounts(&args.mounts)?;
    if mounts.is_empty() {
        mounts = file.mounts;
    }
    if mounts.is_empty() {
        return Err(Failure::usage(
            "nothing to mount: give a URI such as s3://bucket/prefix or /directory",
        ));
    }
    let data_dir = match args.data_dir.or(file.data_dir) {
        Some(dir) => std::path::absolute(&dir)
            .map_err(|error| Failure::usage(format!("bad data directory: {error}")))?,
        None => default_data_dir(&mount_point)?,
    };
    let mut tiers = args
        .tiers
        .iter()
        .map(|t| tier_arg::parse(t))
        .collect::<Result<Vec<_>, _>>()?;
    if tiers.is_empty() {
        tiers = file.tiers;
    }
    let memory = args
        .memory
        .or(file.memory)
        .map_or(DEFAULT_MEMORY, |size| size.0);
    if memory < LEAST_MEMORY {
        return Err(Failure::usage(format!(
            "memory {} is too little: give at least {}",
            ByteSize(memory),
            ByteSize(LEAST_MEMORY)
        )));
    }
    Ok(Plan {
        mount_point,
        mounts,
        data_dir,
        tiers,
        memory,
        http: args.http.or(file.http),
        allow_other: args.allow_other || file.allow_other,
        eviction: file.eviction,
    })
}

/// One for each mount point, so that two mounts do not meet in one directory.
fn default_data_dir(mount_point: &Path) -> Result<PathBuf, Failure> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .ok_or_else(|| Failure::usage("neither XDG_CACHE_HOME nor HOME is set: give --data-dir"))?;
    let mut hasher = DefaultHasher::new();
    mount_point.hash(&mut hasher);
    Ok(cache
        .join("forebay")
        .join("local")
        .join(format!("{:016x}", hasher.finish())))
}

/// Where the sockets lie: in the data directory, or, if its path is too long for a socket, in a
/// private temporary directory.
struct SocketDir {
    dir: PathBuf,
    temporary: bool,
}

impl SocketDir {
    fn make(data_dir: &Path) -> Result<SocketDir, Failure> {
        let wanted = data_dir.join("run");
        let temporary = wanted.as_os_str().len() > SOCKET_DIR_MOST;
        let dir = if temporary {
            env::temp_dir().join(format!("forebay-{}", uuid::Uuid::new_v4().simple()))
        } else {
            wanted
        };
        let fail = |error| Failure::run(format!("cannot make {}: {error}", dir.display()));
        if dir.exists() {
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(fail)?;
        } else {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&dir)
                .map_err(fail)?;
        }
        Ok(SocketDir { dir, temporary })
    }
}

impl Drop for SocketDir {
    fn drop(&mut self) {
        if self.temporary {
            // Sockets only; what is left in the temporary directory harms nobody.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
