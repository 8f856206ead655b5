//! Tables, sizes and times for people.

use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use jiff::{Timestamp, tz::TimeZone};

/// A table without borders; `right` are the columns whose cells are aligned to the right.
pub(crate) fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Prints a table without trailing blanks.
pub(crate) fn print(table: &Table) {
    for line in table.lines() {
        println!("{}", line.trim_end());
    }
}

/// Bytes with a binary unit.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// A share in percent; a dash of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{:.1} %", 100.0 * part as f64 / whole as f64)
}

/// A time in the zone of the terminal, as `ls` shows it.
pub(crate) fn time(ns: i64) -> String {
    if ns == 0 {
        return "-".to_owned();
    }
    Timestamp::from_nanosecond(i128::from(ns)).map_or_else(
        |_| "-".to_owned(),
        |t| {
            t.to_zoned(TimeZone::system())
                .strftime("%Y-%m-%d %H:%M:%S")
                .to_string()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_sizes_read_well() {
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(0, 0), "-");
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1 << 30), "1.0 GiB");
        assert_eq!(time(0), "-");
    }
}
