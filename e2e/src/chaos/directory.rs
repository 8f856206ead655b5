//! A directory as it must be: what a change of it comes to, and what is then there.

use super::change::{Change, Slot};
use forebay_types::{Code, FileKind, Ino};
use std::collections::BTreeMap;

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) ino: Ino,
    pub(super) kind: FileKind,
}

/// Names, and what they lead to. Directories in it stay empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory(BTreeMap<Slot, Entry>);

impl Directory {
    pub(super) fn get(&self, slot: Slot) -> Option<Entry> {
        self.0.get(&slot).copied()
    }

    /// What a change must come to.
    pub(super) fn expect(&self, change: Change) -> Result<(), Code> {
        match change {
            Change::Make(_, slot) => match self.get(slot) {
                Some(_) => Err(Code::AlreadyExists),
                None => Ok(()),
            },
            Change::Remove(kind, slot) => {
                let entry = self.get(slot).ok_or(Code::NotFound)?;
                alike(kind, entry.kind)
            }
            Change::Rename {
                from,
                to,
                no_replace,
            } => {
                let moved = self.get(from).ok_or(Code::NotFound)?;
                match self.get(to) {
                    None => Ok(()),
                    Some(_) if no_replace => Err(Code::AlreadyExists),
                    Some(replaced) => alike(moved.kind, replaced.kind),
                }
            }
        }
    }

    /// Makes an expected change; `made` is the inode that came of it.
    pub(super) fn make(&mut self, change: Change, made: Option<Ino>) {
        match change {
            Change::Make(kind, slot) => {
                let ino = made.unwrap_or(Ino(0));
                self.0.insert(slot, Entry { ino, kind });
            }
            Change::Remove(_, slot) => self.forget(slot),
            Change::Rename { from, to, .. } => {
                if let Some(moved) = self.0.remove(&from) {
                    self.0.insert(to, moved);
                }
            }
        }
    }

    /// Knows nothing of this name any more.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.0.remove(&slot);
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (Slot, Entry)> {
        self.0.iter().map(|(slot, entry)| (*slot, *entry))
    }
}

fn alike(wanted: FileKind, found: FileKind) -> Result<(), Code> {
    match (wanted, found) {
        (FileKind::File, FileKind::Directory) => Err(Code::IsDirectory),
        (FileKind::Directory, FileKind::File) => Err(Code::NotDirectory),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_to_what_a_file_system_says() {
        let file = |n| Change::Make(FileKind::File, Slot(n));
        let rename = |from, to, no_replace| Change::Rename {
            from: Slot(from),
            to: Slot(to),
            no_replace,
        };
        let mut directory = Directory::default();
        directory.make(file(0), Some(Ino(10)));
        directory.make(file(1), Some(Ino(11)));
        directory.make(Change::Make(FileKind::Directory, Slot(2)), Some(Ino(12)));
        for (change, expected) in [
            (file(0), Err(Code::AlreadyExists)),
            (file(3), Ok(())),
            (rename(3, 0, false), Err(Code::NotFound)),
            (rename(0, 1, true), Err(Code::AlreadyExists)),
            (rename(0, 2, false), Err(Code::IsDirectory)),
            (rename(2, 0, false), Err(Code::NotDirectory)),
            (
                Change::Remove(FileKind::File, Slot(2)),
                Err(Code::IsDirectory),
            ),
            (
                Change::Remove(FileKind::Directory, Slot(0)),
                Err(Code::NotDirectory),
            ),
            (rename(0, 1, false), Ok(())),
        ] {
            assert_eq!(directory.expect(change), expected, "{change}");
        }
        directory.make(rename(0, 1, false), None);
        assert_eq!(directory.get(Slot(0)), None);
        assert_eq!(directory.get(Slot(1)).map(|entry| entry.ino), Some(Ino(10)));
    }
}
