//! Directories of real files, shown as buckets.

use super::{
    After, Backend, Content, Found, Listing, Meta, Missing, Query,
    listing::{Sorted, page},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    ops::Bound,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

/// Most walks of a tree that are remembered.
const WALKS: usize = 8;

/// Directories of real files, shown as buckets, read-only.
///
/// Regular files whose names are UTF-8 are objects; links and everything else are not there. The
/// etag is made of modification time, size and inode, so a file that is replaced (written
/// elsewhere, then renamed over the old one) behaves as an overwritten object; one that is
/// changed in place does not. A listing up to the next `/` reads the directory in question and
/// nothing else. Any other listing walks the tree once when it begins and goes on from that walk.
#[derive(Debug)]
pub struct Directory {
    buckets: BTreeMap<String, PathBuf>,
    walks: Mutex<Vec<Arc<Walk>>>,
}

/// One directory or tree as it was when a listing began.
#[derive(Debug)]
struct Walk {
    root: PathBuf,
    /// Sorted by key: of the bucket, slashes included.
    keys: Vec<(String, Entry)>,
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    File {
        size: u64,
        mtime: SystemTime,
        ino: u64,
    },
    /// Not walked; its key ends in `/`.
    Directory,
}

impl Sorted for Walk {
    type Value = Entry;

    fn from(&self, bound: Bound<&str>) -> Box<dyn Iterator<Item = (&str, &Entry)> + '_> {
        let first = self.keys.partition_point(|(key, _)| match bound {
            Bound::Included(from) => key.as_str() < from,
            Bound::Excluded(from) => key.as_str() <= from,
            Bound::Unbounded => false,
        });
        Box::new(
            self.keys[first..]
                .iter()
                .map(|(key, entry)| (key.as_str(), entry)),
        )
    }
}

impl Entry {
    fn file(metadata: &Metadata) -> Entry {
        Entry::File {
            size: metadata.len(),
            mtime: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            ino: metadata.ino(),
        }
    }

    fn meta(&self) -> Meta {
        match *self {
            Entry::File { size, mtime, ino } => {
                let age = mtime
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                Meta {
                    size,
                    mtime,
                    etag: format!("{:x}-{size:x}-{ino:x}", age.as_nanos()),
                }
            }
            // Rolled up into a common prefix before anyone asks.
            Entry::Directory => Meta {
                size: 0,
                mtime: SystemTime::UNIX_EPOCH,
                etag: String::new(),
            },
        }
    }
}

impl Directory {
    /// Shows each directory as a bucket of the name beside it.
    pub fn new<P: Into<PathBuf>>(buckets: impl IntoIterator<Item = (String, P)>) -> Directory {
        Directory {
            buckets: buckets
                .into_iter()
                .map(|(name, path)| (name, path.into()))
                .collect(),
            walks: Mutex::new(Vec::new()),
        }
    }

    fn root(&self, bucket: &str) -> Result<&Path, Missing> {
        let root = self.buckets.get(bucket).ok_or(Missing::Bucket)?;
        Ok(root)
    }

    fn path(&self, bucket: &str, key: &str) -> Result<PathBuf, Missing> {
        let root = self.root(bucket)?;
        if key.split('/').any(|name| matches!(name, "" | "." | "..")) || key.contains('\0') {
            return Err(Missing::Key);
        }
        Ok(root.join(key))
    }

    /// The tree below `root`, walked now if the listing begins, else as its beginning saw it.
    fn tree(&self, root: PathBuf, directory: &str, begins: bool) -> Arc<Walk> {
        if !begins && let Some(walk) = self.walks.lock().iter().find(|walk| walk.root == root) {
            return Arc::clone(walk);
        }
        let mut keys = Vec::new();
        walk(&root, directory, &mut keys);
        keys.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let fresh = Arc::new(Walk { root, keys });
        let mut walks = self.walks.lock();
        walks.retain(|old| old.root != fresh.root);
        if walks.len() == WALKS {
            walks.remove(0);
        }
        walks.push(Arc::clone(&fresh));
        fresh
    }
}

impl Backend for Directory {
    fn blocks(&self) -> bool {
        true
    }

    fn buckets(&self) -> Vec<String> {
        self.buckets.keys().cloned().collect()
    }

    fn head(&self, bucket: &str, key: &str) -> Result<Meta, Missing> {
        let metadata = fs::symlink_metadata(self.path(bucket, key)?).map_err(|_| Missing::Key)?;
        if !metadata.is_file() {
            return Err(Missing::Key);
        }
        Ok(Entry::file(&metadata).meta())
    }

    fn open(&self, bucket: &str, key: &str) -> Result<Found, Missing> {
        let file = File::open(self.path(bucket, key)?).map_err(|_| Missing::Key)?;
        let metadata = file.metadata().map_err(|_| Missing::Key)?;
        if !metadata.is_file() {
            return Err(Missing::Key);
        }
        let meta = Entry::file(&metadata).meta();
        let content = Content::File {
            file: Arc::new(file),
            size: meta.size,
        };
        Ok(Found { meta, content })
    }

    fn list(&self, bucket: &str, query: &Query) -> Result<Listing, Missing> {
        let bucket = self.root(bucket)?;
        // The directory that holds everything with this prefix.
        let directory = &query.prefix[..query.prefix.rfind('/').map_or(0, |at| at + 1)];
        let names = directory.strip_suffix('/').unwrap_or(directory);
        if !names.is_empty() && names.split('/').any(|name| matches!(name, "" | "." | "..")) {
            return Ok(Listing::default());
        }
        let root = bucket.join(names);
        if query.delimiter.as_deref() != Some("/") {
            let walk = self.tree(root, directory, query.after.is_none());
            return Ok(page(&*walk, query, |_, entry| entry.meta()));
        }
        let after = query.after.as_ref().map(|after| match after {
            After::Key(key) | After::Prefix(key) => key.as_str(),
        });
        let mut keys = read(&root, directory);
        keys.retain(|(key, _)| {
            key.starts_with(&query.prefix) && after.is_none_or(|after| key.as_str() >= after)
        });
        keys.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        // S3 has no empty directories. Looked at only as far as the page can reach.
        let mut shown = 0;
        keys.retain(|(key, entry)| {
            let here = shown > query.limit
                || !matches!(entry, Entry::Directory)
                || holds_file(&bucket.join(key));
            shown += usize::from(here);
            here
        });
        let walk = Walk { root, keys };
        let listing = page(&walk, query, |_, entry| entry.meta());
        Ok(listing)
    }

    fn put(&self, _: &str, _: &str, _: Content) -> Result<Meta, Missing> {
        Err(Missing::ReadOnly)
    }

    fn delete(&self, _: &str, _: &str) -> Result<(), Missing> {
        Err(Missing::ReadOnly)
    }
}

/// The entries of one directory; `prefix` is its key, slash included.
fn read(directory: &Path, prefix: &str) -> Vec<(String, Entry)> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let kind = entry.file_type().ok()?;
            let name = entry.file_name();
            let name = name.to_str()?;
            if kind.is_dir() {
                Some((format!("{prefix}{name}/"), Entry::Directory))
            } else if kind.is_file() {
                let metadata = entry.metadata().ok()?;
                Some((format!("{prefix}{name}"), Entry::file(&metadata)))
            } else {
                None
            }
        })
        .collect()
}

fn walk(directory: &Path, prefix: &str, out: &mut Vec<(String, Entry)>) {
    for (key, entry) in read(directory, prefix) {
        match entry {
            Entry::File { .. } => out.push((key, entry)),
            Entry::Directory => walk(&directory.join(&key[prefix.len()..]), &key, out),
        }
    }
}

fn holds_file(directory: &Path) -> bool {
    let Ok(entries) = fs::read_dir(directory) else {
        return false;
    };
    let mut below = Vec::new();
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_file() && entry.file_name().to_str().is_some() => return true,
            Ok(kind) if kind.is_dir() => below.push(entry.path()),
            _ => {}
        }
    }
    below.iter().any(|path| holds_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_files_lists_as_a_bucket() {
        let root = tempfile::tempdir().unwrap();
        for key in ["a.txt", "a/b", "a/c/d", "z/only/deep"] {
            let path = root.path().join(key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, key).unwrap();
        }
        fs::create_dir_all(root.path().join("empty/inside")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("link")).unwrap();
        let store = Directory::new([("b".to_owned(), root.path())]);
        let list = |prefix: &str, delimiter: Option<&str>, limit| {
            let mut query = Query {
                prefix: prefix.into(),
                delimiter: delimiter.map(Into::into),
                after: None,
                limit,
            };
            let mut names = Vec::new();
            loop {
                let listing = store.list("b", &query).unwrap();
                names.extend(listing.objects.into_iter().map(|(key, _)| key));
                names.extend(listing.prefixes);
                match listing.next {
                    None => break names,
                    next => query.after = next,
                }
            }
        };
        for limit in [1, 1_000] {
            let mut top = list("", Some("/"), limit);
            top.sort();
            assert_eq!(top, ["a.txt", "a/", "z/"]);
            assert_eq!(list("a/", Some("/"), limit), ["a/b", "a/c/"]);
            assert_eq!(list("z", Some("/"), limit), ["z/"]);
            assert_eq!(
                list("", None, limit),
                ["a.txt", "a/b", "a/c/d", "z/only/deep"]
            );
            assert_eq!(list("a/c", None, limit), ["a/c/d"]);
        }
        for key in ["../b/a.txt", "a//b", "link", "a", "a/", "nothing"] {
            assert_eq!(store.head("b", key), Err(Missing::Key), "{key}");
        }
        let old = store.open("b", "a.txt").unwrap();
        fs::write(root.path().join("new"), "other").unwrap();
        fs::rename(root.path().join("new"), root.path().join("a.txt")).unwrap();
        assert_eq!(old.content.bytes(0..5).unwrap(), b"a.txt");
        assert_ne!(store.head("b", "a.txt").unwrap().etag, old.meta.etag);
        assert_eq!(store.head("c", "a.txt"), Err(Missing::Bucket));
    }
}
