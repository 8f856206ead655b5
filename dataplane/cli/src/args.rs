//! The command line.

use clap::{Args, Parser, Subcommand};
use forebay_service::ByteSize;
use forebay_types::Addresses;
use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

/// Remote data as a local directory, at local speed.
#[derive(Parser)]
#[command(name = "forebay", version, arg_required_else_help = false)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Mount buckets and directories here: master, worker and FUSE host in one process
    Local(LocalArgs),
    /// Run a master
    Master(DaemonArgs),
    /// Run a worker
    Worker(DaemonArgs),
    /// Run a FUSE host
    Fuse(DaemonArgs),
    /// Run the FUSE host of a Kubernetes node, which serves the volumes that the CSI driver asks for
    Node(DaemonArgs),
    /// Hold the mounts of a Kubernetes node while its FUSE host is replaced
    Keeper(DaemonArgs),
    /// Run a cluster of separate processes on this machine
    Playground(PlaygroundArgs),
    /// Look into the tree and steer the cache
    Fs(FsArgs),
    /// Capacity and use of each tier, hit ratio, where bytes came from
    Report(ReportArgs),
    /// Copy all metadata of a running cluster into a directory; again into the same one, only what is new
    Backup(BackupArgs),
    /// Make a master's empty data directory hold what a backup holds
    Restore(RestoreArgs),
    /// Look into a master's journal
    Journal(JournalArgs),
    /// Remove what a worker that has ended left on a disk
    Erase(EraseArgs),
    /// The masters: who leads, who belongs to them
    Quorum(QuorumArgs),
    /// Measure a running cluster
    Bench(BenchArgs),
}

#[derive(Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Where the backup goes; made if it is missing
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct EraseArgs {
    /// Directories that were given to a worker; refused if anything else is in them
    #[arg(value_name = "DIR", required = true)]
    pub(crate) dirs: Vec<PathBuf>,
    /// Then stay until SIGTERM comes: for a container that would be started again
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Args)]
pub(crate) struct RestoreArgs {
    /// The directory of a backup
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Configuration of the master that is to have it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

#[derive(Args)]
pub(crate) struct JournalArgs {
    #[command(subcommand)]
    pub(crate) command: JournalCommand,
}

#[derive(Subcommand)]
pub(crate) enum JournalCommand {
    /// Print its entries: index, term, what they say. Entries that every table has are cut off
    Dump(JournalDumpArgs),
}

#[derive(Args)]
pub(crate) struct JournalDumpArgs {
    /// Data directory of a master that is not running
    #[arg(value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// First index
    #[arg(long, default_value_t = 0)]
    pub(crate) from: u64,
    /// Most entries
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    pub(crate) limit: u64,
    /// One JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is done with the masters.
#[derive(Args)]
pub(crate) struct QuorumArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(subcommand)]
    pub(crate) command: QuorumCommand,
}

#[derive(Subcommand)]
pub(crate) enum QuorumCommand {
    /// Who leads, who follows, and how far behind
    Status,
    /// Take in the master that serves at ADDRESS, started with 'join' in its configuration; waits until it
    /// counts. A master that finds its directory empty asks for this by itself
    Add {
        /// host:port or unix:/path
        #[arg(value_name = "ADDRESS")]
        address: forebay_types::Address,
    },
    /// Let a master go for good; one that leads hands over first
    Remove {
        /// Its number
        #[arg(value_name = "ID")]
        id: u64,
    },
    /// Hand the lead to a master
    Transfer {
        /// Its number
        #[arg(value_name = "ID")]
        id: u64,
    },
}

#[derive(Args)]
pub(crate) struct DaemonArgs {
    /// TOML file; environment variables FOREBAY_KEY override it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

/// What is mounted.
#[derive(Args)]
pub(crate) struct MountArgs {
    /// s3://bucket/prefix, gs://…, az://…, file:///dir or /dir; PATH= puts it at a path of the tree
    #[arg(value_name = "[PATH=]URI")]
    pub(crate) uris: Vec<String>,
    /// Option of the under stores, or of the one at PATH: endpoint, region, path_style, anonymous, sync …
    #[arg(long = "option", short = 'o', value_name = "[PATH:]KEY=VALUE")]
    pub(crate) options: Vec<String>,
}

#[derive(Args)]
pub(crate) struct LocalArgs {
    /// An empty directory
    #[arg(value_name = "MOUNTPOINT", required_unless_present = "config")]
    pub(crate) mount_point: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) mounts: MountArgs,
    /// Metadata, page index and (unless tiers say otherwise) the cache; found again at the next start
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// A cache tier: MEM, SSD or HDD, its directory and size; repeatable
    #[arg(long = "tier", value_name = "MEDIUM=DIR:SIZE")]
    pub(crate) tiers: Vec<String>,
    /// Memory for metadata, read-ahead and fills in flight [default: 512MiB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,
    /// Serve /metrics, /healthz and /readyz here
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http: Option<SocketAddr>,
    /// Let other users read the mount
    #[arg(long)]
    pub(crate) allow_other: bool,
    /// TOML file with the same settings; the command line overrides it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct PlaygroundArgs {
    /// Where everything lies
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Master processes: 1, 3 or 5
    #[arg(long, default_value_t = 1)]
    pub(crate) masters: u16,
    /// Worker processes
    #[arg(long, default_value_t = 1)]
    pub(crate) workers: u16,
    /// FUSE host processes; the n-th uses the n-th worker as its local one
    #[arg(long, default_value_t = 1)]
    pub(crate) mounts: u16,
    /// Size of each worker's tier
    #[arg(long, default_value = "4GiB", value_name = "SIZE")]
    pub(crate) tier_size: ByteSize,
    #[command(flatten)]
    pub(crate) uris: MountArgs,
}

/// Which cluster.
#[derive(Args, Clone)]
pub(crate) struct ClusterArgs {
    /// The masters: host:port or unix:/path, several separated by commas. Without it PATH is a local path
    /// inside a mount
    #[arg(long, global = true, value_name = "ADDRESS", env = "FOREBAY_MASTER")]
    pub(crate) master: Option<Addresses>,
    /// Print JSON: one object, or one a line for lists
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Any path inside the mount
    #[arg(default_value = ".")]
    pub(crate) path: OsString,
}

#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    /// Operations on metadata: rate and latency. Needs --master
    Meta(MetaBenchArgs),
}

#[derive(Args)]
pub(crate) struct MetaBenchArgs {
    /// Operations, measured one after the other, each with a count of its own if wanted: create, mkdir,
    /// lookup, getattr, rename, remove; mix (of 100: 50 lookups, 30 getattrs, 10 creates, 5 renames, 5
    /// removes); list (a whole directory) and rename-dir (a directory with everything below, there and
    /// back), one at a time in each directory. What an operation needs is made before it, unmeasured.
    /// With FILES, lookups and getattrs are of so many of the files, the others of all
    #[arg(long, value_name = "OPERATION[:COUNT[:FILES]]", value_delimiter = ',', value_parser = planned,
        default_value = "create,lookup,getattr,rename,remove")]
    pub(crate) operations: Vec<Planned>,
    /// Operations in flight, each of a task of its own; all share one connection
    #[arg(long, visible_alias = "threads", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) in_flight: u16,
    /// How many of each operation [default: 100000, or with --duration as many as there is time for]
    #[arg(long)]
    pub(crate) count: Option<u64>,
    /// Longest time for each operation: 500ms, 10s, 5m
    #[arg(long, value_name = "TIME")]
    pub(crate) duration: Option<String>,
    /// Ask all masters, not only the one that leads, when looking up and getting attributes
    #[arg(long)]
    pub(crate) spread_reads: bool,
    /// Directories above the working directories
    #[arg(long, default_value_t = 0)]
    pub(crate) depth: u16,
    /// Working directories; files are spread over them evenly
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) directories: u16,
    /// An existing directory of a scratch mount [default: a scratch mount /bench-ID of its own, which is
    /// unmounted at the end]
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// Leave the scratch mount there
    #[arg(long)]
    pub(crate) keep: bool,
    /// Write what was acknowledged to FILE, at once: '+PATH' after a create or mkdir, '-PATH' after a
    /// remove, both lines ('-OLD', '+NEW') after a rename. The last line of a path says whether it must
    /// be there; a path of which an operation failed is not certain. Implies --keep
    #[arg(long, value_name = "FILE")]
    pub(crate) acked: Option<PathBuf>,
}

/// An operation, how many of it, and on how many files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) operation: Operation,
    pub(crate) count: Option<u64>,
    /// Lookups and getattrs are of so many files of those that there are.
    pub(crate) files: Option<u64>,
}

fn planned(text: &str) -> Result<Planned, String> {
    let mut parts = text.splitn(3, ':');
    let name = parts.next().unwrap_or_default();
    let mut number = || {
        let number = |text: &str| text.parse().map_err(|_| format!("bad count '{text}'"));
        parts.next().map(number).transpose()
    };
    Ok(Planned {
        operation: <Operation as clap::ValueEnum>::from_str(name, false)?,
        count: number()?,
        files: number()?,
    })
}

/// What 'bench meta' can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Operation {
    Create,
    Mkdir,
    Lookup,
    Getattr,
    Rename,
    Remove,
    List,
    RenameDir,
    Mix,
}

#[derive(Args)]
pub(crate) struct FsArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(subcommand)]
    pub(crate) command: FsCommand,
}

#[derive(Subcommand)]
pub(crate) enum FsCommand {
    /// List a directory
    Ls(PathArgs),
    /// All that is known of a file or directory
    Stat(PathArgs),
    /// Write a file's bytes to standard output
    Cat(PathArgs),
    /// Files, directories and bytes below a path
    Du(PathArgs),
    /// Paths that match
    Find(FindArgs),
    /// Which workers hold a file, and how much of it
    Location(PathArgs),
    /// The mount table
    Mounts(PathArgs),
    /// Mount an under store, or make a scratch mount (URI scratch:), for the whole cluster; it stays
    /// until unmounted. Needs --master
    Mount(FsMountArgs),
    /// Take away what 'fs mount' mounted. Needs --master
    Unmount(FsUnmountArgs),
    /// Bring files into the cache
    Load(LoadArgs),
    /// Drop files from the cache (never from the under store)
    Free(PathArgs),
    /// Keep files from eviction
    Pin(PathArgs),
    /// Undo pin
    Unpin(PathArgs),
    /// Compare metadata with the under store now
    Sync(SyncArgs),
    /// Keys that a file system cannot show
    Problems(ProblemsArgs),
}

#[derive(Args)]
pub(crate) struct PathArgs {
    /// Inside a mount, or, with --master, in the cluster's tree
    #[arg(default_value = ".")]
    pub(crate) path: OsString,
}

#[derive(Args)]
pub(crate) struct FsMountArgs {
    /// Where in the cluster's tree
    pub(crate) path: String,
    /// s3://bucket/prefix, gs://…, az://…, file:///dir, or scratch:
    pub(crate) uri: String,
    /// Option of the under store: endpoint, region, path_style, anonymous, sync …
    #[arg(long = "option", short = 'o', value_name = "KEY=VALUE")]
    pub(crate) options: Vec<String>,
}

#[derive(Args)]
pub(crate) struct FsUnmountArgs {
    /// Where in the cluster's tree
    pub(crate) path: String,
}

#[derive(Args)]
pub(crate) struct FindArgs {
    #[arg(default_value = ".")]
    pub(crate) path: OsString,
    /// Glob on the name
    #[arg(long, value_name = "GLOB")]
    pub(crate) name: Option<String>,
    /// f or d
    #[arg(long = "type", value_name = "KIND", value_parser = ["f", "d"])]
    pub(crate) kind: Option<String>,
    /// At least this large
    #[arg(long, value_name = "SIZE")]
    pub(crate) min_size: Option<ByteSize>,
    /// At most this large
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_size: Option<ByteSize>,
    /// Changed within this time: 90s, 15m, 6h, 14d
    #[arg(long, value_name = "AGE")]
    pub(crate) newer_than: Option<String>,
}

#[derive(Args)]
pub(crate) struct LoadArgs {
    #[arg(default_value = ".")]
    pub(crate) path: OsString,
    /// Globs on the path below PATH; repeatable
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// Names and attributes only
    #[arg(long)]
    pub(crate) metadata_only: bool,
}

#[derive(Args)]
pub(crate) struct SyncArgs {
    #[arg(default_value = ".")]
    pub(crate) path: OsString,
    /// Also all directories below
    #[arg(long, short = 'r')]
    pub(crate) recursive: bool,
}

#[derive(Args)]
pub(crate) struct ProblemsArgs {
    #[arg(default_value = ".")]
    pub(crate) path: OsString,
    /// Most to print
    #[arg(long, default_value_t = 1000)]
    pub(crate) limit: u64,
}
