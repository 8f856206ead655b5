//! What `cargo test` and `make simulate` run.

use super::{
    campaign::{campaign, explain, run, setting},
    cluster,
    mutation::Mutation,
    schedule::{Schedule, size_of},
    world::Setting,
};
use std::{
    env,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Instant,
};

/// Seeds of every `cargo test`.
const SEEDS: u64 = 600;

/// Seeds within which a mutation must be found out.
const FOUND_WITHIN: u64 = 300;

#[test]
fn a_seed_decides_everything() {
    for seed in 0..10 {
        let (first, second) = (run(seed, None), run(seed, None));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_ne!(first.trace, run(seed + 1, None).trace);
    }
}

#[test]
fn all_is_well_under_faults() {
    let campaign = campaign(0..SEEDS, |_| {});
    campaign.assert_clean();
    let figures = campaign.figures;
    println!("{figures:?}");
    // It would be easy to be correct and do nothing.
    assert!(figures.answered > 50 * SEEDS, "{figures:?}");
    assert!(figures.reigns > 2 * SEEDS, "{figures:?}");
    assert!(figures.installed > SEEDS / 10, "{figures:?}");
    assert!(figures.changes > SEEDS / 2, "{figures:?}");
    assert_eq!(figures.undecided, 0, "{figures:?}");
}

/// The first seed that finds out a mutation, and the rule that it breaks.
fn found_out(mutation: Mutation) -> (u64, &'static str) {
    (0..FOUND_WITHIN)
        .find_map(|seed| {
            let violation = run(seed, Some(mutation)).result.err()?;
            Some((seed, violation.rule))
        })
        .unwrap_or_else(|| panic!("{mutation:?} is not found out by {FOUND_WITHIN} seeds"))
}

#[test]
fn every_mutation_is_found_out() {
    for mutation in Mutation::ALL {
        let (seed, rule) = found_out(mutation);
        println!("{mutation:?} is found out by seed {seed}: {rule}");
    }
}

#[test]
fn a_failing_seed_is_explained_by_a_schedule_that_fails_again() {
    let mutation = Some(Mutation::ReadWithoutRound);
    let (seed, rule) = found_out(Mutation::ReadWithoutRound);
    let report = explain(seed, mutation, &run(seed, mutation));
    let (_, schedule) = report.split_once("SCHEDULE='").unwrap();
    let schedule: Schedule = schedule.trim_end_matches('\'').parse().unwrap();
    assert!(schedule.faults.len() < Schedule::of_seed(seed).faults.len());
    let again = cluster::run(setting(seed, mutation), &schedule);
    assert_eq!(again.result.unwrap_err().rule, rule);
}

/// `make simulate`: `SEEDS` seeds from `FROM` on; or one `SEED`, told step by step, perhaps under
/// another `SCHEDULE` than its own.
#[test]
#[ignore = "takes as long as you like; run by make simulate"]
#[expect(
    clippy::disallowed_methods,
    reason = "how long it takes and what is asked for come from outside"
)]
fn simulate() {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("SEED") {
        let schedule = match env::var("SCHEDULE") {
            Ok(text) => text.parse().unwrap(),
            Err(_) => Schedule::of_seed(seed),
        };
        println!(
            "seed {seed}, founders and spares {:?}, schedule: {schedule}",
            size_of(seed)
        );
        let setting = Setting {
            verbose: true,
            ..setting(seed, None)
        };
        let run = cluster::run(setting, &schedule);
        println!("trace {:x}", run.trace);
        let figures = run
            .result
            .unwrap_or_else(|v| panic!("{}: {}", v.rule, v.what));
        println!("{figures:?}");
        return;
    }
    let seeds = number("SEEDS").unwrap_or(1000);
    let from = number("FROM").unwrap_or(0);
    let begun = Instant::now();
    let told = AtomicU64::new(0);
    let failures = AtomicUsize::new(0);
    let campaign = campaign(from..from + seeds, |campaign| {
        let failed = campaign.failed.len();
        if failures.swap(failed, Ordering::Relaxed) < failed
            && let Some((seed, run)) = campaign.failed.last()
            && let Err(violation) = &run.result
        {
            println!("seed {seed} fails: {}", violation.rule);
        }
        let done = campaign.clean + failed as u64;
        let seconds = begun.elapsed().as_secs_f64();
        let last = told.load(Ordering::Relaxed);
        if seconds as u64 >= last + 5 || done == seeds {
            told.store(seconds as u64, Ordering::Relaxed);
            let rate = done as f64 / seconds;
            println!("{done} of {seeds} seeds, {rate:.1}/s, {failed} failed");
        }
    });
    println!("{:?}", campaign.figures);
    campaign.assert_clean();
}
