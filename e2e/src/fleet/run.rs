//! The run: all come at once, rest, the leader dies, many workers die.

use super::{
    masters::Masters,
    part::{Order, Share, Standing},
    sample::{Rate, Sample},
};
use crate::{interrupt::Entered, report::Report};
use anyhow::{Context, ensure};
use forebay_client::Master;
use forebay_proto::v1::GetAttrRequest;
use forebay_types::{Addresses, Ino};
use parking_lot::Mutex;
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::JoinHandle, time::sleep};

/// Peers of one process: with two connections each far below the usual limits of open files.
const SHARE: u64 = 2_500;
/// How long each phase may take; what is not reached by then is told as this.
const LIMIT: Duration = Duration::from_secs(90);
/// Between two samples.
const SECOND: Duration = Duration::from_secs(1);
/// Between two timed calls.
const PROBE: Duration = Duration::from_millis(20);

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Masters: 1 or 3.
    pub masters: u16,
    /// Workers.
    pub workers: u64,
    /// Clients.
    pub clients: u64,
    /// Workers that die at once.
    pub dying: u64,
    /// How long rest is measured; the same time passes before, and after a leader was killed.
    pub rest: Duration,
}

/// Runs it in `dir`; `say` hears what is done.
pub fn run(dir: &Path, plan: Plan, say: &dyn Fn(&str)) -> anyhow::Result<Report> {
    let runtime = Runtime::new()?;
    let _entered = runtime.enter();
    let masters = Masters::start(dir, plan.masters)?;
    let addresses = masters.addresses()?;
    let prober = Prober::start(&runtime, Master::new(&addresses));
    let fleet = Fleet::start(&plan, &addresses)?;
    let mut run = Run {
        plan,
        report: Report::default(),
        masters,
        fleet,
        prober,
        say,
    };
    run.alone();
    run.arrive()?;
    run.rest();
    run.lose_leader(&runtime)?;
    run.lose_workers()?;
    Ok(run.report)
}

struct Run<'a> {
    plan: Plan,
    report: Report,
    // Dropped in this order: peers without masters only complain.
    fleet: Fleet,
    prober: Prober,
    masters: Masters,
    say: &'a dyn Fn(&str),
}

/// A phase under way: what it cost, and when what came true.
struct Phase {
    begun: Instant,
    first: Sample,
    last: Sample,
    peak: Rate,
    errors: u64,
}

impl Run<'_> {
    fn sample(&self) -> Sample {
        Sample::take(&self.masters.pids(), &self.masters.counts())
    }

    fn phase(&self) -> Phase {
        let first = self.sample();
        self.prober.take();
        Phase {
            begun: Instant::now(),
            last: first.clone(),
            first,
            peak: Rate::default(),
            errors: self.fleet.standing().errors,
        }
    }

    /// Goes on with a phase until all that is waited for came true, in whatever order; when each did.
    fn until<const N: usize>(
        &self,
        phase: &mut Phase,
        reached: impl Fn(&Sample, &Standing) -> [bool; N],
    ) -> [Duration; N] {
        let mut when = [None; N];
        let mut sampled = Instant::now();
        loop {
            thread::sleep(SECOND / 10);
            let sample = self.sample();
            let now = phase.begun.elapsed();
            let reached = reached(&sample, &self.fleet.standing());
            for (when, reached) in when.iter_mut().zip(reached) {
                if reached || now >= LIMIT {
                    when.get_or_insert(now);
                }
            }
            if sampled.elapsed() >= SECOND {
                phase.peak = phase.peak.or_more(sample.since(&phase.last));
                phase.last = sample;
                sampled = Instant::now();
            }
            if when.iter().all(Option::is_some) {
                return when.map(Option::unwrap_or_default);
            }
        }
    }

    /// Goes on with a phase for so long.
    fn for_long(&self, phase: &mut Phase, time: Duration) {
        let end = phase.begun.elapsed() + time;
        while phase.begun.elapsed() < end {
            thread::sleep(SECOND);
            let sample = self.sample();
            phase.peak = phase.peak.or_more(sample.since(&phase.last));
            phase.last = sample;
        }
    }

    fn latency(&mut self, when: &str) {
        let calls = self.prober.take();
        let at = |percent: usize| {
            let at = (calls.times.len() * percent / 100).min(calls.times.len().saturating_sub(1));
            calls
                .times
                .get(at)
                .copied()
                .unwrap_or_default()
                .as_secs_f64()
                * 1e3
        };
        for (name, percent) in [("p50", 50), ("p99", 99), ("longest", 100)] {
            let what = format!("{when}: getattr of another client, {name}");
            self.report.row(what, at(percent), "ms");
        }
        let what = format!("{when}: getattr of another client, failed");
        self.report.row(what, calls.failed as f64, "");
    }

    fn cost(&mut self, when: &str, phase: &Phase) {
        let Rate {
            cores,
            calls,
            packets,
            bytes,
        } = phase.peak;
        let mut row = |what: &str, figure, unit| {
            self.report.row(format!("{when}: {what}"), figure, unit);
        };
        row("CPU of the masters, peak second", cores, "cores");
        row("calls, peak second", calls, "/s");
        row("packets, peak second", packets, "/s");
        row("bytes, peak second", bytes / 1e6, "MB/s");
        let all = phase.last.bytes_since(&phase.first) as f64;
        row("bytes in all", all / 1e6, "MB");
        let errors = self.fleet.standing().errors - phase.errors;
        row("errors of clients", errors as f64, "");
        self.latency(when);
    }

    fn alone(&mut self) {
        (self.say)("masters alone");
        self.prober.take();
        thread::sleep(self.plan.rest / 4);
        self.latency("alone");
    }

    fn arrive(&mut self) -> anyhow::Result<()> {
        (self.say)("all come at once");
        let Plan {
            workers, clients, ..
        } = self.plan;
        let mut phase = self.phase();
        self.fleet.expect(workers)?;
        self.fleet.begin()?;
        let [registered, informed, connected] = self.until(&mut phase, |sample, standing| {
            [
                sample.live >= workers,
                standing.informed >= workers,
                standing.clients >= clients,
            ]
        });
        let mut row = |what: &str, time: Duration| {
            let what = format!("arrival: {what}");
            self.report.row(what, time.as_secs_f64(), "s");
        };
        row("all workers registered", registered);
        row("every worker knows all", informed);
        row("all clients have session and watch", connected);
        self.cost("arrival", &phase);
        Ok(())
    }

    fn rest(&mut self) {
        (self.say)("rest");
        thread::sleep(self.plan.rest);
        let mut phase = self.phase();
        self.for_long(&mut phase, self.plan.rest);
        let rate = phase.last.since(&phase.first);
        let resident = phase.last.resident as f64 / f64::from(1 << 20);
        let mut row = |what: &str, figure, unit| self.report.row(what, figure, unit);
        row("rest: CPU of the masters", rate.cores, "cores");
        row("rest: resident memory of the masters", resident, "MiB");
        row("rest: calls", rate.calls, "/s");
        row("rest: packets", rate.packets, "/s");
        row("rest: bytes", rate.bytes / 1e6, "MB/s");
        row("rest: live workers", phase.last.live as f64, "");
        self.latency("rest");
    }

    fn lose_leader(&mut self, runtime: &Runtime) -> anyhow::Result<()> {
        let master = Master::new(self.masters.addresses()?);
        let leader = runtime.block_on(self.masters.leader(&master))?;
        (self.say)("the leader is killed");
        let workers = self.plan.workers;
        let mut phase = self.phase();
        let before = self.fleet.standing();
        self.masters.kill(leader)?;
        self.masters.start_again(leader)?;
        let again = phase.begun.elapsed();
        let [known] = self.until(&mut phase, |sample, standing| {
            let come = standing.registrations - before.registrations;
            [come >= workers && sample.live >= workers]
        });
        self.for_long(&mut phase, self.plan.rest);
        let mut row = |what: &str, time: Duration| {
            self.report.row(what, time.as_secs_f64(), "s");
        };
        row("leader killed: its process dead and serving again", again);
        row("leader killed: all workers known again", known);
        let informed = self.fleet.standing().informed as f64;
        let what = "leader killed: workers that know all afterwards";
        self.report.row(what, informed, "");
        self.cost("leader killed", &phase);
        Ok(())
    }

    fn lose_workers(&mut self) -> anyhow::Result<()> {
        let Plan { workers, dying, .. } = self.plan;
        let left = workers.saturating_sub(dying);
        (self.say)("workers die");
        self.fleet.expect(left)?;
        let mut phase = self.phase();
        self.fleet.die(dying)?;
        let [noticed, informed] = self.until(&mut phase, |sample, standing| {
            [sample.live <= left, standing.informed >= left]
        });
        let mut row = |what: &str, time: Duration| {
            let what = format!("{dying} workers die: {what}");
            self.report.row(what, time.as_secs_f64(), "s");
        };
        row("the master has noticed", noticed);
        row("every worker knows", informed);
        self.cost(&format!("{dying} workers die"), &phase);
        Ok(())
    }
}

/// The processes of the peers.
struct Fleet {
    parts: Vec<Part>,
    /// Workers that should be known.
    expected: u64,
}

struct Part {
    workers: u64,
    orders: ChildStdin,
    standing: Arc<Mutex<Standing>>,
    child: Child,
    _entered: Entered,
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Fleet {
    fn start(plan: &Plan, masters: &Addresses) -> anyhow::Result<Fleet> {
        let parts = (plan.workers + plan.clients).div_ceil(SHARE).max(1);
        let share = |of: u64, part: u64| of * part / parts..of * (part + 1) / parts;
        let start = |part: u64| {
            let (workers, clients) = (share(plan.workers, part), share(plan.clients, part));
            Part::start(&Share {
                masters: masters.clone(),
                first: workers.start,
                workers: workers.end - workers.start,
                clients: clients.end - clients.start,
            })
        };
        let parts = (0..parts).map(start).collect::<anyhow::Result<_>>()?;
        Ok(Fleet { parts, expected: 0 })
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        self.tell(&Order::Begin)
    }

    fn expect(&mut self, workers: u64) -> anyhow::Result<()> {
        self.expected = workers;
        self.tell(&Order::Expect(workers))
    }

    fn tell(&mut self, order: &Order) -> anyhow::Result<()> {
        self.parts.iter_mut().try_for_each(|part| part.tell(order))
    }

    /// So many workers die, the same share of each process.
    fn die(&mut self, count: u64) -> anyhow::Result<()> {
        let all: u64 = self.parts.iter().map(|part| part.workers).sum();
        let (mut before, mut dead) = (0, 0);
        for part in &mut self.parts {
            before += part.workers;
            let share = count * before / all.max(1) - dead;
            dead += share;
            part.tell(&Order::Die(share))?;
        }
        Ok(())
    }

    /// Where all of them stand together.
    fn standing(&self) -> Standing {
        let add = |sum: Standing, part: &Part| {
            let one = *part.standing.lock();
            let heard = one.expected == self.expected;
            Standing {
                expected: self.expected,
                registrations: sum.registrations + one.registrations,
                informed: sum.informed + if heard { one.informed } else { 0 },
                clients: sum.clients + one.clients,
                calls: sum.calls + one.calls,
                errors: sum.errors + one.errors,
            }
        };
        self.parts.iter().fold(Standing::default(), add)
    }
}

impl Part {
    fn start(share: &Share) -> anyhow::Result<Part> {
        // Also after the file was replaced by another build.
        let mut child = Command::new("/proc/self/exe")
            .args(["--part", &share.masters.to_string()])
            .args(["--first", &share.first.to_string()])
            .args(["--workers", &share.workers.to_string()])
            .args(["--clients", &share.clients.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a process of peers")?;
        let orders = child.stdin.take().context("no standard input")?;
        let lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let standing = Arc::new(Mutex::new(Standing::default()));
        let latest = standing.clone();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Ok(now) = serde_json::from_str(&line) {
                    *latest.lock() = now;
                }
            }
        });
        Ok(Part {
            workers: share.workers,
            orders,
            standing,
            _entered: Entered::process(child.id()),
            child,
        })
    }

    fn tell(&mut self, order: &Order) -> anyhow::Result<()> {
        let line = serde_json::to_string(order)?;
        let told = writeln!(self.orders, "{line}");
        ensure!(told.is_ok(), "a process of peers has ended");
        Ok(())
    }
}

/// One more client, whose calls are timed.
struct Prober {
    calls: Arc<Mutex<Calls>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Calls {
    /// In ascending order once taken.
    times: Vec<Duration>,
    failed: u64,
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Prober {
    fn start(runtime: &Runtime, master: Master) -> Prober {
        let calls = Arc::new(Mutex::new(Calls::default()));
        let noted = calls.clone();
        let task = runtime.spawn(async move {
            loop {
                let begun = Instant::now();
                let ask = || {
                    let calls = master.calls();
                    async move { calls.get_attr(GetAttrRequest { ino: Ino::ROOT.0 }).await }
                };
                match master.retrying("getattr", ask).await {
                    Ok(_) => noted.lock().times.push(begun.elapsed()),
                    Err(_) => noted.lock().failed += 1,
                }
                sleep(PROBE).await;
            }
        });
        Prober { calls, task }
    }

    /// The calls since this was last asked.
    fn take(&self) -> Calls {
        let mut calls = std::mem::take(&mut *self.calls.lock());
        calls.times.sort_unstable();
        calls
    }
}
