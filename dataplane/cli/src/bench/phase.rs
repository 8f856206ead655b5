//! One operation measured: when it ends, and what came of it.

use crate::{args::Operation, output};
use clap::ValueEnum;
use forebay_types::Code;
use hdrhistogram::Histogram;
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Significant figures of a latency.
const FIGURES: u8 = 3;

/// How long a phase goes on.
pub(crate) struct Budget {
    left: AtomicU64,
    until: Option<Instant>,
    stopped: AtomicBool,
}

impl Budget {
    pub(crate) fn new(count: u64, duration: Option<Duration>) -> Budget {
        Budget {
            left: AtomicU64::new(count),
            until: duration.map(|duration| Instant::now() + duration),
            stopped: AtomicBool::new(false),
        }
    }

    /// Takes one operation out, if there is one left and time for it.
    pub(crate) fn take(&self, now: Instant) -> bool {
        if self.stopped.load(Ordering::Relaxed) || self.until.is_some_and(|until| now >= until) {
            return false;
        }
        let one = |left: u64| left.checked_sub(1);
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one);
        taken.is_ok()
    }

    /// Somebody wants it to end.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// Adds a latency.
pub(crate) fn record(latency: &mut Histogram<u64>, ns: u64) {
    latency
        .record(ns)
        .expect("a histogram that grows takes all");
}

/// What one caller, or all together, found.
pub(crate) struct Tally {
    /// Nanoseconds of each operation that succeeded.
    pub(crate) latency: Histogram<u64>,
    /// Nanoseconds to the first entries of each listing.
    pub(crate) first: Histogram<u64>,
    /// Entries listed.
    pub(crate) entries: u64,
    errors: BTreeMap<&'static str, u64>,
    last_error: Option<String>,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        let histogram = || Histogram::new(FIGURES).expect("so many figures can be had");
        Tally {
            latency: histogram(),
            first: histogram(),
            entries: 0,
            errors: BTreeMap::new(),
            last_error: None,
        }
    }

    /// Counts a failed operation.
    pub(crate) fn failed(&mut self, error: &forebay_client::Error) {
        *self.errors.entry(error.code.as_str()).or_default() += 1;
        self.last_error = Some(error.to_string());
    }

    /// Takes in another one's findings.
    pub(crate) fn add(&mut self, other: &Tally) {
        for (own, others) in [
            (&mut self.latency, &other.latency),
            (&mut self.first, &other.first),
        ] {
            own.add(others).expect("a histogram that grows takes all");
        }
        self.entries += other.entries;
        for (code, count) in &other.errors {
            *self.errors.entry(code).or_default() += count;
        }
        self.last_error = other.last_error.clone().or(self.last_error.take());
    }

    /// One line about a failed operation, if any has.
    pub(crate) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    pub(crate) fn has_code(&self, code: Code) -> bool {
        self.errors.contains_key(code.as_str())
    }
}

/// A measured operation.
pub(crate) struct Phase {
    pub(crate) operation: Operation,
    pub(crate) in_flight: u16,
    pub(crate) took: Duration,
    pub(crate) tally: Tally,
}

impl Phase {
    fn per_second(&self) -> f64 {
        self.tally.latency.len() as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn name(&self) -> String {
        let value = self.operation.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// One JSON object.
    pub(crate) fn json(&self) -> serde_json::Value {
        let Tally {
            latency,
            first,
            entries,
            errors,
            ..
        } = &self.tally;
        let at = |quantile| latency.value_at_quantile(quantile) / 1_000;
        let mut object = json!({
            "operation": self.name(),
            "in_flight": self.in_flight,
            "count": latency.len(),
            "seconds": self.took.as_secs_f64(),
            "per_second": self.per_second(),
            "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": at(1.0),
            "errors": errors,
        });
        if !first.is_empty() {
            object["entries"] = (*entries).into();
            object["first_p50_us"] = (first.value_at_quantile(0.5) / 1_000).into();
            object["first_max_us"] = (first.max() / 1_000).into();
        }
        object
    }
}

/// Prints all for people; a line for what listings found beside.
pub(crate) fn print(phases: &[Phase]) {
    let header = [
        "OPERATION",
        "IN FLIGHT",
        "COUNT",
        "PER SECOND",
        "P50",
        "P99",
        "P99.9",
        "MAX",
        "ERRORS",
    ];
    let mut table = output::table(&header, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for phase in phases {
        let latency = &phase.tally.latency;
        let at = |quantile| shown(latency.value_at_quantile(quantile));
        table.add_row([
            phase.name(),
            phase.in_flight.to_string(),
            latency.len().to_string(),
            format!("{:.0}", phase.per_second()),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            phase.tally.errors.values().sum::<u64>().to_string(),
        ]);
    }
    output::print(&table);
    for phase in phases {
        let Tally { first, entries, .. } = &phase.tally;
        if !first.is_empty() {
            let (middle, most) = (first.value_at_quantile(0.5), first.max());
            let (middle, most) = (shown(middle), shown(most));
            println!("list: {entries} entries; the first after {middle} (p50), {most} (max)");
        }
        for (code, count) in &phase.tally.errors {
            let last = phase.tally.last_error.as_deref().unwrap_or_default();
            println!("{}: {count} x {code}; the last: {last}", phase.name());
        }
    }
}

/// Nanoseconds for people.
fn shown(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{:.0} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_ends_with_its_count_its_time_or_a_stop() {
        let now = Instant::now();
        let counted = Budget::new(2, None);
        assert_eq!([(); 3].map(|()| counted.take(now)), [true, true, false]);
        let timed = Budget::new(u64::MAX, Some(Duration::from_secs(9)));
        assert!(timed.take(now) && !timed.take(now + Duration::from_mins(1)));
        timed.stop();
        assert!(!timed.take(now));
    }

    #[test]
    fn latencies_of_callers_add_up() {
        let mut total = Tally::new();
        for ns in [5, 1_000_000_000] {
            let mut one = Tally::new();
            record(&mut one.latency, ns);
            total.add(&one);
        }
        assert_eq!(total.latency.len(), 2);
        assert!(total.latency.max() >= 1_000_000_000);
    }
}
