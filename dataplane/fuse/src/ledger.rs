//! What a successor must know of the inodes that a mount has open, in a file of memory that outlives the process.
//!
//! The kernel keeps the mode of an inode from its first open to its last release, and knows backing files by
//! number only; a process that takes over a mount and does not know them would answer opens with the wrong mode,
//! which is an error for the reader. A row is written before the kernel gets the answer that it is about: a death
//! in between leaves an open too many, which costs a little memory, never one too few.

use forebay_types::Ino;
use std::{fs::File, io, os::unix::fs::FileExt};

/// Where rows begin; what is before belongs to others.
pub(crate) const ROWS: u64 = 16 << 10;
const ROW: usize = 24;

/// How the kernel reads an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From the backing file of this number.
    Passthrough(u32),
    /// Through the page cache, from us.
    Cached,
}

/// An inode that is open, or that keeps its backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The inode.
    pub ino: Ino,
    /// How many times it is open.
    pub opens: u32,
    /// How it is read.
    pub kind: Kind,
}

/// The file, and which of its rows are free.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    free: Vec<u64>,
    next: u64,
}

impl Ledger {
    /// The rows of `file`, and the file without them.
    pub fn open(file: File) -> io::Result<(Ledger, Vec<Row>)> {
        let length = file.metadata()?.len().saturating_sub(ROWS) / ROW as u64;
        let mut rows = Vec::new();
        let mut bytes = [0; ROW];
        for at in 0..length {
            file.read_exact_at(&mut bytes, place(at))?;
            rows.extend(decode(&bytes));
        }
        if length > 0 {
            file.set_len(ROWS)?;
        }
        let ledger = Ledger {
            file,
            free: Vec::new(),
            next: 0,
        };
        Ok((ledger, rows))
    }

    /// Writes a row, in the place `at` or in a new one; returns the place.
    pub fn put(&mut self, at: Option<u64>, row: Row) -> u64 {
        let at = at.or_else(|| self.free.pop()).unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        self.write(at, &encode(row));
        at
    }

    /// Clears a row.
    pub fn clear(&mut self, at: u64) {
        self.write(at, &[0; ROW]);
        self.free.push(at);
    }

    fn write(&self, at: u64, bytes: &[u8; ROW]) {
        if let Err(error) = self.file.write_all_at(bytes, place(at)) {
            // Memory is out: a successor may have to refuse opens of this inode.
            tracing::warn!(%error, "cannot note an open file for a successor");
        }
    }
}

fn place(at: u64) -> u64 {
    ROWS + at * ROW as u64
}

fn encode(row: Row) -> [u8; ROW] {
    let (kind, number) = match row.kind {
        Kind::Passthrough(number) => (1_u32, number),
        Kind::Cached => (2, 0),
    };
    let mut bytes = [0; ROW];
    bytes[..8].copy_from_slice(&row.ino.0.to_ne_bytes());
    for (at, value) in [(8, row.opens), (12, kind), (16, number)] {
        bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

fn decode(bytes: &[u8; ROW]) -> Option<Row> {
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
    let kind = match word(12) {
        1 => Kind::Passthrough(word(16)),
        2 => Kind::Cached,
        _ => return None,
    };
    Some(Row {
        ino: Ino(u64::from(word(0)) | u64::from(word(4)) << 32),
        opens: word(8),
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_finds_the_rows_that_were_not_cleared() {
        let file = tempfile::tempfile().unwrap();
        let (mut ledger, none) = Ledger::open(file.try_clone().unwrap()).unwrap();
        assert!(none.is_empty());
        let row = |ino, opens, kind| Row {
            ino: Ino(ino),
            opens,
            kind,
        };
        let far = row(1 << 40 | 7, 1, Kind::Passthrough(9));
        let first = ledger.put(None, far);
        let second = ledger.put(None, row(2, 1, Kind::Cached));
        ledger.put(Some(first), Row { opens: 2, ..far });
        ledger.clear(second);
        assert_eq!(ledger.put(None, row(3, 0, Kind::Passthrough(1))), second);

        let (_, rows) = Ledger::open(file).unwrap();
        assert_eq!(
            rows,
            [Row { opens: 2, ..far }, row(3, 0, Kind::Passthrough(1))]
        );
    }
}
