//! How keys are made: the only place that knows. A tag of one byte per table, then big-endian
//! numbers and raw bytes, so that the order of keys is the order of the values.

use crate::{Error, Result};
use bytes::Bytes;
use forebay_types::{Ino, MountId, Name, SessionId};
use serde::{Serialize, de::DeserializeOwned};
use std::ops::Range;

/// The version of keys and rows together; a store of a newer one is refused.
pub(crate) const FORMAT: u32 = 1;

const FORMAT_STAMP: u8 = 0x00;
const CLUSTER: u8 = 0x01;
const COUNTERS: u8 = 0x02;
const INODE: u8 = 0x10;
const EDGE: u8 = 0x11;
const MOUNT: u8 = 0x12;
const PIN: u8 = 0x13;
const ORPHAN: u8 = 0x14;
const PROBLEM: u8 = 0x15;
const PROBLEM_TOTALS: u8 = 0x16;
const PROBLEM_BEYOND: u8 = 0x17;
const SESSION: u8 = 0x18;
const OUTCOME: u8 = 0x19;
const USAGE: u8 = 0x1a;
const WARMUP: u8 = 0x1b;

/// Bytes of a tag and a 64-bit number.
const TAGGED: usize = 9;

pub(crate) fn format_stamp() -> Vec<u8> {
    vec![FORMAT_STAMP]
}

pub(crate) fn cluster() -> Vec<u8> {
    vec![CLUSTER]
}

pub(crate) fn counters() -> Vec<u8> {
    vec![COUNTERS]
}

pub(crate) fn inode(ino: Ino) -> Vec<u8> {
    tagged(INODE, ino.0, 0)
}

/// The inodes from `first` to `last`, both included.
pub(crate) fn inodes(first: Ino, last: Ino) -> Range<Vec<u8>> {
    inode(first)..after(inode(last))
}

pub(crate) fn all_inodes() -> Range<Vec<u8>> {
    table(INODE)
}

pub(crate) fn inode_of(key: &[u8]) -> Result<Ino> {
    Ok(Ino(number(key, 1)?))
}

pub(crate) fn edge(dir: Ino, name: &[u8]) -> Vec<u8> {
    let mut key = tagged(EDGE, dir.0, name.len() + 1);
    key.extend_from_slice(name);
    key
}

/// The edges of a directory with names beyond `beyond`.
pub(crate) fn edges(dir: Ino, beyond: Option<&Name>) -> Range<Vec<u8>> {
    let start = match beyond {
        None => edge(dir, b""),
        Some(name) => after(edge(dir, name.as_bytes())),
    };
    start..successor(edge(dir, b""))
}

/// The edges of a directory with names from `first` to `last`, both included.
pub(crate) fn edges_between(dir: Ino, first: &Name, last: &Name) -> Range<Vec<u8>> {
    edge(dir, first.as_bytes())..after(edge(dir, last.as_bytes()))
}

/// The name's bytes in the key of an edge.
pub(crate) fn edge_name(key: &[u8]) -> &[u8] {
    key.get(TAGGED..).unwrap_or_default()
}

/// The name in the key of an edge. A copy: sharing the key would cost another allocation.
pub(crate) fn name_of_edge(key: &[u8]) -> Result<Name> {
    let name = Bytes::copy_from_slice(edge_name(key));
    Name::new(name).map_err(|error| Error::Damaged(format!("key of an edge: {error}")))
}

pub(crate) fn mount(mount: MountId) -> Vec<u8> {
    let mut key = vec![MOUNT];
    key.extend_from_slice(&mount.0.to_be_bytes());
    key
}

pub(crate) fn mounts() -> Range<Vec<u8>> {
    table(MOUNT)
}

pub(crate) fn mount_of(key: &[u8]) -> Result<MountId> {
    let id = key
        .get(1..5)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(short)?;
    Ok(MountId(u32::from_be_bytes(id)))
}

pub(crate) fn warmup(name: &str) -> Vec<u8> {
    [&[WARMUP], name.as_bytes()].concat()
}

pub(crate) fn warmups() -> Range<Vec<u8>> {
    table(WARMUP)
}

pub(crate) fn warmup_of(key: &[u8]) -> Result<String> {
    let name = String::from_utf8(key.get(1..).unwrap_or_default().to_vec());
    name.map_err(|error| Error::Damaged(format!("key of a warm-up: {error}")))
}

pub(crate) fn pin(ino: Ino) -> Vec<u8> {
    tagged(PIN, ino.0, 0)
}

/// In the order of the time since when it is one.
pub(crate) fn orphan(since_ns: i64, ino: Ino) -> Vec<u8> {
    let mut key = tagged(ORPHAN, ordered(since_ns), 8);
    key.extend_from_slice(&ino.0.to_be_bytes());
    key
}

/// Orphans since `from_ns` or later, but before `before_ns`.
pub(crate) fn orphans(from_ns: i64, before_ns: i64) -> Range<Vec<u8>> {
    tagged(ORPHAN, ordered(from_ns), 0)..tagged(ORPHAN, ordered(before_ns), 0)
}

pub(crate) fn orphan_of(key: &[u8]) -> Result<(i64, Ino)> {
    Ok((unordered(number(key, 1)?), Ino(number(key, TAGGED)?)))
}

pub(crate) fn problem(dir: Ino, key: &[u8]) -> Vec<u8> {
    let mut row = tagged(PROBLEM, dir.0, key.len());
    row.extend_from_slice(key);
    row
}

/// The problems of one directory.
pub(crate) fn problems_in(dir: Ino) -> Range<Vec<u8>> {
    problem(dir, b"")..successor(problem(dir, b""))
}

pub(crate) fn problems() -> Range<Vec<u8>> {
    table(PROBLEM)
}

/// The under store's key in the key of a problem, without a copy.
pub(crate) fn into_problem_key(key: Vec<u8>) -> Bytes {
    let length = key.len();
    Bytes::from(key).slice(TAGGED.min(length)..)
}

pub(crate) fn problem_totals(mount: MountId) -> Vec<u8> {
    let mut key = vec![PROBLEM_TOTALS];
    key.extend_from_slice(&mount.0.to_be_bytes());
    key
}

pub(crate) fn all_problem_totals() -> Range<Vec<u8>> {
    table(PROBLEM_TOTALS)
}

pub(crate) fn usage(mount: MountId) -> Vec<u8> {
    let mut key = vec![USAGE];
    key.extend_from_slice(&mount.0.to_be_bytes());
    key
}

pub(crate) fn usages() -> Range<Vec<u8>> {
    table(USAGE)
}

pub(crate) fn problems_beyond(dir: Ino) -> Vec<u8> {
    tagged(PROBLEM_BEYOND, dir.0, 0)
}

pub(crate) fn session(session: SessionId) -> Vec<u8> {
    tagged(SESSION, session.0, 0)
}

pub(crate) fn sessions() -> Range<Vec<u8>> {
    table(SESSION)
}

pub(crate) fn session_of(key: &[u8]) -> Result<SessionId> {
    Ok(SessionId(number(key, 1)?))
}

pub(crate) fn outcome(session: SessionId, sequence: u64) -> Vec<u8> {
    let mut key = tagged(OUTCOME, session.0, 8);
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

/// The outcomes of a session.
pub(crate) fn outcomes(session: SessionId) -> Range<Vec<u8>> {
    let start = tagged(OUTCOME, session.0, 0);
    start.clone()..successor(start)
}

pub(crate) fn sequence_of(key: &[u8]) -> Result<u64> {
    number(key, TAGGED)
}

/// A row from the first of its bytes, and the rest of them.
pub(crate) fn decode_first<'a, T: DeserializeOwned>(
    bytes: &'a [u8],
    what: &str,
) -> Result<(T, &'a [u8])> {
    postcard::take_from_bytes(bytes).map_err(|error| Error::Damaged(format!("{what}: {error}")))
}

/// A row's bytes.
pub(crate) fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    postcard::to_allocvec(row).expect("rows hold nothing that postcard cannot write")
}

/// A row from its bytes; `what` is for the message.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    postcard::from_bytes(bytes).map_err(|error| Error::Damaged(format!("{what}: {error}")))
}

fn tagged(tag: u8, number: u64, more: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(TAGGED + more);
    key.push(tag);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn table(tag: u8) -> Range<Vec<u8>> {
    vec![tag]..vec![tag + 1]
}

/// The very next key.
fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// The first key that does not begin with `prefix`.
fn successor(mut prefix: Vec<u8>) -> Vec<u8> {
    while prefix.pop_if(|last| *last == 0xff).is_some() {}
    *prefix.last_mut().expect("a tag is never 0xff") += 1;
    prefix
}

/// Signed numbers in the order of unsigned ones.
fn ordered(time_ns: i64) -> u64 {
    time_ns as u64 ^ (1 << 63)
}

fn unordered(time: u64) -> i64 {
    (time ^ (1 << 63)) as i64
}

fn number(key: &[u8], at: usize) -> Result<u64> {
    let bytes = key
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(short)?;
    Ok(u64::from_be_bytes(bytes))
}

fn short() -> Error {
    Error::Damaged("a key is too short".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.to_owned()).unwrap()
    }

    #[test]
    fn keys_read_back_in_the_order_of_their_values() {
        assert_eq!(inode_of(&inode(Ino(77))).unwrap(), Ino(77));
        assert!(inode(Ino(255)) < inode(Ino(256)));
        assert_eq!(name_of_edge(&edge(Ino(3), b"file")).unwrap(), name("file"));
        assert!(name_of_edge(&edge(Ino(3), b"")).is_err());
        assert!(name_of_edge(&[EDGE]).is_err());
        assert_eq!(orphan_of(&orphan(-5, Ino(9))).unwrap(), (-5, Ino(9)));
        assert!(orphan(-5, Ino(9)) < orphan(0, Ino(1)));
        assert!(orphan(0, Ino(1)) < orphan(i64::MAX, Ino(0)));
        assert_eq!(mount_of(&mount(MountId(300))).unwrap(), MountId(300));
        assert_eq!(sequence_of(&outcome(SessionId(1), 300)).unwrap(), 300);
    }

    #[test]
    fn ranges_hold_their_own_rows_and_no_others() {
        let all = edges(Ino(255), None);
        assert!(all.contains(&edge(Ino(255), b"\x01")));
        assert!(all.contains(&edge(Ino(255), &[0xff; 255])));
        assert!(!all.contains(&edge(Ino(256), b"a")));
        assert!(!all.contains(&edge(Ino(254), b"a")));
        let beyond = edges(Ino(7), Some(&name("b")));
        assert!(!beyond.contains(&edge(Ino(7), b"b")));
        assert!(beyond.contains(&edge(Ino(7), b"b\x01")));
        let between = edges_between(Ino(7), &name("b"), &name("d"));
        assert!(between.contains(&edge(Ino(7), b"b")));
        assert!(between.contains(&edge(Ino(7), b"d")));
        assert!(!between.contains(&edge(Ino(7), b"da")));
        let last = edges(Ino(u64::MAX), None);
        assert!(last.contains(&edge(Ino(u64::MAX), b"x")));
        assert!(inodes(Ino(4), Ino(4)).contains(&inode(Ino(4))));
        assert!(!orphans(3, 5).contains(&orphan(5, Ino(0))));
        assert!(orphans(3, 5).contains(&orphan(3, Ino(0))));
    }
}
