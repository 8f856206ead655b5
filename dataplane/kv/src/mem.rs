//! The store in memory: for tests, and wherever losing everything is fine.

use crate::{Batch, Durability, Error, Kv, Op, Read, Result, Scan};
use parking_lot::RwLock;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read as _, Write},
    ops::{Bound, Range},
    path::Path,
    sync::Arc,
};

type Map = BTreeMap<Arc<[u8]>, Arc<[u8]>>;

/// The file of a checkpoint, within its directory.
const CHECKPOINT: &str = "pairs";

/// A [`Kv`] in memory. `flush` does nothing; no write outlives the value.
///
/// Snapshots and scans share the map; the first write while one of them lives copies it (the
/// pairs themselves stay shared).
#[derive(Default)]
pub struct MemKv {
    map: RwLock<Arc<Map>>,
}

impl MemKv {
    /// An empty store.
    pub fn new() -> MemKv {
        MemKv::default()
    }

    /// The store that [`Kv::checkpoint`] left in `dir`.
    pub fn from_checkpoint(dir: &Path) -> Result<MemKv> {
        let mut file = BufReader::new(File::open(dir.join(CHECKPOINT)).map_err(failed)?);
        let mut map = Map::new();
        while let Some(key) = read_field(&mut file)? {
            let value = read_field(&mut file)?
                .ok_or_else(|| Error::Corrupt("checkpoint ends after a key".into()))?;
            map.insert(key.into(), value.into());
        }
        Ok(MemKv {
            map: RwLock::new(Arc::new(map)),
        })
    }
}

impl Read for MemKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.map.read().get(key).map(|value| value.to_vec()))
    }

    fn scan(&self, range: Range<&[u8]>) -> Scan<'_> {
        scan(self.map.read().clone(), range)
    }
}

impl Kv for MemKv {
    fn write(&self, batch: &Batch, _durability: Durability) -> Result<()> {
        let mut map = self.map.write();
        let map = Arc::make_mut(&mut map);
        for op in &batch.ops {
            match op {
                Op::Put(key, value) => {
                    map.insert(key.as_slice().into(), value.as_slice().into());
                }
                Op::Delete(key) => {
                    map.remove(key.as_slice());
                }
                Op::DeleteRange(range) if range.start < range.end => {
                    let doomed: Vec<_> = map
                        .range::<[u8], _>((
                            Bound::Included(range.start.as_slice()),
                            Bound::Excluded(range.end.as_slice()),
                        ))
                        .map(|(key, _)| key.clone())
                        .collect();
                    for key in doomed {
                        map.remove(&key);
                    }
                }
                Op::DeleteRange(_) => {}
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Read + '_> {
        Box::new(Snapshot(self.map.read().clone()))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn checkpoint(&self, dir: &Path) -> Result<()> {
        let map = self.map.read().clone();
        fs::create_dir(dir).map_err(failed)?;
        let mut file = BufWriter::new(File::create_new(dir.join(CHECKPOINT)).map_err(failed)?);
        for (key, value) in map.iter() {
            for field in [key, value] {
                file.write_all(&(field.len() as u64).to_le_bytes())
                    .map_err(failed)?;
                file.write_all(field).map_err(failed)?;
            }
        }
        let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)
    }
}

/// One moment of a [`MemKv`].
struct Snapshot(Arc<Map>);

impl Read for Snapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.0.get(key).map(|value| value.to_vec()))
    }

    fn scan(&self, range: Range<&[u8]>) -> Scan<'_> {
        scan(self.0.clone(), range)
    }
}

/// Goes through a map that it keeps alive: an iterator cannot borrow from its own `Arc`, so each
/// step seeks from the last key.
fn scan(map: Arc<Map>, range: Range<&[u8]>) -> Scan<'static> {
    if range.start >= range.end {
        return Box::new(std::iter::empty());
    }
    let mut from = Bound::Included(Arc::<[u8]>::from(range.start));
    let end: Arc<[u8]> = range.end.into();
    Box::new(std::iter::from_fn(move || {
        let bounds = (from.as_ref().map(|key| &**key), Bound::Excluded(&*end));
        let (key, value) = map.range::<[u8], _>(bounds).next()?;
        from = Bound::Excluded(key.clone());
        Some(Ok((key.to_vec(), value.to_vec())))
    }))
}

/// A field of a checkpoint; `None` at the end of the file.
fn read_field(file: &mut impl io::Read) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 8];
    match file.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other.map_err(failed)?,
    }
    let length = u64::from_le_bytes(length);
    let mut field = Vec::new();
    let read = file
        .by_ref()
        .take(length)
        .read_to_end(&mut field)
        .map_err(failed)?;
    if read as u64 != length {
        return Err(Error::Corrupt("checkpoint is cut short".into()));
    }
    Ok(Some(field))
}

fn failed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull => Error::NoSpace(error.into()),
        _ => Error::Failed(error.into()),
    }
}
