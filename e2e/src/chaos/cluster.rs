//! Three masters as processes: killed, stopped, started again.

use crate::process::{Forebay, Member, Playground, Running};
use anyhow::{Context, bail, ensure};
use forebay_client::Master;
use forebay_proto::v1::{QuorumRequest, QuorumResponse, TransferRequest};
use forebay_types::{Address, Addresses};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::Write,
    path::Path,
    process, thread,
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, time::timeout};

/// Until all are together again, on a machine that runs everything else, too.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long one master may take to say where it stands.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two looks at something that will be so in a moment.
const LOOK: Duration = Duration::from_millis(5);
/// Ties a master to the process that started it: it ends when that one dies, however it dies.
const PARENT: &str = "PLAYGROUND_PID";

/// The masters; all taken down when this is dropped.
pub(super) struct Cluster {
    masters: Vec<Process>,
    // Dropped last: it waits for its children, of which the others are none.
    _playground: Playground,
    runtime: Handle,
}

struct Process {
    id: u64,
    member: Member,
    address: Address,
    /// Asks this one, whoever leads.
    direct: Master,
    /// Started again by hand.
    again: Option<Running>,
}

impl Process {
    fn pid(&self) -> u32 {
        self.again.as_ref().map_or(self.member.pid, Running::pid)
    }

    /// Ends what was started again; its log goes where the playground put that of the first.
    fn end(&mut self) {
        if let Some(mut running) = self.again.take() {
            running.kill();
            let log = fs::File::options().append(true).open(&self.member.log);
            // The log is for people who look for a cause; without it there is still the report.
            let _ = log.and_then(|mut log| log.write_all(running.stderr().as_bytes()));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl Cluster {
    /// Starts three masters below `dir`. Call it on the thread that will start them again: masters
    /// end with the thread that started them.
    pub(super) fn start(dir: &Path, runtime: Handle) -> anyhow::Result<Cluster> {
        let command = Forebay::new("playground")?.arg(dir);
        let command = command.args(["--masters", "3", "--workers", "0", "--mounts", "0"]);
        let playground = Playground::start(command)?;
        let _entered = runtime.enter();
        let process = |member: &Member| {
            let address = member
                .address
                .as_deref()
                .context("a master without address")?;
            let address: Address = address.parse().map_err(anyhow::Error::msg)?;
            Ok(Process {
                id: member.id.context("a master without number")?,
                member: member.clone(),
                direct: Master::new(&address),
                address,
                again: None,
            })
        };
        let masters = playground.role("master").map(process);
        Ok(Cluster {
            masters: masters.collect::<anyhow::Result<_>>()?,
            _playground: playground,
            runtime,
        })
    }

    /// The numbers of the masters.
    pub(super) fn ids(&self) -> Vec<u64> {
        self.masters.iter().map(|master| master.id).collect()
    }

    /// Where they serve.
    pub(super) fn addresses(&self) -> anyhow::Result<Addresses> {
        let all = self.masters.iter().map(|master| master.address.clone());
        Addresses::new(all.collect()).map_err(anyhow::Error::msg)
    }

    /// Where one serves.
    pub(super) fn address(&self, id: u64) -> &Address {
        &self.process(id).address
    }

    fn process(&self, id: u64) -> &Process {
        let found = self.masters.iter().find(|master| master.id == id);
        found.expect("numbers come from this cluster")
    }

    /// SIGKILL; returns when they are dead.
    pub(super) fn kill(&self, ids: &[u64]) -> anyhow::Result<()> {
        for id in ids {
            signal(self.process(*id).pid(), Signal::KILL)?;
        }
        let dead = |pid| states(pid).iter().all(|state| matches!(state, 'Z' | 'X'));
        ids.iter()
            .try_for_each(|id| until(self.process(*id).pid(), dead))
    }

    /// SIGSTOP; returns when no thread of it runs.
    pub(super) fn stop(&self, id: u64) -> anyhow::Result<()> {
        let pid = self.process(id).pid();
        signal(pid, Signal::STOP)?;
        until(pid, |pid| states(pid).iter().all(|state| *state == 'T'))
    }

    /// SIGCONT.
    pub(super) fn go_on(&self, id: u64) -> anyhow::Result<()> {
        signal(self.process(id).pid(), Signal::CONT)
    }

    /// Takes the directory of a killed master away.
    pub(super) fn lose_disk(&self, id: u64) -> anyhow::Result<()> {
        // The playground names the configuration after the directory.
        let dir = self.process(id).member.config.with_extension("");
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
    }

    /// Starts killed masters again; returns when they serve.
    pub(super) fn start_again(&mut self, ids: &[u64]) -> anyhow::Result<()> {
        let killed = || {
            self.masters
                .iter()
                .filter(|master| ids.contains(&master.id))
        };
        let mut started = Vec::new();
        for master in killed() {
            let command = Forebay::new("master")?.env(PARENT, &process::id().to_string());
            let command = command.arg("--config").arg(&master.member.config);
            started.push((master.id, command.spawn()?));
        }
        for (id, mut running) in started {
            let line = running.line(PATIENCE)?;
            ensure!(line.starts_with("ready "), "master {id} said '{line}'");
            let master = self.masters.iter_mut().find(|master| master.id == id);
            if let Some(master) = master {
                master.end();
                master.again = Some(running);
            }
        }
        Ok(())
    }

    /// Waits until all masters count, agree who leads, and have applied what was committed when they
    /// were asked; the number of the one that leads.
    pub(super) fn settled(&self) -> anyhow::Result<u64> {
        let end = Instant::now() + PATIENCE;
        let mut wanted = None;
        loop {
            let views = self.runtime.block_on(self.views(None));
            if let Some(leader) = agreed(&views, 3) {
                let committed = views.iter().map(|view| view.committed).max();
                let wanted = *wanted.get_or_insert(committed.unwrap_or_default());
                if views.iter().all(|view| view.applied >= wanted) {
                    return Ok(leader);
                }
            }
            if Instant::now() >= end {
                bail!("the masters are not together after {PATIENCE:?}: {views:?}");
            }
            thread::park_timeout(LOOK);
        }
    }

    /// Waits until the others have one of them lead; its number.
    pub(super) fn leader_without(&self, gone: u64) -> anyhow::Result<u64> {
        let end = Instant::now() + PATIENCE;
        loop {
            let views = self.runtime.block_on(self.views(Some(gone)));
            if let Some(leader) = agreed(&views, 2).filter(|leader| *leader != gone) {
                return Ok(leader);
            }
            if Instant::now() >= end {
                bail!("nobody leads after {PATIENCE:?} without master {gone}: {views:?}");
            }
            thread::park_timeout(LOOK);
        }
    }

    /// Where the masters stand that answer; one that is `gone` is not asked.
    async fn views(&self, gone: Option<u64>) -> Vec<QuorumResponse> {
        let left = self.masters.iter().filter(|m| Some(m.id) != gone);
        let asked = left.map(async |master| {
            let mut admin = master.direct.admin();
            let answer = admin.quorum(QuorumRequest { of_leader: false });
            Some(timeout(ANSWER, answer).await.ok()?.ok()?.into_inner())
        });
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().flatten().collect()
    }

    /// Makes a master lead; what calls go to is this one and no other.
    pub(super) async fn lead(&self, id: u64, all: &Master) -> anyhow::Result<&Master> {
        let ask = || {
            let mut admin = all.admin();
            async move { admin.transfer(TransferRequest { id }).await }
        };
        all.retrying("transfer", ask).await?;
        Ok(&self.process(id).direct)
    }
}

/// Who leads, if so many masters answer and say the same.
fn agreed(views: &[QuorumResponse], masters: usize) -> Option<u64> {
    let first = views.first()?;
    let leader = first
        .members
        .iter()
        .find(|member| member.node == first.leader)?;
    let same = |view: &QuorumResponse| {
        let voters = view.members.iter().filter(|member| member.voter).count();
        (view.leader, view.term) == (first.leader, first.term)
            && (voters, view.members.len()) == (3, 3)
    };
    (views.len() == masters && views.iter().all(same)).then_some(leader.id)
}

fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let process = Pid::from_raw(pid.cast_signed()).context("no process")?;
    kill_process(process, signal).with_context(|| format!("cannot signal process {pid}"))
}

/// Waits until this holds of a process.
fn until(pid: u32, holds: impl Fn(u32) -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds(pid) {
        ensure!(
            Instant::now() < end,
            "process {pid} does not react to signals"
        );
        thread::yield_now();
    }
    Ok(())
}

/// The states of the threads of a process, as the kernel abbreviates them; none if it is gone.
fn states(pid: u32) -> Vec<char> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let state = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        // After the name in brackets, which may hold anything.
        stat.rsplit_once(") ")?.1.chars().next()
    };
    tasks.filter_map(Result::ok).filter_map(state).collect()
}
