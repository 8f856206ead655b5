//! The rows of the store in its key-value store.
//!
//! | key | value |
//! |---|---|
//! | `f` inode version | [`FileRow`] |
//! | `f` inode version page | CRC32C of the page, 4 bytes, big end first |
//! | `n` inode version | empty: the file is pinned |
//!
//! Numbers in keys are big-endian, so a file's pages follow its own row. A page row is written after
//! the page's bytes, in a batch with the file's row if that is not there yet.

use crate::page::PageSet;
use forebay_kv::{Batch, Durability, Error, Kv};
use forebay_types::{ContentVersion, FileId, Ino, MountId, PageIndex};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const FILE: u8 = b'f';
const PIN: u8 = b'n';

/// Above this many pages one range deletion is cheaper than a deletion for each.
const POINT_DELETES: u32 = 64;

/// What is kept of a file besides its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRow {
    pub(crate) mount: MountId,
    pub(crate) size: u64,
    /// The identity of the tier that the file lies on.
    pub(crate) tier: u64,
}

/// One row of the scan at open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Row {
    File(FileId, FileRow),
    Page(FileId, PageIndex, u32),
    /// Not readable; its key.
    Unknown(Vec<u8>),
}

/// The index.
pub(crate) struct Index {
    kv: Arc<dyn Kv>,
}

fn key(kind: u8, id: FileId) -> Vec<u8> {
    let mut key = Vec::with_capacity(21);
    key.push(kind);
    key.extend_from_slice(&id.ino.0.to_be_bytes());
    key.extend_from_slice(&id.version.0.to_be_bytes());
    key
}

fn page_key(id: FileId, page: PageIndex) -> Vec<u8> {
    let mut key = key(FILE, id);
    key.extend_from_slice(&page.to_be_bytes());
    key
}

/// The file, and the rest of the key.
fn parse(key: &[u8]) -> Option<(FileId, &[u8])> {
    let (ino, rest) = key.get(1..)?.split_first_chunk::<8>()?;
    let (version, rest) = rest.split_first_chunk::<8>()?;
    let id = FileId {
        ino: Ino(u64::from_be_bytes(*ino)),
        version: ContentVersion(u64::from_be_bytes(*version)),
    };
    Some((id, rest))
}

fn parse_row(key: &[u8], value: &[u8]) -> Option<Row> {
    let (id, rest) = parse(key)?;
    if rest.is_empty() {
        return Some(Row::File(id, postcard::from_bytes(value).ok()?));
    }
    let page = PageIndex::from_be_bytes(rest.try_into().ok()?);
    Some(Row::Page(
        id,
        page,
        u32::from_be_bytes(value.try_into().ok()?),
    ))
}

impl Index {
    pub(crate) fn new(kv: Arc<dyn Kv>) -> Index {
        Index { kv }
    }

    /// The key of a file's row.
    pub(crate) fn file_key(id: FileId) -> Vec<u8> {
        key(FILE, id)
    }

    /// The key of a page's row.
    pub(crate) fn page_key(id: FileId, page: PageIndex) -> Vec<u8> {
        page_key(id, page)
    }

    /// Applies changes; they survive the death of the process.
    pub(crate) fn write(&self, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        self.kv.write(batch, Durability::Logged)
    }

    pub(crate) fn put_file(batch: &mut Batch, id: FileId, row: FileRow) {
        let value = postcard::to_stdvec(&row).expect("plain numbers serialise");
        batch.put(key(FILE, id), value);
    }

    pub(crate) fn put_page(batch: &mut Batch, id: FileId, page: PageIndex, crc: u32) {
        batch.put(page_key(id, page), crc.to_be_bytes());
    }

    pub(crate) fn delete_page(batch: &mut Batch, id: FileId, page: PageIndex) {
        batch.delete(page_key(id, page));
    }

    pub(crate) fn put_pin(batch: &mut Batch, id: FileId) {
        batch.put(key(PIN, id), []);
    }

    pub(crate) fn delete_pin(batch: &mut Batch, id: FileId) {
        batch.delete(key(PIN, id));
    }

    /// Removes all rows of a file whose present pages are `pages`.
    pub(crate) fn delete_file(batch: &mut Batch, id: FileId, pages: &PageSet, pinned: bool) {
        if pages.count() <= POINT_DELETES {
            batch.delete(key(FILE, id));
            for page in pages.iter() {
                Index::delete_page(batch, id, page);
            }
        } else {
            let start = key(FILE, id);
            let mut end = page_key(id, PageIndex::MAX);
            end.push(0);
            batch.delete_range(start..end);
        }
        if pinned {
            Index::delete_pin(batch, id);
        }
    }

    /// The checksum of a page.
    pub(crate) fn page(&self, id: FileId, page: PageIndex) -> Result<Option<u32>, Error> {
        let value = self.kv.get(&page_key(id, page))?;
        Ok(value.and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?))))
    }

    /// Every file and page row, each file before its pages.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Result<Row, Error>> + '_ {
        self.kv.scan(&[FILE]..&[FILE + 1]).map(|pair| {
            let (key, value) = pair?;
            Ok(parse_row(&key, &value).unwrap_or(Row::Unknown(key)))
        })
    }

    /// The pinned files.
    pub(crate) fn pins(&self) -> impl Iterator<Item = Result<FileId, Error>> + '_ {
        self.kv
            .scan(&[PIN]..&[PIN + 1])
            .filter_map(|pair| match pair {
                Ok((key, _)) => parse(&key).map(|(id, _)| Ok(id)),
                Err(error) => Some(Err(error)),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_read_back_and_pages_follow_their_file() {
        let id = FileId {
            ino: Ino(7),
            version: ContentVersion(1 << 40),
        };
        let row = FileRow {
            mount: MountId(3),
            size: 1 << 33,
            tier: u64::MAX,
        };
        let mut batch = Batch::default();
        Index::put_file(&mut batch, id, row);
        Index::put_page(&mut batch, id, 0, 0xdead_beef);
        let mut last = Vec::new();
        let mut rows = Vec::new();
        for op in &batch.ops {
            let forebay_kv::Op::Put(key, value) = op else {
                panic!("only puts");
            };
            assert!(*key > last);
            last.clone_from(key);
            rows.extend(parse_row(key, value));
        }
        assert_eq!(rows, [Row::File(id, row), Row::Page(id, 0, 0xdead_beef)]);
    }

    #[test]
    fn damaged_rows_are_told_apart() {
        let id = FileId {
            ino: Ino(7),
            version: ContentVersion(1),
        };
        assert_eq!(parse_row(b"f123", b""), None);
        assert_eq!(parse_row(&key(FILE, id), b""), None);
        assert_eq!(parse_row(&page_key(id, 1), b"123"), None);
    }
}
