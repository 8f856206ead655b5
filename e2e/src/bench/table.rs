//! Rows of the benchmark, as a table and as JSON.

use super::Scale;
use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::{fs, path::Path};

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Unit {
    #[serde(rename = "MiB/s")]
    MibPerS,
    #[serde(rename = "1/s")]
    PerS,
    #[serde(rename = "files/s")]
    FilesPerS,
    #[serde(rename = "names/s")]
    NamesPerS,
    #[serde(rename = "objects/s")]
    ObjectsPerS,
    #[serde(rename = "MiB")]
    Mib,
    #[serde(rename = "times")]
    Times,
    #[serde(rename = "requests")]
    Count,
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "ms")]
    Milliseconds,
}

impl Unit {
    fn show(self, figure: f64) -> String {
        let unit = match self {
            Unit::MibPerS => "MiB/s",
            Unit::PerS => "/s",
            Unit::FilesPerS => "files/s",
            Unit::NamesPerS => "names/s",
            Unit::ObjectsPerS => "objects/s",
            Unit::Mib => "MiB",
            Unit::Times => "x",
            Unit::Count => "",
            Unit::Seconds => "s",
            Unit::Milliseconds => "ms",
        };
        format!("{} {unit}", thousands(figure))
            .trim_end()
            .to_owned()
    }
}

/// A rounded figure with commas between thousands; small ones keep a decimal.
fn thousands(figure: f64) -> String {
    if figure < 100.0 && figure.fract() != 0.0 {
        return format!("{figure:.1}");
    }
    let digits = format!("{figure:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// How a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The target is met.
    Pass,
    /// It is not.
    Miss,
    /// Not measured: not root.
    Skipped,
    /// Nothing was promised.
    Info,
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    name: &'static str,
    what: String,
    unit: Unit,
    target: Target,
    peers: &'static str,
    rounds: Vec<Round>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Target {
    /// Ours over native, at least.
    Ratio(f64),
    /// Our figure, at most.
    AtMost(f64),
    /// Our figure, at least.
    AtLeast(f64),
    /// Nothing promised.
    None,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    /// Absent where there is nothing to compare with.
    native: Option<f64>,
    ours: f64,
}

impl Row {
    /// A row that compares rates.
    pub(super) fn ratio(name: &'static str, what: &str, unit: Unit, target: f64) -> Row {
        Row {
            name,
            what: what.to_owned(),
            unit,
            target: Target::Ratio(target),
            peers: "",
            rounds: Vec::new(),
        }
    }

    /// A figure that must not exceed a limit.
    pub(super) fn bound(
        name: &'static str,
        what: &str,
        unit: Unit,
        figure: f64,
        limit: f64,
    ) -> Row {
        Row {
            target: Target::AtMost(limit),
            ..Row::figure(name, what, unit, figure)
        }
    }

    /// A figure that must reach a limit.
    pub(super) fn least(
        name: &'static str,
        what: &str,
        unit: Unit,
        figure: f64,
        limit: f64,
    ) -> Row {
        Row {
            target: Target::AtLeast(limit),
            ..Row::figure(name, what, unit, figure)
        }
    }

    /// A figure for information.
    pub(super) fn figure(name: &'static str, what: &str, unit: Unit, figure: f64) -> Row {
        Row {
            name,
            what: what.to_owned(),
            unit,
            target: Target::None,
            peers: "",
            rounds: vec![Round {
                native: None,
                ours: figure,
            }],
        }
    }

    /// What others reach.
    pub(super) fn peers(mut self, peers: &'static str) -> Row {
        self.peers = peers;
        self
    }

    /// Adds one round of both sides.
    pub(super) fn round(&mut self, native: f64, ours: f64) {
        self.rounds.push(Round {
            native: Some(native),
            ours,
        });
    }

    fn native(&self) -> Option<f64> {
        median(self.rounds.iter().filter_map(|round| round.native))
    }

    fn ours(&self) -> Option<f64> {
        median(self.rounds.iter().map(|round| round.ours))
    }

    /// The median of the rounds' ratios, ours over native.
    fn measured(&self) -> Option<f64> {
        median(
            self.rounds
                .iter()
                .filter_map(|round| Some(round.ours / round.native?)),
        )
    }

    /// How it ended.
    pub fn outcome(&self) -> Outcome {
        let met = match self.target {
            Target::None => return Outcome::Info,
            Target::Ratio(least) => self.measured().map(|ratio| ratio >= least),
            Target::AtMost(most) => self.ours().map(|figure| figure <= most),
            Target::AtLeast(least) => self.ours().map(|figure| figure >= least),
        };
        match met {
            None => Outcome::Skipped,
            Some(true) => Outcome::Pass,
            Some(false) => Outcome::Miss,
        }
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 0 => Some(f64::midpoint(sorted[half - 1], sorted[half])),
        _ => Some(sorted[half]),
    }
}

pub(super) fn print(rows: &[Row]) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "ROW", "WHAT", "NATIVE", "FOREBAY", "RATIO", "TARGET", "", "OTHERS",
    ]);
    for row in rows {
        let show = |figure: Option<f64>| figure.map_or("–".to_owned(), |f| row.unit.show(f));
        let ratio = row
            .measured()
            .map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let target = match row.target {
            Target::Ratio(least) => format!("≥ {least:.2}"),
            Target::AtMost(most) => format!("≤ {}", row.unit.show(most)),
            Target::AtLeast(least) => format!("≥ {}", row.unit.show(least)),
            Target::None => String::new(),
        };
        let outcome = match row.outcome() {
            Outcome::Pass => "pass",
            Outcome::Miss => "MISS",
            Outcome::Skipped => "skipped: only root may drop caches",
            Outcome::Info => "",
        };
        table.add_row([
            row.name,
            &row.what,
            &show(row.native()),
            &show(row.ours()),
            &ratio,
            &target,
            outcome,
            row.peers,
        ]);
    }
    for column in [2, 3, 4, 5] {
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
}

#[derive(Serialize)]
struct File<'a> {
    scale: &'a Scale,
    rows: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    row: &'a Row,
    native: Option<f64>,
    ours: Option<f64>,
    ratio: Option<f64>,
    outcome: Outcome,
}

pub(super) fn write_json(rows: &[Row], scale: &Scale, path: &Path) -> anyhow::Result<()> {
    let file = File {
        scale,
        rows: rows
            .iter()
            .map(|row| Entry {
                row,
                native: row.native(),
                ours: row.ours(),
                ratio: row.measured(),
                outcome: row.outcome(),
            })
            .collect(),
    };
    let mut text = serde_json::to_string_pretty(&file)?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_judged_by_the_median_of_its_ratios() {
        let mut row = Row::ratio("r", "", Unit::PerS, 0.9);
        assert_eq!(row.outcome(), Outcome::Skipped);
        // Slow rounds of the machine hit both sides: ratios 0.95, 0.5, 0.92.
        for (native, ours) in [(100.0, 95.0), (100.0, 50.0), (10.0, 9.2)] {
            row.round(native, ours);
        }
        assert_eq!(row.outcome(), Outcome::Pass);
        assert_eq!(row.measured().map(|r| (r * 100.0).round()), Some(92.0));
        row.round(100.0, 50.0);
        assert_eq!(row.outcome(), Outcome::Miss);
        assert_eq!(
            Row::bound("b", "", Unit::Mib, 406.0, 406.0).outcome(),
            Outcome::Pass
        );
        assert_eq!(
            Row::bound("b", "", Unit::Mib, 406.1, 406.0).outcome(),
            Outcome::Miss
        );
        assert_eq!(
            Row::figure("f", "", Unit::Mib, 1.0).outcome(),
            Outcome::Info
        );
    }

    #[test]
    fn figures_read_well() {
        assert_eq!(thousands(1_234_567.8), "1,234,568");
        assert_eq!(thousands(999.4), "999");
        assert_eq!(thousands(1.25), "1.2");
        assert_eq!(thousands(0.0), "0");
        assert_eq!(median([3.0, 1.0, 2.0, 4.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }
}
