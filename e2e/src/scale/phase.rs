//! The two phases: build the tree; open it and read.

use super::{
    bytes_on_disk, open, resident,
    tree::{self, Tree},
};
use anyhow::Context;
use forebay_meta::{Change, Command, Entry, Meta, UfsEntry};
use forebay_types::{Ino, MountSpec, Name, SyncPolicy};
use serde::{Deserialize, Serialize};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// What building cost.
#[derive(Debug, Serialize, Deserialize)]
pub struct Built {
    /// Inodes, directories included.
    pub inodes: u64,
    /// Time of all the applies, with RocksDB's flushes and compactions beside them.
    pub apply_s: f64,
    /// Time of the compaction of everything at the end.
    pub compact_s: f64,
    /// Bytes of the database before that, and after.
    pub bytes: [u64; 2],
    /// Resident memory at the end of the applies, in bytes.
    pub resident: u64,
}

/// What a start costs, and what reads do then.
#[derive(Debug, Serialize, Deserialize)]
pub struct Served {
    /// From the start of the process to the answer of the first lookup.
    pub first_read_s: f64,
    /// Lookups (directory and name to attributes) per second, one thread, uniform over all files, after a warm-up.
    pub everywhere: f64,
    /// The same over as many files as the inode cache holds.
    pub cached: f64,
    /// Resident memory at the end, in bytes.
    pub resident: u64,
}

/// Applies commands one after the other.
struct Journal<'a> {
    meta: &'a Meta,
    index: u64,
}

impl Journal<'_> {
    fn apply(&mut self, change: Change) -> anyhow::Result<()> {
        self.index += 1;
        let command = Command {
            now_ns: self.index as i64,
            request: None,
            change,
        };
        self.meta.apply(&[Entry {
            index: self.index,
            commands: vec![command],
        }])?;
        Ok(())
    }

    /// A directory as its listing leaves it.
    fn fill(&mut self, parent: Ino, entries: Vec<UfsEntry>) -> anyhow::Result<()> {
        self.apply(Change::UpsertEntries { parent, entries })?;
        self.apply(Change::FinishSync {
            dir: parent,
            started_ns: 1,
        })
    }
}

/// Fills `dir` with the tree; `say` hears of every group.
pub fn build(tree: Tree, dir: &Path, budget: u64, say: &dyn Fn(u64)) -> anyhow::Result<Built> {
    let (kv, meta) = open(dir, budget)?;
    let mut journal = Journal {
        meta: &meta,
        index: 0,
    };
    let begun = Instant::now();
    journal.apply(Change::Mount {
        spec: MountSpec {
            path: "/".to_owned(),
            uri: "mem://scale".to_owned(),
            options: [].into(),
            sync: SyncPolicy::Never,
            credentials: None,
        },
        configured: true,
    })?;
    let groups = 0..tree.groups();
    let entries = groups.clone().map(tree::group_name);
    journal.fill(Ino::ROOT, entries.map(tree::directory_entry).collect())?;
    for group in groups {
        let parent = child(&meta, Ino::ROOT, &tree::group_name(group))?;
        let directories = tree.directories_of(group);
        let entries = directories.clone().map(tree::directory_name);
        journal.fill(parent, entries.map(tree::directory_entry).collect())?;
        for directory in directories {
            let parent = child(&meta, parent, &tree::directory_name(directory))?;
            journal.fill(
                parent,
                Tree::files_of(directory).map(tree::file_entry).collect(),
            )?;
        }
        say(meta.inode_count()?);
    }
    meta.flush()?;
    let (apply_s, resident) = (begun.elapsed().as_secs_f64(), resident()?);
    let before = bytes_on_disk(dir)?;
    let begun = Instant::now();
    kv.compact();
    Ok(Built {
        inodes: meta.inode_count()?,
        apply_s,
        compact_s: begun.elapsed().as_secs_f64(),
        bytes: [before, bytes_on_disk(dir)?],
        resident,
    })
}

/// Opens what [`build`] left in `dir`; the process began at `started`.
pub fn serve(
    tree: Tree,
    dir: &Path,
    budget: u64,
    started: Instant,
    time: Duration,
) -> anyhow::Result<Served> {
    let (_kv, meta) = open(dir, budget)?;
    let files = tree.files();
    let (group, directory, name) = Tree::place(tree::mixed(7) % files);
    let group = child(&meta, Ino::ROOT, &tree::group_name(group))?;
    let directory = child(&meta, group, &tree::directory_name(directory))?;
    child(&meta, directory, &name)?;
    let first_read_s = started.elapsed().as_secs_f64();
    let directories = directories(&meta, tree)?;
    // As many as fit into the inode cache for certain: a row takes less than 512 bytes, and the
    // cache gets more than a fifth of the budget.
    let few = (budget / 5 / 512).min(files);
    let mut probe = 0;
    let mut rate = |among: u64, time: Duration| -> anyhow::Result<f64> {
        let begun = Instant::now();
        let mut count = 0;
        while begun.elapsed() < time {
            for _ in 0..256 {
                probe += 1;
                let (_, directory, name) = Tree::place(tree::mixed(probe) % among);
                child(&meta, directories[directory as usize], &name)?;
            }
            count += 256;
        }
        Ok(f64::from(count) / begun.elapsed().as_secs_f64())
    };
    rate(files, time)?;
    let everywhere = rate(files, time)?;
    rate(few, time)?;
    let cached = rate(few, time)?;
    Ok(Served {
        first_read_s,
        everywhere,
        cached,
        resident: resident()?,
    })
}

/// All directories of files: clients know theirs.
fn directories(meta: &Meta, tree: Tree) -> anyhow::Result<Vec<Ino>> {
    let mut inos = Vec::new();
    for group in 0..tree.groups() {
        let parent = child(meta, Ino::ROOT, &tree::group_name(group))?;
        for directory in tree.directories_of(group) {
            inos.push(child(meta, parent, &tree::directory_name(directory))?);
        }
    }
    Ok(inos)
}

fn child(meta: &Meta, parent: Ino, name: &Name) -> anyhow::Result<Ino> {
    let attr = meta.lookup(parent, name)?;
    let attr = attr.with_context(|| format!("{name} is missing in inode {parent}"))?;
    Ok(attr.ino)
}
