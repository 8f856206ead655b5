//! Warm-ups: loads that are remembered, so that they go on under whoever leads; with a look at the end whether
//! everything is still where it should be.

use super::{
    dispatch::Copies,
    fleet::{Client, Fleet},
    free::in_batches,
    load::Load,
    pin,
    progress::Progress,
    walk::{File, Filter},
};
use crate::{
    error::{Error, Result},
    metrics::Metrics,
    namespace::{Namespace, Resolved},
    proposer::{Proposer, now_ns},
};
use bytes::Bytes;
use forebay_meta::{Change, Warmup, WarmupEnd, WarmupSpec};
use forebay_proto::v1::{self, warmups_response};
use forebay_service::Shutdown;
use forebay_types::{Code, FileId, WorkerId};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Semaphore, time::sleep};

/// Runs that go on at the same time; the others wait.
const AT_ONCE: usize = 4;

/// How often a run tries what could not be loaded.
const ATTEMPTS: u32 = 3;

/// Pause before another attempt, and before another look for workers.
const PAUSE: Duration = Duration::from_secs(2);

/// Failures that are told one by one.
const TOLD: usize = 20;

/// What runs work with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Crew {
    pub(crate) namespace: Namespace,
    pub(crate) fleet: Fleet,
    pub(crate) proposer: Arc<Proposer>,
    pub(crate) metrics: Arc<Metrics>,
}

/// The warm-ups of a reign.
pub(crate) struct Warmups {
    crew: Crew,
    shutdown: Shutdown,
    turn: Arc<Semaphore>,
    running: Mutex<BTreeMap<String, Running>>,
    /// Held while what runs is compared with what is to run.
    comparing: tokio::sync::Mutex<()>,
}

/// A run under way, or pins being let go.
struct Running {
    run: String,
    removed: bool,
    told: Arc<Mutex<Told>>,
    task: Shutdown,
}

/// How far a run is.
struct Told {
    progress: v1::JobProgress,
    since: Instant,
    workers: usize,
}

impl Warmups {
    /// Goes on with what was begun under former leaders.
    pub(crate) fn new(crew: Crew, shutdown: &Shutdown) -> Result<Warmups> {
        let warmups = Warmups {
            crew,
            shutdown: shutdown.clone(),
            turn: Arc::new(Semaphore::new(AT_ONCE)),
            running: Mutex::default(),
            comparing: tokio::sync::Mutex::default(),
        };
        warmups.compare()?;
        Ok(warmups)
    }

    /// Begins a run, unless it is the last one of that name already.
    pub(crate) async fn start(&self, name: String, run: String, spec: WarmupSpec) -> Result<()> {
        Filter::new(&spec.include)?;
        let _comparing = self.comparing.lock().await;
        let start = Change::StartWarmup { name, run, spec };
        self.crew.proposer.propose(start).await?;
        self.compare()
    }

    /// Ends a warm-up; its pins are let go afterwards.
    pub(crate) async fn remove(&self, name: String) -> Result<()> {
        let _comparing = self.comparing.lock().await;
        let let_go = false;
        let remove = Change::RemoveWarmup { name, let_go };
        self.crew.proposer.propose(remove).await?;
        self.compare()
    }

    /// All warm-ups that are not removed.
    pub(crate) fn list(&self) -> Result<Vec<warmups_response::Warmup>> {
        let rows = self.crew.namespace.meta().warmups()?;
        let running = self.running.lock();
        let rows = rows.into_iter().filter(|(_, row)| !row.removed);
        let tell = |(name, row): (String, Warmup)| {
            let told = running.get(&name).filter(|task| task.run == row.run);
            let mut answer = warmups_response::Warmup {
                name,
                run: row.run,
                started_ns: row.started_ns,
                ..warmups_response::Warmup::default()
            };
            if let Some(end) = row.end {
                answer.ended_ns = end.at_ns;
                answer.workers = end.workers;
                answer.progress = Some(ended(end));
            } else if let Some(told) = told.map(|task| task.told.lock()) {
                answer.progress = Some(told.progress.clone());
                answer.eta_s = eta(&told.progress, told.since.elapsed()).unwrap_or_default();
                answer.workers = told.workers as u32;
            }
            answer
        };
        Ok(rows.map(tell).collect())
    }

    /// Starts what is to run and does not, and stops what runs and is not to.
    fn compare(&self) -> Result<()> {
        let rows: BTreeMap<_, _> = self.crew.namespace.meta().warmups()?.into_iter().collect();
        let mut running = self.running.lock();
        running.retain(|name, task| {
            let wanted = rows.get(name).is_some_and(|row| {
                row.run == task.run && row.removed == task.removed && is_to_run(row)
            });
            if !wanted {
                task.task.begin();
            }
            wanted
        });
        for (name, row) in rows {
            if !is_to_run(&row) || running.contains_key(&name) {
                continue;
            }
            let task = Running {
                run: row.run.clone(),
                removed: row.removed,
                told: Arc::new(Mutex::new(Told {
                    progress: v1::JobProgress::default(),
                    since: Instant::now(),
                    workers: 0,
                })),
                task: self.shutdown.part(),
            };
            let work = Work {
                crew: self.crew.clone(),
                name: name.clone(),
                row,
                told: task.told.clone(),
            };
            let turn = self.turn.clone();
            task.task.spawn(async move {
                // To let go of pins takes little, and is not to wait for hours of loading. The semaphore is never closed.
                let _turn = if work.row.removed {
                    None
                } else {
                    turn.acquire().await.ok()
                };
                work.carry_out().await;
            });
            running.insert(name, task);
        }
        Ok(())
    }
}

fn is_to_run(row: &Warmup) -> bool {
    row.removed || row.end.is_none()
}

fn ended(end: WarmupEnd) -> v1::JobProgress {
    let failures = end.failures.into_iter();
    v1::JobProgress {
        files_total: end.files_total,
        bytes_total: end.bytes_total,
        listed: true,
        files_done: end.files_done,
        bytes_done: end.bytes_done,
        files_cached_before: 0,
        files_failed: end.files_failed,
        failures: failures
            .map(|(path, reason)| v1::Failure { path, reason })
            .collect(),
        finished: true,
    }
}

/// Seconds that the rest takes at the rate up to now.
fn eta(progress: &v1::JobProgress, passed: Duration) -> Option<u64> {
    let (done, total) = match progress.bytes_total {
        0 => (progress.files_done, progress.files_total),
        bytes => (progress.bytes_done, bytes),
    };
    if !progress.listed || done == 0 {
        return None;
    }
    let rest = total.saturating_sub(done) as f64 / done as f64;
    Some((passed.as_secs_f64() * rest).ceil() as u64)
}

/// One run.
struct Work {
    crew: Crew,
    name: String,
    row: Warmup,
    told: Arc<Mutex<Told>>,
}

impl Work {
    async fn carry_out(self) {
        let Work {
            crew, name, row, ..
        } = &self;
        let workers = crew.fleet.workers();
        workers.settled().await;
        while workers.live(Instant::now()).is_empty() {
            sleep(PAUSE).await;
        }
        let mut former = row.left.clone();
        former.extend((row.removed && row.spec.pin).then(|| row.spec.clone()));
        for spec in &former {
            // It will be tried again by the next leader, or the next run.
            if let Err(error) = self.let_go(spec).await {
                tracing::warn!(warmup = name, %error, "some of its pins are not let go");
            }
        }
        let change = if row.removed {
            Change::RemoveWarmup {
                name: name.clone(),
                let_go: true,
            }
        } else {
            Change::EndWarmup {
                name: name.clone(),
                run: row.run.clone(),
                end: self.run().await,
            }
        };
        while let Err(error) = crew.proposer.propose(change.clone()).await {
            tracing::warn!(warmup = name, %error, "its end is not recorded yet");
            sleep(PAUSE).await;
        }
        tracing::info!(warmup = name, run = row.run, "ended");
    }

    /// Loads until everything is there, or no more can be done.
    async fn run(&self) -> WarmupEnd {
        let mut attempt = 1;
        loop {
            let before = self.workers();
            let (mut end, failed) = match self.attempt().await {
                Ok(end) => end,
                Err(error) => (failed(&self.row.spec.path, &error), true),
            };
            // What was loaded without workers that come late after a change of the leader is not where it is read.
            let moved = self.workers() != before;
            // Much that is gone again after it was loaded would only push out the rest. A little may be new.
            let few = end.files_failed * 10 <= end.files_total;
            let complete = end.files_failed == 0;
            let may_help = moved || (!complete && (failed || few));
            if !may_help || attempt == ATTEMPTS {
                end.at_ns = now_ns();
                return end;
            }
            attempt += 1;
            sleep(PAUSE).await;
        }
    }

    fn workers(&self) -> BTreeSet<WorkerId> {
        let live = self.crew.fleet.workers().live(Instant::now());
        live.iter().map(|worker| worker.id).collect()
    }

    /// Loads what is not there, and looks whether everything is; also tells whether something could not be loaded.
    async fn attempt(&self) -> Result<(WarmupEnd, bool)> {
        let (
            Crew {
                namespace,
                fleet,
                metrics,
                ..
            },
            spec,
        ) = (&self.crew, &self.row.spec);
        let start = namespace.resolve(&spec.path).await?;
        let filter = self.filter()?;
        let copies = match spec.copies {
            0 => Copies::All,
            copies => Copies::Some(copies as usize),
        };
        *self.told.lock() = Told {
            progress: v1::JobProgress::default(),
            since: Instant::now(),
            workers: self.workers().len(),
        };
        let load = Load {
            namespace: namespace.clone(),
            fleet: fleet.clone(),
            metrics: metrics.clone(),
            start: start.clone(),
            filter: filter.clone(),
            metadata_only: false,
            copies,
            pin: spec.pin,
            bandwidth: spec.bandwidth,
        };
        let tell = |progress: &mut Progress| self.tell(progress.take());
        let last = load.work(tell).await?.finish();
        self.tell(last);
        let (progress, workers) = {
            let told = self.told.lock();
            (told.progress.clone(), told.workers as u32)
        };
        let failures = progress.failures.into_iter();
        let mut end = WarmupEnd {
            at_ns: 0,
            files_total: progress.files_total,
            bytes_total: progress.bytes_total,
            files_done: progress.files_done,
            bytes_done: progress.bytes_done,
            files_failed: progress.files_failed,
            workers,
            failures: failures
                .map(|failure| (failure.path, failure.reason))
                .collect(),
        };
        let failed = end.files_failed > 0;
        if !failed {
            self.verify(start, filter, copies, &mut end).await?;
        }
        Ok((end, failed))
    }

    fn filter(&self) -> Result<Filter> {
        let spec = &self.row.spec;
        let age = Duration::from_secs(spec.newer_than_s).as_nanos();
        let since = (age > 0).then(|| self.row.started_ns.saturating_sub(age as i64));
        Ok(Filter::new(&spec.include)?.since(since))
    }

    fn tell(&self, mut news: v1::JobProgress) {
        let mut told = self.told.lock();
        let mut failures = std::mem::take(&mut told.progress.failures);
        failures.append(&mut news.failures);
        failures.truncate(TOLD);
        // It has ended when all is verified.
        let finished = false;
        told.progress = v1::JobProgress {
            failures,
            finished,
            ..news
        };
    }

    /// Takes out of `end` what is no longer where it should be.
    async fn verify(
        &self,
        start: Resolved,
        filter: Filter,
        copies: Copies,
        end: &mut WarmupEnd,
    ) -> Result<()> {
        let Crew {
            namespace, fleet, ..
        } = &self.crew;
        let missing = Mutex::new((0, 0, Vec::new()));
        in_batches(namespace, start, filter, async |files| {
            let files: Vec<File> = files.into_iter().filter(|file| file.size > 0).collect();
            let ids: Vec<FileId> = files.iter().map(|file| file.id).collect();
            let stat = async |mut client: Client, request| client.stat(request).await;
            let answers = fleet.ask_all("stat", &ids, stat).await?;
            let wanted = copies.of(answers.len());
            let mut there = HashMap::<FileId, (u64, usize)>::new();
            there.extend(files.iter().map(|file| (file.id, (file.size, 0))));
            for found in answers.into_iter().flat_map(|(_, answer)| answer.files) {
                if let Some(file) = found.file
                    && let Some((size, copies)) = there.get_mut(&FileId::from(file))
                    && found.cached_bytes >= *size
                {
                    *copies += 1;
                }
            }
            let gone = files.into_iter().filter(|file| there[&file.id].1 < wanted);
            let mut missing = missing.lock();
            for file in gone {
                missing.0 += 1;
                missing.1 += file.size;
                if missing.2.len() < TOLD {
                    missing.2.push(file.id.ino);
                }
            }
            Ok(())
        })
        .await?;
        let (files, bytes, first) = missing.into_inner();
        end.files_done = end.files_done.saturating_sub(files);
        end.bytes_done = end.bytes_done.saturating_sub(bytes);
        end.files_failed += files;
        for ino in first {
            let path = namespace.meta().path(ino)?.unwrap_or_default();
            let reason = "NoSpace: it was loaded and is no longer in the cache: give the workers larger tiers, or choose fewer files";
            end.failures.push((path.into(), reason.to_owned()));
        }
        Ok(())
    }

    /// Unpins what former settings wanted, and pins again what others want of it.
    async fn let_go(&self, spec: &WarmupSpec) -> Result<()> {
        let Crew {
            namespace, fleet, ..
        } = &self.crew;
        self.of(spec, async |files| {
            let files = pin::free_to_go(namespace, ids(&files)).await?;
            let unpin = async |mut client: Client, request| client.unpin(request).await;
            fleet.ask_all("unpin", &files, unpin).await?;
            Ok(())
        })
        .await?;
        let others = namespace.meta().warmups()?.into_iter();
        let others = others.filter(|(name, other)| {
            let overlap =
                spec.path.starts_with(&other.spec.path) || other.spec.path.starts_with(&spec.path);
            *name != self.name && overlap && other.spec.pin && !other.removed
        });
        for (_, other) in others {
            self.of(&other.spec, async |files| {
                let pin = async |mut client: Client, request| client.pin(request).await;
                fleet.ask_all("pin", &ids(&files), pin).await?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Hands the files that a warm-up wants to `each`, whatever their age.
    async fn of<F>(&self, spec: &WarmupSpec, each: impl FnMut(Vec<File>) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let namespace = &self.crew.namespace;
        match namespace.resolve(&spec.path).await {
            Ok(start) => {
                in_batches(namespace, start, Filter::new(&spec.include)?, each).await?;
                Ok(())
            }
            Err(error) if error.code == Code::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn ids(files: &[File]) -> Vec<FileId> {
    files.iter().map(|file| file.id).collect()
}

/// The end of a run that found nothing to load.
fn failed(path: &Bytes, error: &Error) -> WarmupEnd {
    WarmupEnd {
        files_failed: 1,
        failures: vec![(path.clone(), error.to_string())],
        ..WarmupEnd::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_estimated_by_the_bytes() {
        let progress = |listed, done, total| v1::JobProgress {
            listed,
            bytes_done: done,
            bytes_total: total,
            files_done: 1,
            files_total: 2,
            ..v1::JobProgress::default()
        };
        let passed = Duration::from_secs(10);
        assert_eq!(eta(&progress(true, 25, 100), passed), Some(30));
        assert_eq!(eta(&progress(false, 25, 100), passed), None);
        assert_eq!(eta(&progress(true, 0, 100), passed), None);
        assert_eq!(eta(&progress(true, 0, 0), passed), Some(10), "empty files");
    }
}
