//! What a backup holds.

use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The layout of a backup that this program writes and reads.
pub const FORMAT: u32 = 1;

/// The file that makes a directory a backup; written last.
pub const MANIFEST: &str = "backup.json";

/// Where the files are.
const FILES: &str = "files";

/// Bytes read at once.
const PIECE: usize = 1 << 20;

/// A moment of a cluster's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// Whose.
    pub cluster: String,
    /// Everything up to this index of the journal is in it.
    pub index: u64,
    /// The tables.
    pub files: Vec<Item>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Item {
    /// Its name among the tables.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// CRC32C of its bytes.
    pub crc32c: u32,
}

impl Item {
    /// Where it is in the backup `dir`: two files that have the same place have the same content.
    pub fn path(&self, dir: &Path) -> PathBuf {
        let Item { name, size, crc32c } = self;
        dir.join(FILES).join(format!("{crc32c:08x}-{size}-{name}"))
    }

    /// Of a file that is there.
    pub fn of(path: &Path, name: String) -> io::Result<Item> {
        let (size, crc32c) = checksum(path)?;
        Ok(Item { name, size, crc32c })
    }

    /// Whether the backup `dir` holds it, byte for byte.
    pub fn is_whole(&self, dir: &Path) -> io::Result<bool> {
        match checksum(&self.path(dir)) {
            Ok(found) => Ok(found == (self.size, self.crc32c)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Manifest {
    /// That of the backup in `dir`; `None`: there is none (yet).
    pub fn read(dir: &Path) -> anyhow::Result<Option<Manifest>> {
        let path = dir.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => anyhow::bail!("cannot read {}: {error}", path.display()),
        };
        let shown = path.display();
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| anyhow::anyhow!("{shown} is damaged: {error}: take another backup"))?;
        anyhow::ensure!(
            manifest.format <= FORMAT,
            "{shown} has format {}, this version reads up to {FORMAT}: use a newer forebay",
            manifest.format
        );
        Ok(Some(manifest))
    }

    /// Makes `dir`, whose files are all there, this backup: at once or not at all. Files of an
    /// earlier one that are no longer needed go.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let draft = dir.join("backup.json~");
        fs::write(&draft, serde_json::to_vec_pretty(self)?)?;
        fs::File::open(&draft)?.sync_all()?;
        fs::File::open(dir.join(FILES))?.sync_all()?;
        fs::rename(&draft, dir.join(MANIFEST))?;
        fs::File::open(dir)?.sync_all()?;
        let needed: Vec<_> = self.files.iter().map(|item| item.path(dir)).collect();
        for entry in fs::read_dir(dir.join(FILES))? {
            let path = entry?.path();
            if !needed.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Makes the directory for the files.
    pub fn make_dir(dir: &Path) -> anyhow::Result<()> {
        let files = dir.join(FILES);
        fs::create_dir_all(&files)
            .map_err(|error| anyhow::anyhow!("cannot make {}: {error}", files.display()))
    }
}

fn checksum(path: &Path) -> io::Result<(u64, u32)> {
    let mut file = fs::File::open(path)?;
    let mut piece = vec![0; PIECE];
    let (mut size, mut crc) = (0, 0);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((size, crc)),
            read => {
                size += read as u64;
                crc = crc32c::crc32c_append(crc, &piece[..read]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_takes_the_place_of_the_one_before_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(Manifest::read(dir).unwrap(), None);
        Manifest::make_dir(dir).unwrap();
        let put = |name: &str, text: &str| {
            let draft = dir.join("x");
            fs::write(&draft, text).unwrap();
            let item = Item::of(&draft, name.to_owned()).unwrap();
            fs::rename(&draft, item.path(dir)).unwrap();
            item
        };
        let of = |index, files| Manifest {
            format: FORMAT,
            cluster: "c".to_owned(),
            index,
            files,
        };
        let kept = put("1.sst", "kept");
        let gone = put("CURRENT", "old");
        of(1, vec![kept.clone(), gone.clone()]).write(dir).unwrap();
        let new = put("CURRENT", "new");
        let second = of(2, vec![kept.clone(), new.clone()]);
        second.write(dir).unwrap();
        assert_eq!(Manifest::read(dir).unwrap(), Some(second));
        assert!(kept.is_whole(dir).unwrap() && new.is_whole(dir).unwrap());
        assert!(!gone.is_whole(dir).unwrap());
        fs::write(new.path(dir), "bad").unwrap();
        assert!(!new.is_whole(dir).unwrap());
        let newer = Manifest {
            format: FORMAT + 1,
            ..of(3, Vec::new())
        };
        newer.write(dir).unwrap();
        let refused = Manifest::read(dir).unwrap_err().to_string();
        assert!(refused.contains("newer forebay"), "{refused}");
    }
}
