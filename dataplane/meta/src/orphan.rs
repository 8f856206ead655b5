//! Inodes that are out of the tree, in the order in which they left it, and their end.

use crate::{
    Result,
    edge::{self, Edge},
    inode::{self, Body, InodeRow},
    outcome::Reply,
    pin, problem, schema,
    txn::{Fault, Txn},
};
use forebay_types::{FileKind, Ino, MountId};

/// Most rows that one command deletes, whatever it asks for.
const MOST_ROWS: usize = 16_384;

/// Deletes up to `limit` rows of orphans since before `before_ns`. A directory's entries go
/// first, a portion in each command; its subdirectories become orphans of the same time.
pub(crate) fn reap(txn: &mut Txn, before_ns: i64, limit: u32) -> Result<Reply, Fault> {
    let from_ns = txn.state.counters.reap_from_ns;
    // Orphans of this very moment and later may still come.
    let before_ns = before_ns.min(txn.now_ns());
    let range = schema::orphans(from_ns, before_ns);
    let limit = (limit as usize).min(MOST_ROWS);
    let mut left = limit;
    let mut oldest_left = None;
    // One more than can be done, to know whether something is left.
    let orphans = txn
        .kv
        .scan(range.start.as_slice()..range.end.as_slice())
        .take(left + 1)
        .map(|row| schema::orphan_of(&row?.0))
        .collect::<Result<Vec<_>>>()?;
    let inos: Vec<Ino> = orphans.iter().map(|(_, ino)| *ino).collect();
    txn.preload(&inos)?;
    for (since_ns, ino) in orphans {
        let key = schema::orphan(since_ns, ino);
        if left == 0 {
            oldest_left.get_or_insert(since_ns);
            break;
        }
        let Some(row) = txn.inode(ino)? else {
            txn.batch.delete(key);
            left -= 1;
            continue;
        };
        if let Body::Directory(directory) = &row.body {
            let mount = directory.owner.as_ref().map(|owner| owner.mount);
            let emptied = empty(txn, ino, mount, since_ns, &mut left)?;
            let finished = emptied.all && left > 0;
            if emptied.directories || !finished {
                oldest_left.get_or_insert(since_ns);
            }
            if !finished {
                break;
            }
            problem::forget_directory(txn, ino, mount)?;
        }
        delete(txn, ino, Some(&row))?;
        txn.batch.delete(key);
        left -= 1;
    }
    // Beyond what is left, or beyond all that was looked at: skip the tombstones next time.
    txn.state.counters.reap_from_ns = oldest_left.unwrap_or(from_ns.max(before_ns));
    Ok(Reply::Reaped((limit - left) as u64))
}

/// What came of emptying a directory.
struct Emptied {
    /// Nothing is left in it.
    all: bool,
    /// It had subdirectories, which are orphans of their own now.
    directories: bool,
}

/// Deletes up to `left` entries of a directory of `mount`.
fn empty(
    txn: &mut Txn,
    dir: Ino,
    mount: Option<MountId>,
    since_ns: i64,
    left: &mut usize,
) -> Result<Emptied> {
    let entries = edge::scan(txn.kv, dir, None, *left + 1)?;
    let mut emptied = Emptied {
        all: entries.len() <= *left,
        directories: false,
    };
    let now = &entries[..entries.len().min(*left)];
    // The files have counted for their mount until now, unless it is gone itself.
    let mut counted = Vec::new();
    if mount.is_some_and(|mount| txn.counts(mount)) {
        let files = now.iter().filter(|(_, edge)| edge.kind == FileKind::File);
        let files: Vec<Ino> = files.map(|(_, edge)| edge.ino).collect();
        counted = inode::get_many(txn.kv, &files)?;
    }
    let mut counted = counted.into_iter();
    for (name, Edge { ino, kind, .. }) in now {
        txn.batch.delete(schema::edge(dir, name.as_bytes()));
        match kind {
            FileKind::File => delete(txn, *ino, counted.next().flatten().as_ref())?,
            FileKind::Directory => {
                txn.batch.put(schema::orphan(since_ns, *ino), Vec::new());
                emptied.directories = true;
            }
        }
        *left -= 1;
    }
    Ok(emptied)
}

fn delete(txn: &mut Txn, ino: Ino, row: Option<&InodeRow>) -> Result<()> {
    pin::forget(txn, ino)?;
    txn.delete_inode(ino, row);
    Ok(())
}
