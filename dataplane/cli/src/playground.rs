//! `forebay playground`: a cluster of separate processes on loopback, all below one directory.

use crate::{
    args::PlaygroundArgs, failure::Failure, mount_arg, process::PARENT, signal::StopSignals,
};
use forebay_client::Master;
use forebay_proto::v1::{QuorumRequest, TopologyRequest};
use forebay_types::{Address, Addresses, MountSpec};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// How long a process may take to serve.
const START: Duration = Duration::from_mins(1);
/// How long a process may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(20);

#[derive(Serialize)]
struct MasterFile<'a> {
    data_dir: PathBuf,
    id: u64,
    listen: &'a Address,
    http: SocketAddr,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    peers: &'a [Peer],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    mounts: &'a [MountSpec],
}

#[derive(Clone, Serialize)]
struct Peer {
    id: u64,
    address: Address,
}

#[derive(Serialize)]
struct WorkerFile<'a> {
    data_dir: PathBuf,
    master: &'a Addresses,
    listen: &'a Address,
    socket: &'a Path,
    http: SocketAddr,
    tiers: [TierEntry; 1],
}

#[derive(Serialize)]
struct TierEntry {
    medium: &'static str,
    dir: PathBuf,
    size: u64,
}

#[derive(Serialize)]
struct FuseFile<'a> {
    mount_point: &'a Path,
    master: &'a Addresses,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker_socket: Option<&'a Path>,
    http: SocketAddr,
}

/// One line of what was started.
#[derive(Serialize)]
struct Member {
    role: &'static str,
    pid: u32,
    /// A master's number, and whether it leads just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leads: Option<bool>,
    /// Where it serves gRPC (a FUSE host: nowhere).
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Address>,
    http: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    mount_point: Option<PathBuf>,
    /// Restarts it by hand: `forebay ROLE --config CONFIG`.
    config: PathBuf,
    log: PathBuf,
}

/// The processes, in the order of start.
struct Cluster {
    children: Vec<(&'static str, Child)>,
    members: Vec<Member>,
}

/// Starts everything, prints one JSON line, and stays until told to stop.
pub(crate) async fn run(args: PlaygroundArgs) -> Result<(), Failure> {
    let mut stop = StopSignals::install()?;
    forebay_service::telemetry::init();
    let mounts = mount_arg::mounts(&args.uris)?;
    if !matches!(args.masters, 1 | 3 | 5) {
        return Err(Failure::usage(format!(
            "--masters {}: give 1, 3 or 5, so that a majority is left when one or two are lost",
            args.masters
        )));
    }
    if args.workers == 0 && args.mounts > 0 {
        return Err(Failure::usage("--workers 0: a mount needs a worker"));
    }
    let mut cluster = Cluster {
        children: Vec::new(),
        members: Vec::new(),
    };
    let started = tokio::select! {
        started = cluster.start(&args, &mounts) => started,
        () = stop.wait() => {
            cluster.stop().await;
            return Ok(());
        }
    };
    if let Err(failure) = started {
        cluster.stop().await;
        return Err(failure);
    }
    println!("{}", serde_json::json!({ "processes": cluster.members }));
    stop.wait().await;
    cluster.stop().await;
    Ok(())
}

impl Cluster {
    async fn start(&mut self, args: &PlaygroundArgs, mounts: &[MountSpec]) -> Result<(), Failure> {
        let dir = std::path::absolute(&args.dir)?;
        make_dir(&dir)?;
        let masters = self.start_masters(&dir, args.masters, mounts).await?;
        let mut sockets = Vec::new();
        for n in 0..args.workers {
            let [listen, http] = two_ports()?;
            let address = Address::Tcp(listen.to_string());
            let home = dir.join(format!("worker-{n}"));
            sockets.push(dir.join(format!("w{n}.sock")));
            let config = WorkerFile {
                data_dir: home.join("data"),
                master: &masters,
                listen: &address,
                socket: &sockets[usize::from(n)],
                http,
                tiers: [TierEntry {
                    medium: "SSD",
                    dir: home.join("cache"),
                    size: args.tier_size.0,
                }],
            };
            make_dir(&home)?;
            self.spawn("worker", &dir, n, &config, Some(&address), http, None)?
                .serves()
                .await?;
        }
        for n in 0..args.mounts {
            let [_, http] = two_ports()?;
            let mount_point = dir.join(format!("mount-{n}"));
            make_dir(&mount_point)?;
            let config = FuseFile {
                mount_point: &mount_point,
                master: &masters,
                worker_socket: sockets.get(usize::from(n)).map(PathBuf::as_path),
                http,
            };
            self.spawn("fuse", &dir, n, &config, None, http, Some(&mount_point))?
                .serves()
                .await?;
        }
        Ok(())
    }

    /// Starts the masters and waits until one leads.
    async fn start_masters(
        &mut self,
        dir: &Path,
        count: u16,
        mounts: &[MountSpec],
    ) -> Result<Addresses, Failure> {
        let ports = ports(2 * usize::from(count))?;
        let peer = |(id, listen): (u64, &SocketAddr)| Peer {
            id,
            address: Address::Tcp(listen.to_string()),
        };
        let peers: Vec<Peer> = (1..).zip(&ports).take(count.into()).map(peer).collect();
        let mut starting = Vec::new();
        for (n, peer) in (0..).zip(&peers) {
            let http = ports[usize::from(count + n)];
            let config = MasterFile {
                data_dir: dir.join(format!("master-{n}")),
                id: peer.id,
                listen: &peer.address,
                http,
                peers: if count == 1 { &[] } else { &peers },
                mounts,
            };
            let address = Some(&peer.address);
            starting.push(self.spawn("master", dir, n, &config, address, http, None)?);
        }
        // New ones wait for each other.
        for master in starting {
            master.serves().await?;
        }
        let addresses = peers.iter().map(|peer| peer.address.clone()).collect();
        let addresses = Addresses::new(addresses).map_err(Failure::run)?;
        let leader = leader(&addresses).await?;
        for (member, peer) in self.members.iter_mut().zip(&peers) {
            member.id = Some(peer.id);
            member.leads = Some(peer.id == leader);
        }
        Ok(addresses)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call site per role, each argument its own"
    )]
    fn spawn(
        &mut self,
        role: &'static str,
        dir: &Path,
        n: u16,
        config: &impl Serialize,
        address: Option<&Address>,
        http: SocketAddr,
        mount_point: Option<&Path>,
    ) -> Result<Starting, Failure> {
        let file = dir.join(format!("{role}-{n}.toml"));
        let log = dir.join(format!("{role}-{n}.log"));
        let text = toml::to_string(config)
            .map_err(|error| Failure::run(format!("cannot write {}: {error}", file.display())))?;
        fs::write(&file, text)
            .map_err(|error| Failure::run(format!("cannot write {}: {error}", file.display())))?;
        let errors = fs::File::create(&log)
            .map_err(|error| Failure::run(format!("cannot write {}: {error}", log.display())))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args([role, "--config"])
            .arg(&file)
            .env(PARENT, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().expect("stdout is piped");
        let pid = child.id().unwrap_or_default();
        self.children.push((role, child));
        self.members.push(Member {
            role,
            pid,
            id: None,
            leads: None,
            address: address.cloned(),
            http,
            mount_point: mount_point.map(Path::to_owned),
            config: file,
            log: log.clone(),
        });
        Ok(Starting {
            name: format!("{role} {n}"),
            output,
            log,
        })
    }

    /// Mounts first, masters last.
    async fn stop(&mut self) {
        while let Some((role, mut child)) = self.children.pop() {
            let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else {
                continue;
            };
            // Fails only if it has died by itself.
            let _ = kill_process(pid, Signal::TERM);
            if timeout(STOP, child.wait()).await.is_err() {
                tracing::warn!(role, ?pid, "does not stop: killed");
                if let Err(error) = child.kill().await {
                    tracing::warn!(role, %error, "cannot be killed");
                }
            }
        }
    }
}

/// A process that does not serve yet.
struct Starting {
    name: String,
    output: ChildStdout,
    log: PathBuf,
}

impl Starting {
    /// Waits until it serves.
    async fn serves(self) -> Result<(), Failure> {
        let mut lines = BufReader::new(self.output).lines();
        match timeout(START, lines.next_line()).await {
            Ok(Ok(Some(line))) if line.starts_with("ready ") => Ok(()),
            Err(_) => Err(Failure::run(format!(
                "{} does not serve after {} s: see {}",
                self.name,
                START.as_secs(),
                self.log.display()
            ))),
            _ => {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                let last = said.lines().last().unwrap_or("it said nothing").to_owned();
                Err(Failure::run(format!("{} failed: {last}", self.name)))
            }
        }
    }
}

/// The number of the master that leads, as soon as one does.
async fn leader(masters: &Addresses) -> Result<u64, Failure> {
    let master = Master::new(masters);
    let ask = || {
        let (mut registry, mut admin) = (master.registry(), master.admin());
        async move {
            // Only the leader answers this, once it serves.
            registry.topology(TopologyRequest::default()).await?;
            admin.quorum(QuorumRequest { of_leader: true }).await
        }
    };
    Ok(master.retrying("start", ask).await?.into_inner().leader)
}

/// Free ports of the loopback interface, chosen together so that they differ. Somebody else may
/// take one before the process binds it; the process then says so.
fn ports(count: usize) -> Result<Vec<SocketAddr>, Failure> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()?;
    let addresses = listeners.iter().map(TcpListener::local_addr);
    Ok(addresses.collect::<Result<_, _>>()?)
}

/// Where a process serves gRPC and HTTP.
fn two_ports() -> Result<[SocketAddr; 2], Failure> {
    let two = ports(2)?;
    Ok([two[0], two[1]])
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir)
        .map_err(|error| Failure::run(format!("cannot make {}: {error}", dir.display())))
}
