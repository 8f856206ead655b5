//! The edge table: (directory, name) to inode.

use crate::{Result, schema};
use forebay_kv::Read;
use forebay_types::{FileKind, Ino, Name};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// Why a name is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// The under store has it.
    Store,
    /// It is a mount point.
    Mount,
    /// A directory made on the way to a mount point; the under store has not shown it.
    Made,
    /// A client made it, in a scratch mount.
    Own,
}

/// Where a name leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Edge {
    pub(crate) ino: Ino,
    pub(crate) kind: FileKind,
    pub(crate) origin: Origin,
}

/// So many names are looked up one by one rather than by a scan.
const FEW: usize = 4;

pub(crate) fn decode(bytes: &[u8]) -> Result<Edge> {
    schema::decode(bytes, "edge")
}

pub(crate) fn get(reader: &dyn Read, dir: Ino, name: &Name) -> Result<Option<Edge>> {
    at(reader, &schema::edge(dir, name.as_bytes()))
}

/// The edge with a key.
pub(crate) fn at(reader: &dyn Read, key: &[u8]) -> Result<Option<Edge>> {
    let value = reader.get(key)?;
    value.map(|bytes| decode(&bytes)).transpose()
}

/// Up to `limit` edges with names beyond `beyond`, in order.
pub(crate) fn scan(
    reader: &dyn Read,
    dir: Ino,
    beyond: Option<&Name>,
    limit: usize,
) -> Result<Vec<(Name, Edge)>> {
    let range = schema::edges(dir, beyond);
    let mut found = Vec::new();
    let mut ended = Ok(());
    let visitor = &mut |key: &[u8], value: &[u8]| {
        if found.len() == limit {
            return ControlFlow::Break(());
        }
        let named = schema::name_of_edge(key);
        match named.and_then(|name| Ok((name, decode(value)?))) {
            Ok(entry) => found.push(entry),
            Err(error) => {
                ended = Err(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    };
    reader.visit(range.start.as_slice()..range.end.as_slice(), visitor)?;
    ended.map(|()| found)
}

/// The edges of `names`, which are in ascending order. One scan serves names that lie close
/// together (a piece of a listing); scattered ones are looked up singly.
pub(crate) fn find(reader: &dyn Read, dir: Ino, names: &[&Name]) -> Result<Vec<Option<Edge>>> {
    let mut found = vec![None; names.len()];
    let mut next = 0;
    if let [first, .., last] = names
        && names.len() > FEW
    {
        let budget = 4 * names.len() + 64;
        let range = schema::edges_between(dir, first, last);
        let mut rows = reader.scan(range.start.as_slice()..range.end.as_slice());
        let mut read = 0;
        loop {
            let Some(row) = rows.next() else {
                return Ok(found);
            };
            let (key, value) = row?;
            let name = schema::edge_name(&key);
            while next < names.len() && names[next].as_bytes() < name {
                next += 1;
            }
            if next < names.len() && names[next].as_bytes() == name {
                found[next] = Some(decode(&value)?);
                next += 1;
            }
            read += 1;
            if read == budget {
                break;
            }
        }
    }
    let keys: Vec<_> = names[next..]
        .iter()
        .map(|name| schema::edge(dir, name.as_bytes()))
        .collect();
    for (slot, value) in found[next..].iter_mut().zip(reader.multi_get(&keys)?) {
        *slot = value.map(|bytes| decode(&bytes)).transpose()?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_kv::{Batch, Durability, Kv, MemKv};

    fn name(number: u32) -> Name {
        Name::new(format!("{number:06}")).unwrap()
    }

    #[test]
    fn finds_close_and_scattered_names_alike() {
        let kv = MemKv::new();
        let mut batch = Batch::default();
        for number in (0..3000).step_by(3) {
            let edge = Edge {
                ino: Ino(u64::from(number)),
                kind: FileKind::File,
                origin: Origin::Store,
            };
            batch.put(
                schema::edge(Ino(9), name(number).as_bytes()),
                schema::encode(&edge),
            );
        }
        kv.write(&batch, Durability::Volatile).unwrap();
        for step in [1, 2, 3, 7, 300, 2999, 3000] {
            let names: Vec<_> = (0..3000).step_by(step).map(name).collect();
            let found = find(&kv, Ino(9), &names.iter().collect::<Vec<_>>()).unwrap();
            for (number, edge) in (0..3000_u64).step_by(step).zip(found) {
                let expected = (number % 3 == 0).then_some(Ino(number));
                assert_eq!(edge.map(|edge| edge.ino), expected, "step {step}");
            }
        }
        assert!(find(&kv, Ino(9), &[]).unwrap().is_empty());
    }
}
