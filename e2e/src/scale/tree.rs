//! A made-up tree like that of a training set: directories of a thousand files, with names, sizes and
//! etags that are all different and do not compress better than real ones.

use forebay_meta::{UfsEntry, UfsKind};
use forebay_types::{Fingerprint, Name};

/// Entries of every directory but the root.
const FAN: u64 = 1_000;

/// Its shape: root, groups of a thousand directories, directories of a thousand files.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    files: u64,
}

impl Tree {
    /// A tree of so many files, rounded up to whole directories.
    pub fn of(files: u64) -> Tree {
        Tree {
            files: files.div_ceil(FAN).max(1) * FAN,
        }
    }

    /// Files.
    pub fn files(self) -> u64 {
        self.files
    }

    /// Directories of files.
    pub fn directories(self) -> u64 {
        self.files / FAN
    }

    /// Groups of directories.
    pub fn groups(self) -> u64 {
        self.directories().div_ceil(FAN)
    }

    /// The numbers of the directories in `group`.
    pub(super) fn directories_of(self, group: u64) -> std::ops::Range<u64> {
        group * FAN..((group + 1) * FAN).min(self.directories())
    }

    /// The numbers of the files in `directory`.
    pub(super) fn files_of(directory: u64) -> std::ops::Range<u64> {
        directory * FAN..(directory + 1) * FAN
    }

    /// Group, directory and name of a file.
    pub(super) fn place(file: u64) -> (u64, u64, Name) {
        let directory = file / FAN;
        (directory / FAN, directory, file_name(file))
    }
}

fn name(text: String) -> Name {
    Name::new(text).expect("letters, digits and dots make a name")
}

pub(super) fn group_name(group: u64) -> Name {
    name(format!("shard-{group:05}"))
}

pub(super) fn directory_name(directory: u64) -> Name {
    name(format!("n{directory:08}"))
}

fn file_name(file: u64) -> Name {
    name(format!("n{:08}_{file}.JPEG", mixed(file) % 100_000_000))
}

pub(super) fn directory_entry(name: Name) -> UfsEntry {
    UfsEntry {
        name,
        kind: UfsKind::Directory { mtime_ns: 0 },
    }
}

pub(super) fn file_entry(file: u64) -> UfsEntry {
    UfsEntry {
        name: file_name(file),
        kind: UfsKind::File {
            fingerprint: Fingerprint {
                size: 50_000 + mixed(file) % 100_000,
                mtime_ns: 0,
                etag: format!("\"{:016x}{:016x}\"", mixed(file), mixed(!file)),
            },
            mtime_ns: 1_000_000_000 * (1_700_000_000 + (mixed(file) % 10_000_000) as i64),
        },
    }
}

/// Spreads over 64 bits (SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", 2014).
pub(super) fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_its_place() {
        let tree = Tree::of(1_500_001);
        assert_eq!(
            (tree.files(), tree.directories(), tree.groups()),
            (1_501_000, 1_501, 2)
        );
        assert_eq!(tree.directories_of(1), 1_000..1_501);
        let (group, directory, name) = Tree::place(1_234_567);
        assert_eq!((group, directory), (1, 1_234));
        assert!(tree.directories_of(group).contains(&directory));
        assert!(Tree::files_of(directory).contains(&1_234_567));
        assert_eq!(file_entry(1_234_567).name, name);
    }
}
