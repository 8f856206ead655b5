//! The pin table: what must not be evicted.

use crate::{
    Result,
    outcome::Reply,
    schema,
    txn::{Fault, Txn, refused},
};
use forebay_kv::Read;
use forebay_types::{Code, Ino};

/// Pins or unpins an inode in the tree.
pub(crate) fn set(txn: &mut Txn, ino: Ino, pinned: bool) -> Result<Reply, Fault> {
    if !txn.is_attached(ino)? {
        let ino = txn.state.counters.outer(ino);
        return refused(Code::NotFound, format!("inode {ino} is not in the tree"));
    }
    if is_pinned(txn.kv, ino)? != pinned {
        put(txn, ino, pinned);
    }
    Ok(Reply::Done)
}

/// Pins `new`, which takes the place of `old`, if `old` is pinned: people pin paths.
pub(crate) fn carry_over(txn: &mut Txn, old: Ino, new: Ino) -> Result<()> {
    if txn.state.counters.pins > 0 && is_pinned(txn.kv, old)? {
        put(txn, old, false);
        put(txn, new, true);
    }
    Ok(())
}

/// Drops the pin of an inode that is deleted.
pub(crate) fn forget(txn: &mut Txn, ino: Ino) -> Result<()> {
    if txn.state.counters.pins > 0 && is_pinned(txn.kv, ino)? {
        put(txn, ino, false);
    }
    Ok(())
}

/// Whether the inode itself is pinned.
pub(crate) fn is_pinned(reader: &dyn Read, ino: Ino) -> Result<bool> {
    Ok(reader.get(&schema::pin(ino))?.is_some())
}

fn put(txn: &mut Txn, ino: Ino, pinned: bool) {
    let counters = &mut txn.state.counters;
    if pinned {
        counters.pins += 1;
        txn.batch.put(schema::pin(ino), Vec::new());
    } else {
        counters.pins -= 1;
        txn.batch.delete(schema::pin(ino));
    }
}
