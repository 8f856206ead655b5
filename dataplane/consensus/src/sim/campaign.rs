//! Many seeds on all cores, and what is said of a failing one.

use super::{
    cluster::{self, Figures, Run},
    mutation::Mutation,
    schedule::Schedule,
    shrink::shrink,
    world::Setting,
};
use parking_lot::Mutex;
use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

/// Runs one seed under its own schedule.
pub(crate) fn run(seed: u64, mutation: Option<Mutation>) -> Run {
    let schedule = Schedule::of_seed(seed);
    cluster::run(setting(seed, mutation), &schedule)
}

pub(crate) fn setting(seed: u64, mutation: Option<Mutation>) -> Setting {
    Setting {
        seed,
        mutation,
        verbose: false,
    }
}

/// The report on a failing seed: what went wrong, and how to see it again with as few faults as
/// possible.
pub(crate) fn explain(seed: u64, mutation: Option<Mutation>, run: &Run) -> String {
    let Err(violation) = &run.result else {
        return format!("seed {seed} is clean");
    };
    let setting = setting(seed, mutation);
    let whole = Schedule::of_seed(seed);
    let all = whole.faults.len();
    let small = shrink(whole, |schedule| {
        let result = cluster::run(setting, schedule).result;
        result.is_err_and(|again| again.rule == violation.rule)
    });
    let again = cluster::run(setting, &small).result.err();
    let what = again.map_or_else(String::new, |violation| violation.what);
    format!(
        "seed {seed} breaks a rule: {}: {}\n{} of {all} faults are needed; with them: {what}\n\
         To see it again, step by step:\n  \
         make simulate SEED={seed} SCHEDULE='{small}'",
        violation.rule,
        violation.what,
        small.faults.len(),
    )
}

/// What came of many seeds.
#[derive(Debug, Default)]
pub(crate) struct Campaign {
    pub(crate) figures: Figures,
    pub(crate) clean: u64,
    /// Seeds that failed, with their runs.
    pub(crate) failed: Vec<(u64, Run)>,
}

/// Runs seeds on all cores. `progress` is called after each.
pub(crate) fn campaign(seeds: Range<u64>, progress: impl Fn(&Campaign) + Sync) -> Campaign {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(seeds.start);
    let campaign = Mutex::new(Campaign::default());
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let run = run(seed, None);
                    let mut campaign = campaign.lock();
                    campaign.take(seed, run);
                    progress(&campaign);
                }
            });
        }
    });
    campaign.into_inner()
}

impl Campaign {
    fn take(&mut self, seed: u64, run: Run) {
        match run.result {
            Ok(figures) => {
                self.clean += 1;
                let sum = &mut self.figures;
                sum.answered += figures.answered;
                sum.committed += figures.committed;
                sum.reigns += figures.reigns;
                sum.undecided += figures.undecided;
                sum.snapshots += figures.snapshots;
                sum.installed += figures.installed;
                sum.changes += figures.changes;
            }
            Err(_) => self.failed.push((seed, run)),
        }
    }

    /// Panics if a seed failed, with what is to be known of the first ones.
    pub(crate) fn assert_clean(&self) {
        let reports: Vec<_> = self
            .failed
            .iter()
            .take(3)
            .map(|(seed, run)| explain(*seed, None, run))
            .collect();
        assert!(
            reports.is_empty(),
            "{} seeds failed, among them:\n{}",
            self.failed.len(),
            reports.join("\n")
        );
    }
}
