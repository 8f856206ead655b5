//! `forebay erase`: takes away what a worker has left on a disk.

use crate::{args::EraseArgs, failure::Failure, signal::StopSignals};
use std::{fs, io, path::Path};

/// What a worker makes in a directory that it was given.
const OF_WORKERS: [&str; 3] = ["cache", "worker", "worker.sock"];

/// Erases the directories, and waits if that is wanted.
pub(crate) async fn run(args: EraseArgs) -> Result<(), Failure> {
    let mut stop = StopSignals::install()?;
    for dir in &args.dirs {
        erase(dir)?;
    }
    if args.wait {
        stop.wait().await;
    }
    Ok(())
}

/// Removes a directory with what is in it, if nothing in it is anybody else's.
fn erase(dir: &Path) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::run(format!("cannot erase {}: {error}", dir.display()));
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if !OF_WORKERS.iter().any(|of_worker| name == *of_worker) {
            return Err(Failure::run(format!(
                "{} has '{}' in it, which no worker made: nothing is erased; give the directory that was given to a worker",
                dir.display(),
                name.display()
            )));
        }
    }
    fs::remove_dir_all(dir).map_err(failed)?;
    println!("erased {}", dir.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_workers_made_is_erased() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("uid");
        fs::create_dir_all(dir.join("cache/00")).unwrap();
        fs::write(dir.join("cache/00/page"), "x").unwrap();
        fs::write(dir.join("photo"), "y").unwrap();
        let refused = erase(&dir).unwrap_err().to_string();
        assert!(refused.contains("'photo'"), "{refused}");
        assert!(dir.join("cache/00/page").exists());
        fs::remove_file(dir.join("photo")).unwrap();
        erase(&dir).unwrap();
        assert!(!dir.exists());
        erase(&dir).unwrap();
    }
}
