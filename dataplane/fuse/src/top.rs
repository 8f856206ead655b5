//! Which directory of the cluster's tree a mount shows.
//!
//! It is a path and no inode: an under store may be mounted anew at the path, or above it, while the mount is
//! in use, and the root of the mount is then another directory. The kernel knows it as [`Ino::ROOT`] throughout.

use crate::failure::{Failure, Result};
use forebay_client::{Leased, Namespace};
use forebay_types::{Code, Ino, Name, NameError};
use parking_lot::RwLock;
use std::{fmt, str::FromStr, time::Duration};

/// A path in the cluster's tree, and where it led to when somebody went there last.
#[derive(Debug)]
pub struct Top {
    path: Vec<Name>,
    way: RwLock<Way>,
}

/// The directories on the way, and the last one.
#[derive(Debug)]
struct Way {
    steps: Vec<(Ino, Name)>,
    end: Ino,
}

impl Default for Top {
    /// The whole tree.
    fn default() -> Top {
        Top::new(Vec::new())
    }
}

impl FromStr for Top {
    type Err = NameError;

    /// `/` or `/team-a/imagenet`; slashes that say nothing do not count.
    fn from_str(path: &str) -> std::result::Result<Top, NameError> {
        let names = path.split('/').filter(|name| !name.is_empty());
        let names = names.map(|name| Name::new(name.as_bytes().to_vec()));
        let path = names.collect::<std::result::Result<_, _>>()?;
        Ok(Top::new(path))
    }
}

impl fmt::Display for Top {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str("/");
        }
        let mut names = self.path.iter();
        names.try_for_each(|name| write!(f, "/{}", name.as_bytes().escape_ascii()))
    }
}

impl Top {
    fn new(path: Vec<Name>) -> Top {
        let way = Way {
            steps: Vec::new(),
            end: Ino::ROOT,
        };
        Top {
            path,
            way: RwLock::new(way),
        }
    }

    /// The cluster's number of what the kernel calls `ino`, and how long it stays that. Ready at the first poll when the
    /// way is cached.
    pub(crate) async fn inner(&self, namespace: &Namespace, ino: Ino) -> Result<Leased<Ino>> {
        let mut at = Leased {
            value: ino,
            valid: Duration::MAX,
        };
        if ino != Ino::ROOT || self.path.is_empty() {
            return Ok(at);
        }
        let mut steps = Vec::with_capacity(self.path.len());
        for name in &self.path {
            let found = namespace.lookup(at.value, name).await?;
            let Some(attr) = found.value else {
                let text = format!("{self} is not mounted in the cluster");
                return Err(Failure::of(Code::NotFound, text));
            };
            steps.push((at.value, name.clone()));
            at = Leased {
                value: attr.ino,
                valid: at.valid.min(found.valid),
            };
        }
        if self.way.read().end != at.value {
            *self.way.write() = Way {
                steps,
                end: at.value,
            };
        }
        Ok(at)
    }

    /// The kernel's number of what the cluster calls `ino`.
    pub(crate) fn outer(&self, ino: Ino) -> Ino {
        if ino == self.end() { Ino::ROOT } else { ino }
    }

    /// The cluster's number of the root, as it was when somebody went there last.
    pub(crate) fn end(&self) -> Ino {
        self.way.read().end
    }

    /// Whether the root is reached by this name.
    pub(crate) fn leads_through(&self, parent: Ino, name: &Name) -> bool {
        let way = self.way.read();
        way.steps
            .iter()
            .any(|(dir, step)| (*dir, step) == (parent, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_shown() {
        for (path, shown) in [("/", "/"), ("", "/"), ("/a/b", "/a/b"), ("/a//b/", "/a/b")] {
            assert_eq!(path.parse::<Top>().unwrap().to_string(), shown);
        }
        assert!("/a/../b".parse::<Top>().is_err());
    }

    #[test]
    fn the_whole_tree_is_shown_as_it_is() {
        let top = Top::default();
        assert_eq!(
            (top.outer(Ino::ROOT), top.outer(Ino(7))),
            (Ino::ROOT, Ino(7))
        );
    }
}
