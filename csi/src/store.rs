//! Records on disk: one JSON file a volume, replaced whole.

use crate::{record::Record, volume::VolumeId};
use forebay_service::{config::ConfigError, data_dir::DataDir};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

const VOLUMES: &str = "volumes";
const JSON: &str = "json";
/// Of a file that is being written. No record can have it: names end with `.json`.
const DRAFT: &str = "draft";

/// The records of this node. One process at a time has them.
#[derive(Debug)]
pub struct Store {
    volumes: PathBuf,
    /// The same as on disk.
    records: Mutex<BTreeMap<VolumeId, Record>>,
    _dir: DataDir,
}

impl Store {
    /// Opens or makes the directory, and reads what is in it.
    pub fn open(path: &Path) -> Result<Store, ConfigError> {
        let dir = DataDir::open(path, "csi")?;
        let volumes = path.join(VOLUMES);
        let cannot = |e: &io::Error| ConfigError(format!("{} cannot be used: {e}", path.display()));
        fs::create_dir_all(&volumes).map_err(|e| cannot(&e))?;
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&volumes).map_err(|e| cannot(&e))? {
            let file = entry.map_err(|e| cannot(&e))?.path();
            if file.extension().is_some_and(|end| end == DRAFT) {
                fs::remove_file(&file).map_err(|e| cannot(&e))?;
                continue;
            }
            let record = read(&file).map_err(|e| {
                ConfigError(format!(
                    "the record of a volume in {} cannot be read: {e}: remove the file, and then \
                     delete the pods of this node that use the volume",
                    file.display()
                ))
            })?;
            records.insert(record.id().clone(), record);
        }
        Ok(Store {
            volumes,
            records: Mutex::new(records),
            _dir: dir,
        })
    }

    /// What is recorded of a volume.
    pub fn get(&self, id: &VolumeId) -> Option<Record> {
        self.records.lock().get(id).cloned()
    }

    /// Everything.
    pub fn all(&self) -> Vec<Record> {
        self.records.lock().values().cloned().collect()
    }

    /// Writes a record; on disk when it returns.
    pub fn save(&self, record: Record) -> io::Result<()> {
        let mut records = self.records.lock();
        let file = self.file(record.id());
        let draft = file.with_extension(DRAFT);
        let mut out = File::create(&draft)?;
        out.write_all(&serde_json::to_vec_pretty(&record)?)?;
        out.sync_all()?;
        fs::rename(&draft, &file)?;
        self.sync()?;
        records.insert(record.id().clone(), record);
        Ok(())
    }

    /// Removes a record; off the disk when it returns.
    pub fn forget(&self, id: &VolumeId) -> io::Result<()> {
        let mut records = self.records.lock();
        match fs::remove_file(self.file(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.sync()?;
        records.remove(id);
        Ok(())
    }

    /// The volume's own name may hold a dot: nothing of it is an extension.
    fn file(&self, id: &VolumeId) -> PathBuf {
        self.volumes.join(format!("{id}.{JSON}"))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.volumes)?.sync_all()
    }
}

fn read(file: &Path) -> io::Result<Record> {
    let record: Record = serde_json::from_slice(&fs::read(file)?)?;
    let expected = format!("{}.{JSON}", record.id());
    if file
        .file_name()
        .is_none_or(|name| name != expected.as_str())
    {
        return Err(io::Error::other("the file's name is not the volume's"));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flag::{Flag, Flags},
        volume::tests::{id, volume},
    };

    #[test]
    fn records_survive_and_drafts_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("state");
        let mut record = Record::staged(volume("v.1"), "/s".into());
        let store = Store::open(&home).unwrap();
        store.save(record.clone()).unwrap();
        let flags = Flags::from([Flag::Ro, Flag::NoExec]);
        record.targets.insert("/t".into(), flags);
        store.save(record.clone()).unwrap();
        store
            .save(Record::staged(volume("v.2"), "/s2".into()))
            .unwrap();
        store.forget(&id("v.2")).unwrap();
        store.forget(&id("v.2")).unwrap();
        drop(store);
        fs::write(home.join("volumes/v.3.draft"), "{").unwrap();

        let store = Store::open(&home).unwrap();
        assert_eq!(store.all(), [record.clone()]);
        assert_eq!(store.get(&id("v.1")), Some(record));
        assert_eq!(fs::read_dir(home.join("volumes")).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        fs::write(dir.path().join("volumes/v.json"), "{}").unwrap();
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("volumes/v.json cannot be read"), "{error}");
    }
}
