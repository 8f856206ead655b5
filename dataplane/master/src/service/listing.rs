//! A directory on its way to a client: read one portion ahead of what the client takes.
//!
//! Portions grow. The first one is small, so that it is there soon. Names that were made by many at
//! a time lie side by side while their inodes do not: the more of them are read together, the closer
//! they are to each other in the inode table.

use super::metadata::millis;
use crate::{
    error::{Error, Result},
    namespace::{DIR_BATCH, Namespace},
};
use forebay_proto::v1;
use forebay_types::{Attr, Code, Ino, Name};
use std::{time::Duration, vec};
use tokio::{
    sync::OwnedSemaphorePermit,
    task::{JoinHandle, spawn_blocking},
};
use tonic::Status;

/// Entries of the first portion.
const FIRST: usize = 256;

/// By how much a portion is larger than the last one.
const GROWTH: usize = 4;

/// Most entries of a portion, if the listing is one of the few that may have so many in memory.
const LARGE: usize = 131_072;

type Entries = Vec<(Name, Attr)>;

/// A listing under way.
pub(super) struct Listing {
    namespace: Namespace,
    dir: Ino,
    /// Entries that the client wants beside those already asked for.
    left: u64,
    lease: Duration,
    /// Until the first message is out: the directory and its parent.
    first: Option<(Attr, Ino)>,
    /// Entries of the next portion.
    portion: usize,
    /// Leave for large portions.
    large: Option<OwnedSemaphorePermit>,
    ready: vec::IntoIter<(Name, Attr)>,
    /// The next portion, with how many entries were asked for.
    ahead: Option<(usize, JoinHandle<forebay_meta::Result<Entries>>)>,
}

impl Listing {
    /// Begins a listing of the names after a name, at most `limit` of them.
    pub(super) async fn open(
        namespace: &Namespace,
        dir: Ino,
        after: Option<Name>,
        limit: Option<u64>,
    ) -> Result<Listing> {
        let (attr, parent, lease) = namespace.open_dir(dir).await?;
        let mut listing = Listing {
            namespace: namespace.clone(),
            dir,
            left: limit.unwrap_or(u64::MAX),
            lease,
            first: Some((attr, parent)),
            portion: FIRST,
            large: None,
            ready: Vec::new().into_iter(),
            ahead: None,
        };
        listing.read_ahead(after);
        Ok(listing)
    }

    /// The next message; none after the last.
    pub(super) async fn next(
        mut self,
    ) -> std::result::Result<Option<(v1::ReadDirResponse, Listing)>, Status> {
        if self.ready.as_slice().is_empty()
            && let Some((asked, reading)) = self.ahead.take()
        {
            let stopping = |_| Error::new(Code::Unavailable, "the master is stopping");
            let entries = reading.await.map_err(stopping)?.map_err(Error::from)?;
            // A short portion is the last one.
            if entries.len() == asked {
                self.read_ahead(entries.last().map(|(name, _)| name.clone()));
            }
            self.ready = entries.into_iter();
        }
        let first = self.first.take();
        if self.ready.as_slice().is_empty() && first.is_none() {
            return Ok(None);
        }
        let entry = |(name, attr): (Name, Attr)| v1::DirEntry {
            name: name.into_bytes(),
            attr: Some(attr.into()),
        };
        let response = v1::ReadDirResponse {
            entries: self.ready.by_ref().take(DIR_BATCH).map(entry).collect(),
            lease_ms: millis(self.lease),
            directory: first.map(|(attr, _)| attr.into()),
            parent: first.map_or(0, |(_, parent)| parent.0),
        };
        Ok(Some((response, self)))
    }

    /// Begins to read the portion after a name, if the client wants any more.
    fn read_ahead(&mut self, after: Option<Name>) {
        let limit = self.left.min(self.portion as u64) as usize;
        if limit == 0 {
            return;
        }
        self.left -= limit as u64;
        let (meta, dir) = (self.namespace.meta().clone(), self.dir);
        let reading = spawn_blocking(move || meta.read_dir(dir, after.as_ref(), limit));
        self.ahead = Some((limit, reading));
        self.grow();
    }

    fn grow(&mut self) {
        let wanted = (self.portion * GROWTH).min(LARGE);
        if wanted > DIR_BATCH && self.large.is_none() {
            self.large = self.namespace.large_listing();
        }
        self.portion = match self.large {
            Some(_) => wanted,
            None => wanted.min(DIR_BATCH),
        };
    }
}
