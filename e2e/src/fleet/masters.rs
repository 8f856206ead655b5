//! The masters: a playground without workers, whose leader can be killed and started again.

use crate::process::{Forebay, Member, Playground, Running};
use anyhow::{Context, ensure};
use forebay_client::Master;
use forebay_proto::v1::QuorumRequest;
use forebay_types::{Address, Addresses};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process, thread,
    time::{Duration, Instant},
};

/// Until a master serves again.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks at a process that is dying.
const LOOK: Duration = Duration::from_millis(5);
/// How long a page of metrics may take; a master that is busy is asked again.
const PAGE: Duration = Duration::from_secs(5);
/// Ties a master to the process that started it.
const PARENT: &str = "PLAYGROUND_PID";

/// The masters; all taken down when this is dropped.
pub(super) struct Masters {
    members: Vec<Member>,
    again: Option<Running>,
    _playground: Playground,
}

/// What a master counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) workers_live: u64,
    /// Calls of all methods.
    pub(super) calls: u64,
}

impl Masters {
    /// Starts so many below `dir`.
    pub(super) fn start(dir: &Path, count: u16) -> anyhow::Result<Masters> {
        let command = Forebay::new("playground")?.arg(dir);
        let command = command.args(["--masters", &count.to_string()]);
        let playground = Playground::start(command.args(["--workers", "0", "--mounts", "0"]))?;
        Ok(Masters {
            members: playground.role("master").cloned().collect(),
            again: None,
            _playground: playground,
        })
    }

    /// Where they serve.
    pub(super) fn addresses(&self) -> anyhow::Result<Addresses> {
        let address = |member: &Member| -> anyhow::Result<Address> {
            let address = member.address.as_deref().context("no address")?;
            address.parse().map_err(anyhow::Error::msg)
        };
        let all = self.members.iter().map(address);
        Addresses::new(all.collect::<anyhow::Result<_>>()?).map_err(anyhow::Error::msg)
    }

    /// The member that leads.
    pub(super) async fn leader(&self, master: &Master) -> anyhow::Result<usize> {
        let ask = || {
            let mut admin = master.admin();
            async move { admin.quorum(QuorumRequest { of_leader: true }).await }
        };
        let id = master.retrying("quorum", ask).await?.into_inner().id;
        let found = self.members.iter().position(|m| m.id == Some(id));
        found.context("a stranger leads")
    }

    /// SIGKILL; returns when it is dead.
    pub(super) fn kill(&self, member: usize) -> anyhow::Result<()> {
        let pid = self.members[member].pid;
        let process = Pid::from_raw(pid.cast_signed()).context("no process")?;
        kill_process(process, Signal::KILL)?;
        let end = Instant::now() + PATIENCE;
        while !is_dead(pid) {
            ensure!(Instant::now() < end, "process {pid} does not die");
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Starts a killed one again; returns when it serves.
    pub(super) fn start_again(&mut self, member: usize) -> anyhow::Result<()> {
        let command = Forebay::new("master")?.env(PARENT, &process::id().to_string());
        let command = command.arg("--config").arg(&self.members[member].config);
        let mut running = command.spawn()?;
        let line = running.line(PATIENCE)?;
        ensure!(line.starts_with("ready "), "the master said '{line}'");
        self.members[member].pid = running.pid();
        self.again = Some(running);
        Ok(())
    }

    /// Processes of all.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.pid).collect()
    }

    /// What each counts; nothing of one that does not answer.
    pub(super) fn counts(&self) -> Vec<Counts> {
        let members = self.members.iter();
        members.map(|m| page(&m.http).unwrap_or_default()).collect()
    }
}

/// Whether no thread of a process is left, though its parent may not have looked yet.
fn is_dead(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let dead = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        state.is_none_or(|state| matches!(state, 'Z' | 'X'))
    };
    tasks.map_or(true, |tasks| tasks.filter_map(Result::ok).all(dead))
}

/// Reads the page of metrics at `http`.
fn page(http: &str) -> anyhow::Result<Counts> {
    let mut stream = TcpStream::connect(http)?;
    stream.set_read_timeout(Some(PAGE))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let sum = |metric: &str| {
        let lines = page.lines().filter(|line| line.starts_with(metric));
        let figures = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        figures.sum()
    };
    Ok(Counts {
        workers_live: sum("forebay_master_workers_live "),
        calls: sum("forebay_master_calls_total{"),
    })
}
