//! The `forebay` command, started by tests, demonstration and benchmark, and ended with them.

use crate::interrupt::Entered;
use anyhow::{Context, bail};
use parking_lot::Mutex;
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use serde::Deserialize;
use std::{
    env,
    ffi::{OsStr, OsString},
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

/// How long a process may take until it is ready.
const READY: Duration = Duration::from_mins(1);
/// How long a process may take to end after SIGTERM.
const END: Duration = Duration::from_secs(30);

/// The built `forebay`: `$FOREBAY_BIN`, else beside this executable in the target directory.
pub fn forebay() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("FOREBAY_BIN") {
        return Ok(path.into());
    }
    let executable = env::current_exe().context("cannot find this executable")?;
    // Binaries lie in the profile's directory itself, tests in `deps` below it.
    executable
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("forebay"))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no forebay beside {}: build it (cargo build --release -p forebay-cli) or set FOREBAY_BIN",
                executable.display()
            )
        })
}

/// A `forebay` command about to be started.
#[derive(Debug)]
pub struct Forebay {
    command: Command,
}

impl Forebay {
    /// `forebay SUBCOMMAND`, without any credentials of the caller's environment.
    pub fn new(subcommand: &str) -> anyhow::Result<Forebay> {
        let mut command = Command::new(forebay()?);
        command.arg(subcommand);
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("AWS_")) {
                command.env_remove(name);
            }
        }
        // Nothing outside this machine is asked for credentials, and Ctrl-C is for the parent.
        command
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .process_group(0);
        Ok(Forebay { command })
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Forebay {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Forebay {
        self.command.args(args);
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Forebay {
        self.command.env(name, value);
        self
    }

    /// `--option KEY=VALUE` and the environment for the S3 server at `endpoint`.
    #[must_use]
    pub fn s3(self, endpoint: &str, credentials: Option<&crate::s3::Credentials>) -> Forebay {
        let this = self.args([
            "--option",
            &format!("endpoint={endpoint}"),
            "--option",
            "region=us-east-1",
            "--option",
            "path_style=true",
        ]);
        match credentials {
            Some(credentials) => this
                .env("AWS_ACCESS_KEY_ID", &credentials.access_key)
                .env("AWS_SECRET_ACCESS_KEY", &credentials.secret_key),
            None => this.args(["--option", "anonymous=true"]),
        }
    }

    /// Runs it where `dir` is a disk in memory of `mib` MiB that holds what `dir` does: in name spaces
    /// of its own, so that no privilege is needed. Others see it below `/proc/PID/root`.
    #[must_use]
    pub fn with_disk(self, dir: &Path, mib: u64) -> Forebay {
        let script =
            "set -e; cp -a \"$2\" \"$2.copy\"; mount -t tmpfs -o \"size=$1\" forebay \"$2\"
                      cp -a \"$2.copy/.\" \"$2\"; rm -r \"$2.copy\"; shift 2; exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .arg(format!("{mib}m"))
            .arg(dir)
            .arg(self.command.get_program())
            .args(self.command.get_args())
            .process_group(0);
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Forebay { command }
    }

    /// Runs it to its end and returns what it wrote to standard output; an error if it fails.
    pub fn output(mut self) -> anyhow::Result<String> {
        let output = self.command.output().context("cannot start forebay")?;
        if !output.status.success() {
            bail!(
                "{:?} ended with {}: {}",
                self.command,
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs it to its end, whatever that is.
    pub fn run(mut self) -> anyhow::Result<std::process::Output> {
        self.command.output().context("cannot start forebay")
    }

    /// Starts it in the background.
    pub fn spawn(mut self) -> anyhow::Result<Running> {
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start forebay")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let stderr = child.stderr.take().context("no standard error")?;
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Read on when nobody listens: a full pipe would stop the process.
                let _ = send.send(line);
            }
        });
        let errors = Arc::new(Mutex::new(Vec::new()));
        let gather = Arc::clone(&errors);
        thread::spawn(move || {
            let mut stderr = stderr;
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut buffer) {
                gather.lock().extend_from_slice(&buffer[..read]);
            }
        });
        Ok(Running {
            _entered: Entered::process(child.id()),
            child,
            lines,
            errors,
        })
    }
}

/// A process in the background; killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    _entered: Entered,
    child: Child,
    lines: Receiver<String>,
    errors: Arc<Mutex<Vec<u8>>>,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.errors.lock()).into_owned()
    }

    /// The next line of its standard output.
    pub fn line(&mut self, limit: Duration) -> anyhow::Result<String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!(
                    "forebay said nothing in {limit:?}; it complained: {}",
                    self.stderr()
                )
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait()?;
                bail!("forebay ended with {status}: {}", self.stderr())
            }
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            // Gone already is as good.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!("forebay did not end in {limit:?}: {}", self.stderr());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM, and its exit status.
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(END)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Resident memory now and at its highest, in bytes, as the kernel counts it.
    pub fn memory(&self) -> anyhow::Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(kib << 10)
        };
        let (now, high) = (field("VmRSS:"), field("VmHWM:"));
        now.zip(high).context("no memory figures for the process")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `forebay local`, serving; killed and unmounted when this is dropped.
#[derive(Debug)]
pub struct Local {
    /// The process.
    pub process: Running,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    _entered: Entered,
}

impl Local {
    /// Starts `forebay local MOUNTPOINT URI... MORE...` as `command` (made by
    /// [`Forebay::new`]`("local")`) and waits until the mount serves.
    pub fn start<A: AsRef<OsStr>>(
        command: Forebay,
        mount_point: &Path,
        uris: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<Local> {
        let process = command.arg(mount_point).args(uris).spawn()?;
        let mut local = Local {
            process,
            mount_point: mount_point.to_owned(),
            _entered: Entered::mount(mount_point),
        };
        let line = local.process.line(READY)?;
        let mut expected = OsString::from("ready ");
        expected.push(mount_point);
        if OsStr::new(&line) != expected {
            bail!(
                "forebay local said '{line}' and not '{}'",
                expected.display()
            );
        }
        Ok(local)
    }

    /// SIGTERM; waits until the process has ended and the mount is gone.
    pub fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.process.terminate()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.process.kill();
        detach(&self.mount_point);
    }
}

/// One process of a playground.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    /// `master`, `worker` or `fuse`.
    pub role: String,
    /// Its process id.
    pub pid: u32,
    /// A master's number.
    #[serde(default)]
    pub id: Option<u64>,
    /// Whether a master led when the playground was ready.
    #[serde(default)]
    pub leads: Option<bool>,
    /// Where it listens, if it does.
    #[serde(default)]
    pub address: Option<String>,
    /// Where it serves `/metrics`, `/healthz` and `/readyz`: host:port.
    pub http: String,
    /// Where it is mounted, if it is a FUSE host.
    #[serde(default)]
    pub mount_point: Option<PathBuf>,
    /// Its configuration: `forebay ROLE --config CONFIG` starts it again.
    pub config: PathBuf,
    /// What it wrote to standard error.
    pub log: PathBuf,
}

#[derive(Deserialize)]
struct Members {
    processes: Vec<Member>,
}

/// `forebay playground`, all of it ready; taken down when this is dropped.
#[derive(Debug)]
pub struct Playground {
    /// The process that watches over the others.
    pub process: Running,
    /// The others.
    pub members: Vec<Member>,
}

impl Playground {
    /// Starts `command` (made by [`Forebay::new`]`("playground")` with all its arguments) and
    /// waits until every process of it is ready.
    pub fn start(command: Forebay) -> anyhow::Result<Playground> {
        let mut process = command.spawn()?;
        let line = process.line(2 * READY)?;
        let members: Members = serde_json::from_str(&line)
            .with_context(|| format!("forebay playground said '{line}'"))?;
        Ok(Playground {
            process,
            members: members.processes,
        })
    }

    /// The members of one role.
    pub fn role(&self, role: &str) -> impl Iterator<Item = &Member> {
        self.members
            .iter()
            .filter(move |member| member.role == role)
    }

    /// The mount points.
    pub fn mount_points(&self) -> Vec<&Path> {
        self.members
            .iter()
            .filter_map(|member| member.mount_point.as_deref())
            .collect()
    }

    /// SIGTERM to the watcher, and its exit status.
    pub fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.process.terminate()
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        // The watcher takes the others down; killed outright it could not.
        let ended = self.process.terminate().is_ok();
        for member in &self.members {
            if !ended && let Some(pid) = Pid::from_raw(member.pid as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
            if let Some(mount_point) = &member.mount_point {
                detach(mount_point);
            }
        }
    }
}

/// Unmounts what is mounted at `mount_point`, used or not; nothing happens if nothing is.
pub fn detach(mount_point: &Path) {
    let mounted = || {
        std::fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| {
            mounts
                .lines()
                .filter_map(|line| line.split(' ').nth(1))
                .any(|at| Path::new(&at.replace("\\040", " ")) == mount_point)
        })
    };
    while mounted() {
        if unmount(mount_point, UnmountFlags::DETACH).is_err() {
            // Not root: the helper that mounted it may also unmount it.
            let helped = Command::new("fusermount3")
                .arg("-uz")
                .arg(mount_point)
                .stderr(Stdio::null())
                .status();
            if !helped.is_ok_and(|status| status.success()) {
                return;
            }
        }
    }
}
