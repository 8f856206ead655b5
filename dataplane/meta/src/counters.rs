//! What counts up, and how far the journal is applied.

use crate::{Error, Result, schema};
use forebay_kv::{Batch, Read};
use forebay_types::Ino;
use serde::{Deserialize, Serialize};

/// Behind the counters in their row: the figures of mounts are true as of them.
const MOUNTS_COUNTED: &[u8] = &[1];

/// One row, written with every command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// The last applied index.
    pub(crate) applied: u64,
    /// The latest time a command brought.
    pub(crate) now_ns: i64,
    pub(crate) next_ino: u64,
    pub(crate) next_mount: u32,
    pub(crate) next_session: u64,
    /// The directory that is shown as [`Ino::ROOT`]. The root keeps its number for ever, but a
    /// mount or unmount of `/` puts another directory in its place, so that the old one can be
    /// taken away as a whole like any other.
    pub(crate) root: Ino,
    /// Rows of the inode table.
    pub(crate) inodes: u64,
    /// Rows of the pin table.
    pub(crate) pins: u64,
    /// No orphan is older: reaping starts here and not among the tombstones before.
    pub(crate) reap_from_ns: i64,
}

impl Counters {
    /// Of an empty tree.
    pub(crate) fn first() -> Counters {
        Counters {
            applied: 0,
            now_ns: 0,
            next_ino: Ino::ROOT.0 + 2,
            next_mount: 1,
            next_session: 1,
            root: Ino(Ino::ROOT.0 + 1),
            inodes: 1,
            pins: 0,
            reap_from_ns: 0,
        }
    }

    pub(crate) fn load(reader: &dyn Read) -> Result<Counters> {
        let bytes = reader
            .get(&schema::counters())?
            .ok_or_else(|| Error::Damaged("the counters are missing".to_owned()))?;
        Ok(schema::decode_first(&bytes, "counters")?.0)
    }

    /// Whether the figures of mounts are true of the rows that `reader` shows. Versions that know
    /// none leave their mark out when they write the counters, which they do with every command.
    pub(crate) fn mounts_are_counted(reader: &dyn Read) -> Result<bool> {
        let bytes = reader.get(&schema::counters())?.unwrap_or_default();
        let (_, rest): (Counters, _) = schema::decode_first(&bytes, "counters")?;
        Ok(rest == MOUNTS_COUNTED)
    }

    pub(crate) fn put(&self, batch: &mut Batch) {
        let mut row = schema::encode(self);
        row.extend_from_slice(MOUNTS_COUNTED);
        batch.put(schema::counters(), row);
    }

    /// A number never used before.
    pub(crate) fn new_ino(&mut self) -> Ino {
        self.next_ino += 1;
        self.inodes += 1;
        Ino(self.next_ino - 1)
    }

    /// The number under which the tables keep the inode that others call `ino`.
    pub(crate) fn inner(&self, ino: Ino) -> Ino {
        if ino == Ino::ROOT { self.root } else { ino }
    }

    /// The reverse of [`Counters::inner`].
    pub(crate) fn outer(&self, ino: Ino) -> Ino {
        if ino == self.root { Ino::ROOT } else { ino }
    }
}
