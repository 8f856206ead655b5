//! Who this worker is: a number drawn once and kept in its data directory.

use anyhow::Context as _;
use forebay_types::WorkerId;
use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    path::Path,
};

const FILE: &str = "worker-id";

/// The identity kept in `dir`; drawn if there is none yet.
pub(crate) fn of(dir: &Path) -> anyhow::Result<WorkerId> {
    let path = dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let id = u64::from_str_radix(text.trim(), 16).ok();
            id.map(WorkerId).with_context(|| {
                format!(
                    "{} is damaged: remove the data directory to begin anew",
                    path.display()
                )
            })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => draw(dir, &path)
            .with_context(|| format!("cannot keep the worker's identity in {}", path.display())),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn draw(dir: &Path, path: &Path) -> std::io::Result<WorkerId> {
    let mut random = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let id = WorkerId(u64::from_le_bytes(random));
    let unfinished = path.with_extension("new");
    let mut file = File::create(&unfinished)?;
    writeln!(file, "{:016x}", id.0)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(dir)?.sync_all()?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_drawn_once() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let id = of(a.path()).unwrap();
        assert_eq!(of(a.path()).unwrap(), id);
        assert_ne!(of(b.path()).unwrap(), id);
        fs::write(a.path().join(FILE), "xyz").unwrap();
        assert!(of(a.path()).unwrap_err().to_string().contains("damaged"));
    }
}
