//! Where the tables of the metadata lie: one directory in use, which a snapshot replaces whole.

use anyhow::Context;
use forebay_kv_rocksdb::{Options, RocksKv};
use forebay_meta::Meta;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Names the directory in use.
const CURRENT: &str = "current";

/// The directory of the tables.
pub(crate) struct Tables {
    dir: PathBuf,
    /// Bytes for RocksDB, and for inodes ready to answer with.
    memory: [u64; 2],
}

impl Tables {
    /// In `dir`, with these budgets (RocksDB; inode cache).
    pub(crate) fn new(dir: PathBuf, memory: [u64; 2]) -> Tables {
        Tables { dir, memory }
    }

    /// Opens what is in use, or begins with nothing; removes what an install left that did not come
    /// to its end.
    pub(crate) fn open(&self) -> anyhow::Result<Arc<Meta>> {
        let shown = self.dir.display();
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot make {shown}"))?;
        let current = if let Some(number) = self.current()? {
            number
        } else {
            self.make_current(0)
                .with_context(|| format!("cannot write in {shown}"))?;
            0
        };
        for entry in fs::read_dir(&self.dir).with_context(|| format!("cannot read {shown}"))? {
            let name = entry?.file_name();
            let other = name.to_str().and_then(|name| name.parse::<u64>().ok());
            if other.is_some_and(|number| number != current) {
                let leftover = self.dir.join(name);
                fs::remove_dir_all(&leftover)
                    .with_context(|| format!("cannot remove {}", leftover.display()))?;
            }
        }
        self.open_number(current)
    }

    /// Begins with copies of these files, each with its name among the tables.
    pub(crate) fn begin_with<'a>(
        &self,
        files: impl Iterator<Item = (PathBuf, &'a str)>,
    ) -> anyhow::Result<Arc<Meta>> {
        let dir = self.path(0);
        fs::create_dir_all(&dir)?;
        for (from, name) in files {
            let to = dir.join(name);
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
            File::open(&to)?.sync_all()?;
        }
        File::open(&dir)?.sync_all()?;
        self.make_current(0)?;
        self.open_number(0)
    }

    /// Puts the checkpoint in `from` in the place of what is in use. What was open stays readable to
    /// whoever still holds it.
    pub(crate) fn install(&self, from: &Path) -> anyhow::Result<Arc<Meta>> {
        let old = self.current()?.context("no tables are in use")?;
        let new = old + 1;
        let place = || format!("cannot install a snapshot in {}", self.dir.display());
        self.link_all(from, new).with_context(place)?;
        // From here on it counts.
        self.make_current(new).with_context(place)?;
        let meta = self.open_number(new)?;
        fs::remove_dir_all(self.path(old)).with_context(place)?;
        Ok(meta)
    }

    fn open_number(&self, number: u64) -> anyhow::Result<Arc<Meta>> {
        let dir = self.path(number);
        let [memory_bytes, cache] = self.memory;
        let tables = RocksKv::open(&dir, &Options { memory_bytes })
            .with_context(|| format!("cannot open the metadata in {}", dir.display()))?;
        if let Some(inodes) = Meta::must_count(&*tables)? {
            tracing::info!(
                inodes,
                "counting what each mount has, once: an earlier version wrote the metadata"
            );
        }
        Ok(Arc::new(Meta::open(tables, cache)?))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(number.to_string())
    }

    fn current(&self) -> anyhow::Result<Option<u64>> {
        let path = self.dir.join(CURRENT);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let number = text.trim().parse().with_context(|| {
                    let shown = path.display();
                    format!("{shown} holds no number: restore the master's directory from a backup")
                })?;
                Ok(Some(number))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes the number; survives the loss of power.
    fn make_current(&self, number: u64) -> io::Result<()> {
        let draft = self.dir.join("current~");
        let mut file = File::create(&draft)?;
        writeln!(file, "{number}")?;
        file.sync_all()?;
        fs::rename(&draft, self.dir.join(CURRENT))?;
        File::open(&self.dir)?.sync_all()
    }

    fn link_all(&self, from: &Path, number: u64) -> io::Result<()> {
        let to = self.path(number);
        match fs::remove_dir_all(&to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir(&to)?;
        for entry in fs::read_dir(from)? {
            let source = entry?.path();
            let target = to.join(source.file_name().expect("of a listing"));
            // RocksDB never changes a table; small files it appends to or writes anew.
            if source.extension().is_some_and(|e| e == "sst") {
                fs::hard_link(&source, &target)?;
            } else {
                fs::copy(&source, &target)?;
            }
            File::open(&target)?.sync_all()?;
        }
        File::open(&to)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_meta::{Change, Command, Entry};

    fn tables(dir: &Path) -> Tables {
        Tables::new(dir.join("meta"), [8 << 20, 1 << 20])
    }

    fn name_cluster(meta: &Meta, cluster: &str) {
        let change = Change::InitCluster {
            cluster: cluster.to_owned(),
        };
        let command = Command {
            now_ns: 1,
            request: None,
            change,
        };
        let entry = Entry {
            index: meta.applied() + 1,
            commands: vec![command],
        };
        meta.apply(&[entry]).unwrap();
    }

    #[test]
    fn a_checkpoint_takes_the_place_of_the_state_and_readers_of_the_old_one_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let other = Tables::new(dir.path().join("other"), [8 << 20, 1 << 20]);
        let other = other.open().unwrap();
        name_cluster(&other, "theirs");
        let checkpoint = dir.path().join("checkpoint");
        assert_eq!(other.checkpoint(&checkpoint).unwrap(), 1);

        let tables = tables(dir.path());
        let old = tables.open().unwrap();
        name_cluster(&old, "ours");
        name_cluster(&old, "ignored");
        let new = tables.install(&checkpoint).unwrap();
        assert_eq!(new.cluster().unwrap().as_deref(), Some("theirs"));
        assert_eq!((new.applied(), old.applied()), (1, 2));
        assert_eq!(old.cluster().unwrap().as_deref(), Some("ours"));
        drop((old, new));
        let again = tables.open().unwrap();
        assert_eq!(again.cluster().unwrap().as_deref(), Some("theirs"));
    }

    #[test]
    fn an_install_that_did_not_come_to_its_end_leaves_the_old_state() {
        let dir = tempfile::tempdir().unwrap();
        let tables = tables(dir.path());
        let meta = tables.open().unwrap();
        name_cluster(&meta, "ours");
        meta.flush().unwrap();
        drop(meta);
        let half = tables.path(1);
        fs::create_dir(&half).unwrap();
        fs::write(half.join("000007.sst"), "half").unwrap();
        let meta = tables.open().unwrap();
        assert_eq!(meta.cluster().unwrap().as_deref(), Some("ours"));
        assert!(!half.exists());
    }
}
