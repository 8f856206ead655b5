//! Following an under store: entries that are there, that are gone, and complete listings.

use crate::{
    Result,
    command::{UfsEntry, UfsKind},
    edge::{self, Edge, Origin},
    inode::{self, InodeRow, Owner, Place},
    outcome::Reply,
    pin,
    stamp::Stamp,
    txn::{Fault, Txn},
};
use forebay_types::{FileKind, Ino, Name};

/// Sets entries of a directory. Of entries with the same name the last one counts. New inodes
/// are numbered in the order of names, so that a listing finds their rows side by side.
pub(crate) fn upsert(txn: &mut Txn, dir: Ino, entries: &[UfsEntry]) -> Result<Reply, Fault> {
    let (row, owner) = txn.filled_directory(dir)?;
    let listed = row.as_directory().is_some_and(|directory| directory.listed);
    let mut entries: Vec<&UfsEntry> = entries.iter().collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries.dedup_by(|later, earlier| {
        let same = later.name == earlier.name;
        if same {
            *earlier = *later;
        }
        same
    });
    let names: Vec<&Name> = entries.iter().map(|entry| &entry.name).collect();
    let edges = edge::find(txn.kv, dir, &names)?;
    let rows = rows_to_compare(txn, &entries, &edges)?;

    let (mut added, mut replaced, mut updated) = (0, 0, 0);
    for ((entry, edge), row) in entries.into_iter().zip(edges).zip(rows) {
        // A directory made for a mount point turns out to be in the under store, too.
        if let (Some(edge), UfsKind::Directory { .. }) = (edge, &entry.kind)
            && edge.origin == Origin::Made
        {
            txn.put_edge(
                dir,
                &entry.name,
                Edge {
                    origin: Origin::Store,
                    ..edge
                },
            );
        }
        match step(entry, edge, row.as_ref(), txn) {
            Step::Keep => {}
            Step::Update { ino, row } => {
                txn.put_inode(ino, row);
                txn.invalidate_inode(ino);
                updated += 1;
            }
            Step::Add => {
                create(txn, dir, &owner, entry);
                added += 1;
                // Nobody can have been told that a name is absent from a directory that was
                // never listed.
                if listed {
                    txn.invalidate_entry(dir, &entry.name);
                }
            }
            Step::Replace(edge) => {
                txn.orphan(edge.ino)?;
                let new = create(txn, dir, &owner, entry);
                pin::carry_over(txn, edge.ino, new)?;
                txn.invalidate_entry(dir, &entry.name);
                replaced += 1;
            }
        }
    }
    if replaced > 0 || (added > 0 && listed) {
        txn.touch(dir)?;
    }
    Ok(Reply::Entries {
        added,
        changed: replaced + updated,
        removed: 0,
    })
}

/// What happens to one name.
enum Step {
    Keep,
    Add,
    Replace(Edge),
    Update { ino: Ino, row: InodeRow },
}

fn step(entry: &UfsEntry, edge: Option<Edge>, row: Option<&InodeRow>, txn: &Txn) -> Step {
    let Some(edge) = edge else { return Step::Add };
    match (&entry.kind, edge.kind) {
        _ if edge.origin == Origin::Mount => Step::Keep,
        (UfsKind::Directory { mtime_ns }, FileKind::Directory) => match row {
            Some(row) if row.mtime.0 < *mtime_ns => {
                let row = InodeRow {
                    mtime: Stamp(*mtime_ns),
                    ..row.clone()
                };
                Step::Update { ino: edge.ino, row }
            }
            _ => Step::Keep,
        },
        (UfsKind::File { .. }, FileKind::Directory) if txn.state.mounts.leads_to_one(edge.ino) => {
            Step::Keep
        }
        (
            UfsKind::File {
                fingerprint,
                mtime_ns,
            },
            FileKind::File,
        ) => match row {
            Some(row) if row.as_file().is_some_and(|file| file.matches(fingerprint)) => {
                if row.mtime.0 == *mtime_ns {
                    return Step::Keep;
                }
                let row = InodeRow {
                    mtime: Stamp(*mtime_ns),
                    ..row.clone()
                };
                Step::Update { ino: edge.ino, row }
            }
            _ => Step::Replace(edge),
        },
        _ => Step::Replace(edge),
    }
}

/// The rows that decide whether an entry is still the same; `None` where the kinds do already.
fn rows_to_compare(
    txn: &Txn,
    entries: &[&UfsEntry],
    edges: &[Option<Edge>],
) -> Result<Vec<Option<InodeRow>>> {
    let mut at = Vec::new();
    let mut inos = Vec::new();
    for (index, (entry, edge)) in entries.iter().zip(edges).enumerate() {
        let wanted = match (&entry.kind, edge) {
            (
                _,
                None
                | Some(Edge {
                    origin: Origin::Mount,
                    ..
                }),
            ) => None,
            (UfsKind::File { .. }, Some(edge)) => (edge.kind == FileKind::File).then_some(edge),
            (UfsKind::Directory { mtime_ns }, Some(edge)) => {
                (edge.kind == FileKind::Directory && *mtime_ns != 0).then_some(edge)
            }
        };
        if let Some(edge) = wanted {
            at.push(index);
            inos.push(edge.ino);
        }
    }
    let mut rows = vec![None; entries.len()];
    for (index, row) in at.into_iter().zip(inode::get_many(txn.kv, &inos)?) {
        rows[index] = row;
    }
    Ok(rows)
}

/// Puts a new inode under the entry's name, whatever was there.
fn create(txn: &mut Txn, dir: Ino, owner: &Owner, entry: &UfsEntry) -> Ino {
    let ino = txn.state.counters.new_ino();
    let place = Place {
        parent: dir,
        name: entry.name.clone(),
        gone: false,
    };
    let (kind, row) = match &entry.kind {
        UfsKind::File {
            fingerprint,
            mtime_ns,
        } => (
            FileKind::File,
            InodeRow::file(place, *mtime_ns, owner.mount, fingerprint),
        ),
        UfsKind::Directory { mtime_ns } => (
            FileKind::Directory,
            InodeRow::directory(Some(place), *mtime_ns, Some(owner.child(&entry.name))),
        ),
    };
    txn.put_new(
        dir,
        &entry.name,
        Edge {
            ino,
            kind,
            origin: Origin::Store,
        },
        &row,
    );
    ino
}

/// Takes names out of a directory. Mount points stay, and so do the directories on the way to
/// them, emptied of everything else.
pub(crate) fn remove(txn: &mut Txn, dir: Ino, names: &[Name]) -> Result<Reply, Fault> {
    let (_, owner) = txn.filled_directory(dir)?;
    let mut names: Vec<&Name> = names.iter().collect();
    names.sort_unstable();
    names.dedup();
    let edges = edge::find(txn.kv, dir, &names)?;
    let inos: Vec<Ino> = edges.iter().flatten().map(|edge| edge.ino).collect();
    txn.preload(&inos)?;
    let mut removed = 0;
    for (name, edge) in names.into_iter().zip(edges) {
        let Some(edge) = edge else { continue };
        let stays = txn.state.mounts.leads_to_one(edge.ino);
        match edge.origin {
            Origin::Mount => continue,
            Origin::Made if stays => continue,
            Origin::Store if stays => {
                let place = Place {
                    parent: dir,
                    name: name.clone(),
                    gone: false,
                };
                let new = txn.replant(edge.ino, Some(place), Some(&owner.child(name)))?;
                txn.orphan(edge.ino)?;
                txn.put_edge(
                    dir,
                    name,
                    Edge {
                        ino: new,
                        origin: Origin::Made,
                        ..edge
                    },
                );
                crate::mount::find_ways(txn)?;
            }
            Origin::Store | Origin::Made | Origin::Own => txn.detach(dir, name, edge)?,
        }
        txn.invalidate_entry(dir, name);
        removed += 1;
    }
    if removed > 0 {
        txn.touch(dir)?;
    }
    Ok(Reply::Entries {
        added: 0,
        changed: 0,
        removed,
    })
}

/// The listing that began at `started_ns` is complete.
pub(crate) fn finish_sync(txn: &mut Txn, dir: Ino, started_ns: i64) -> Result<Reply, Fault> {
    let (row, _) = txn.filled_directory(dir)?;
    let synced = row.with_directory(|directory| {
        directory.synced_ns = directory.synced_ns.max(Some(started_ns));
        directory.listed = true;
    });
    txn.replace_inode(dir, &row, synced);
    Ok(Reply::Done)
}
