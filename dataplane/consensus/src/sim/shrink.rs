//! Makes a failing schedule small: drops faults, many at first, then one by one, as long as the
//! run still fails.

use super::schedule::{Fault, Schedule};

/// Runs that shrinking may take.
const RUNS: usize = 400;

/// The smallest schedule found that `fails`, beginning with one that does.
pub(crate) fn shrink(schedule: Schedule, mut fails: impl FnMut(&Schedule) -> bool) -> Schedule {
    let mut smallest = schedule;
    let mut portion = smallest.faults.len().div_ceil(2);
    let mut runs = 0;
    while portion > 0 {
        let mut dropped = false;
        let mut from = 0;
        while from < smallest.faults.len() && runs < RUNS {
            let doomed = from..(from + portion).min(smallest.faults.len());
            let faults: Vec<Fault> = smallest
                .faults
                .iter()
                .enumerate()
                .filter(|(index, _)| !doomed.contains(index))
                .map(|(_, fault)| *fault)
                .collect();
            let smaller = Schedule { faults };
            runs += 1;
            if fails(&smaller) {
                smallest = smaller;
                dropped = true;
            } else {
                from += portion;
            }
        }
        // Once more with single ones, until none can go.
        if portion > 1 || !dropped {
            portion /= 2;
        }
    }
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_faults_that_matter_are_left() {
        let schedule = Schedule::of_seed(7);
        let needed = [schedule.faults[1], schedule.faults[3]];
        let small = shrink(schedule, |schedule| {
            needed.iter().all(|fault| schedule.faults.contains(fault))
        });
        assert_eq!(small.faults, needed);
    }
}
