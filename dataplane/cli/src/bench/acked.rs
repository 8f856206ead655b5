//! The record of what was acknowledged, for whoever checks it afterwards.

use crate::failure::Failure;
use forebay_types::Name;
use std::{fs::File, io::Write, path::Path};

/// A file with a line for every acknowledged change; nothing of it waits in a buffer.
pub(crate) struct Acked(Option<File>);

impl Acked {
    /// Without a path nothing is recorded.
    pub(crate) fn create(path: Option<&Path>) -> Result<Acked, Failure> {
        let Some(path) = path else {
            return Ok(Acked(None));
        };
        let file = File::options().append(true).create_new(true).open(path);
        let file = file.map_err(|error| {
            let path = path.display();
            Failure::usage(format!("cannot create {path}: {error}: give a new file"))
        })?;
        Ok(Acked(Some(file)))
    }

    /// The name is there from now on.
    pub(crate) fn there(&self, dir: &str, name: &Name) -> Result<(), Failure> {
        self.write(|| format!("+{dir}/{name}\n"))
    }

    /// The name is gone.
    pub(crate) fn gone(&self, dir: &str, name: &Name) -> Result<(), Failure> {
        self.write(|| format!("-{dir}/{name}\n"))
    }

    /// The one is gone and the other there.
    pub(crate) fn renamed(&self, dir: &str, old: &Name, new: &Name) -> Result<(), Failure> {
        self.write(|| format!("-{dir}/{old}\n+{dir}/{new}\n"))
    }

    /// One write, appended whole: callers need no lock.
    fn write(&self, lines: impl Fn() -> String) -> Result<(), Failure> {
        if let Some(mut file) = self.0.as_ref() {
            let written = file.write_all(lines().as_bytes());
            written
                .map_err(|error| Failure::run(format!("cannot record what is done: {error}")))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_path_says_whether_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acked");
        let acked = Acked::create(Some(&path)).unwrap();
        let name = |text: &'static str| Name::new(text).unwrap();
        acked.there("/s", &name("a")).unwrap();
        acked.renamed("/s", &name("a"), &name("b")).unwrap();
        acked.gone("/s", &name("b")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "+/s/a\n-/s/a\n+/s/b\n-/s/b\n");
        assert!(
            Acked::create(Some(&path)).is_err(),
            "nothing is overwritten"
        );
        Acked(None).there("/s", &name("a")).unwrap();
    }
}
