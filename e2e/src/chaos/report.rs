//! What a run came to, for people and as JSON.

use super::{fault::Fault, ledger::Counts};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;
use std::{fmt, time::Duration};

/// From a fault of the leader to the next acknowledged change, at the 99th percentile.
const TARGET: Duration = Duration::from_secs(1);

/// A round.
#[derive(Clone, Debug)]
pub struct Round {
    /// From 1.
    pub number: u32,
    /// What was done.
    pub fault: Fault,
    /// To which master; of all: the leader.
    pub victim: u64,
    /// Whether that one led.
    pub led: bool,
    /// From the signal to the acknowledgement of the first change that began afterwards.
    pub failover: Duration,
    /// The longest that a client waited for one answer in this round.
    pub longest: Duration,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let led = if self.led { ", which led" } else { "" };
        let fault = self.fault.name();
        let (failover, longest) = (self.failover.as_millis(), self.longest.as_millis());
        write!(
            f,
            "{fault}: master {}{led}; next change after {failover} ms, longest wait {longest} ms",
            self.victim
        )
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// It decides the faults and what clients try.
    pub seed: u64,
    /// Clients at a time.
    pub clients: usize,
    /// All rounds together.
    pub took: Duration,
    /// Those that were held.
    pub rounds: Vec<Round>,
    pub(super) counts: Counts,
    /// What clients gave up, and why.
    pub given_up: Vec<String>,
    /// What is not as it must be; empty: all is well.
    pub complaints: Vec<String>,
}

/// Milliseconds of the rounds of one kind.
struct Figures {
    sorted: Vec<Duration>,
}

impl Figures {
    fn of(figures: impl Iterator<Item = Duration>) -> Figures {
        let mut sorted: Vec<Duration> = figures.collect();
        sorted.sort_unstable();
        Figures { sorted }
    }

    /// The smallest that `percent` of them do not exceed.
    fn at(&self, percent: usize) -> Duration {
        let rank = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or_default()
    }
}

impl Report {
    /// Changes that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.counts.done
    }

    fn figures(&self, fault: Fault) -> (Figures, Figures) {
        let of = || self.rounds.iter().filter(move |round| round.fault == fault);
        (
            Figures::of(of().map(|round| round.failover)),
            Figures::of(of().map(|round| round.longest)),
        )
    }

    /// One JSON object; durations in milliseconds.
    pub fn json(&self) -> serde_json::Value {
        let mut kinds = Vec::new();
        for fault in Fault::ALL {
            let (failover, longest) = self.figures(fault);
            if failover.sorted.is_empty() {
                continue;
            }
            let ms = |duration: Duration| duration.as_millis() as u64;
            kinds.push(json!({
                "fault": fault,
                "rounds": failover.sorted.len(),
                "p50_ms": ms(failover.at(50)),
                "p99_ms": ms(failover.at(99)),
                "max_ms": ms(failover.at(100)),
                "longest_p50_ms": ms(longest.at(50)),
                "longest_max_ms": ms(longest.at(100)),
            }));
        }
        json!({
            "seed": self.seed,
            "rounds": self.rounds.len(),
            "clients": self.clients,
            "seconds": self.took.as_secs_f64(),
            "acknowledged": self.counts.done,
            "refused": self.counts.refused,
            "unknown": self.counts.unknown,
            "looks": self.counts.looks,
            "faults": kinds,
            "given_up": self.given_up,
            "complaints": self.complaints,
        })
    }

    /// Prints all for people.
    pub fn print(&self) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "FAULT",
            "ROUNDS",
            "NEXT CHANGE P50",
            "P99",
            "MAX",
            "TARGET",
            "LONGEST WAIT P50",
            "MAX",
        ]);
        for fault in Fault::ALL {
            let (failover, longest) = self.figures(fault);
            if failover.sorted.is_empty() {
                continue;
            }
            let ms = |duration: Duration| format!("{} ms", duration.as_millis());
            let target = match fault {
                Fault::KillLeader | Fault::StopLeader if failover.at(99) < TARGET => "pass",
                Fault::KillLeader | Fault::StopLeader => "MISS",
                _ => "",
            };
            table.add_row([
                fault.name().to_owned(),
                failover.sorted.len().to_string(),
                ms(failover.at(50)),
                ms(failover.at(99)),
                ms(failover.at(100)),
                target.to_owned(),
                ms(longest.at(50)),
                ms(longest.at(100)),
            ]);
        }
        for column in [1, 2, 3, 4, 6, 7] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.lines() {
            println!("{}", line.trim_end());
        }
        let Counts {
            done,
            refused,
            unknown,
            looks,
        } = self.counts;
        println!(
            "{} clients in {:.0} s: {done} changes acknowledged, {refused} refused, {unknown} unknown; {looks} looks",
            self.clients,
            self.took.as_secs_f64()
        );
        for what in &self.given_up {
            println!("given up: {what}");
        }
        for complaint in &self.complaints {
            println!("WRONG: {complaint}");
        }
        if !self.complaints.is_empty() {
            println!("again: --seed {}", self.seed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_figures_themselves() {
        let ms = Duration::from_millis;
        let figures = Figures::of((1..=200).rev().map(ms));
        assert_eq!(
            [50, 99, 100].map(|p| figures.at(p)),
            [100, 198, 200].map(ms)
        );
        let one = Figures::of([ms(7)].into_iter());
        assert_eq!((one.at(50), one.at(99)), (ms(7), ms(7)));
        assert_eq!(Figures::of([].into_iter()).at(99), Duration::ZERO);
    }
}
