//! Objects in memory.

use super::{
    Backend, Content, Found, Listing, Meta, Missing, Query,
    listing::{Sorted, page},
};
use parking_lot::RwLock;
use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

/// Objects in memory. Fast with millions of keys; an object of [`super::synthetic`] content of any
/// size takes none.
#[derive(Debug, Default)]
pub struct Memory {
    buckets: RwLock<BTreeMap<String, Bucket>>,
    versions: AtomicU64,
}

#[derive(Debug, Default)]
struct Bucket(BTreeMap<String, Object>);

#[derive(Debug)]
struct Object {
    content: Content,
    version: u64,
    mtime: SystemTime,
}

impl Object {
    fn meta(&self) -> Meta {
        Meta {
            size: self.content.size(),
            mtime: self.mtime,
            etag: format!("{:032x}", self.version),
        }
    }
}

impl Sorted for Bucket {
    type Value = Object;

    fn from(&self, bound: Bound<&str>) -> Box<dyn Iterator<Item = (&str, &Object)> + '_> {
        Box::new(
            self.0
                .range::<str, _>((bound, Bound::Unbounded))
                .map(|(key, object)| (key.as_str(), object)),
        )
    }
}

impl Memory {
    /// An empty store with empty buckets of these names.
    pub fn new(buckets: &[&str]) -> Memory {
        let buckets = buckets
            .iter()
            .map(|name| ((*name).to_owned(), Bucket::default()))
            .collect();
        Memory {
            buckets: RwLock::new(buckets),
            versions: AtomicU64::new(0),
        }
    }

    /// Removes every object whose key begins with `prefix`; tells how many there were.
    pub fn delete_all(&self, bucket: &str, prefix: &str) -> Result<u64, Missing> {
        let mut buckets = self.buckets.write();
        let Bucket(objects) = buckets.get_mut(bucket).ok_or(Missing::Bucket)?;
        let before = objects.len();
        objects.retain(|key, _| !key.starts_with(prefix));
        Ok((before - objects.len()) as u64)
    }
}

impl Backend for Memory {
    fn blocks(&self) -> bool {
        false
    }

    fn buckets(&self) -> Vec<String> {
        self.buckets.read().keys().cloned().collect()
    }

    fn head(&self, bucket: &str, key: &str) -> Result<Meta, Missing> {
        Ok(self.open(bucket, key)?.meta)
    }

    fn open(&self, bucket: &str, key: &str) -> Result<Found, Missing> {
        let buckets = self.buckets.read();
        let Bucket(objects) = buckets.get(bucket).ok_or(Missing::Bucket)?;
        let object = objects.get(key).ok_or(Missing::Key)?;
        Ok(Found {
            meta: object.meta(),
            content: object.content.clone(),
        })
    }

    fn list(&self, bucket: &str, query: &Query) -> Result<Listing, Missing> {
        let buckets = self.buckets.read();
        let objects = buckets.get(bucket).ok_or(Missing::Bucket)?;
        Ok(page(objects, query, |_, object| object.meta()))
    }

    fn put(&self, bucket: &str, key: &str, content: Content) -> Result<Meta, Missing> {
        let object = Object {
            content,
            version: self.versions.fetch_add(1, Ordering::Relaxed) + 1,
            mtime: SystemTime::now(),
        };
        let meta = object.meta();
        let mut buckets = self.buckets.write();
        let Bucket(objects) = buckets.get_mut(bucket).ok_or(Missing::Bucket)?;
        objects.insert(key.to_owned(), object);
        Ok(meta)
    }

    fn delete(&self, bucket: &str, key: &str) -> Result<(), Missing> {
        let mut buckets = self.buckets.write();
        let Bucket(objects) = buckets.get_mut(bucket).ok_or(Missing::Bucket)?;
        objects.remove(key);
        Ok(())
    }
}
