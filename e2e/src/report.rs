//! What a run found, for people and for programs.

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde_json::{Map, Value};

/// Rows of figures in the order of the run.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<(String, f64, &'static str)>,
}

impl Report {
    pub(crate) fn row(&mut self, what: impl Into<String>, figure: f64, unit: &'static str) {
        self.rows.push((what.into(), figure, unit));
    }

    /// One JSON object: figures by what they are, each with its unit in the name.
    pub fn json(&self) -> Value {
        let rows = self.rows.iter();
        let rows = rows.map(|(what, figure, unit)| {
            let comma = if unit.is_empty() { "" } else { ", " };
            (format!("{what}{comma}{unit}"), (*figure).into())
        });
        Value::Object(rows.collect::<Map<_, _>>())
    }

    /// Prints an aligned table.
    pub fn print(&self) {
        let mut table = Table::new();
        table.load_style(NOTHING);
        for (what, figure, unit) in &self.rows {
            let digits = if *figure < 100.0 { 2 } else { 0 };
            table.add_row([
                what.clone(),
                format!("{figure:.digits$}"),
                (*unit).to_owned(),
            ]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for line in table.lines() {
            println!("{}", line.trim_end());
        }
    }
}
