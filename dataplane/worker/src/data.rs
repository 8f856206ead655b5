//! Streams of a file's bytes for other nodes: from the cache, filled on the way, or past it.

use crate::{
    disk::Disk,
    engine::{Engine, step},
    fill::{Access, Part, Pattern},
    gate::Urgency,
    source::{Fetch, Reach},
};
use bytes::{Bytes, BytesMut};
use forebay_cache::Lease;
use forebay_client::{Ensured, Result};
use forebay_types::FileRef;
use futures::Stream;
use rustix::io::{ReadWriteFlags, preadv2};
use std::{
    fs::File,
    io::{self, IoSliceMut},
    ops::Range,
    os::unix::fs::FileExt,
    sync::Arc,
};

/// Bytes of a message when the file is whole.
const CHUNK: u64 = 1 << 20;
/// Bytes of a message while the file fills: small, so that bytes move on soon.
const FILLING_CHUNK: u64 = 256 << 10;

/// A run of bytes on its way to another node.
pub(crate) struct Run {
    engine: Arc<Engine>,
    file_ref: Arc<FileRef>,
    /// What is still to be sent.
    range: Range<u64>,
    access: Access,
    from: From,
}

enum From {
    /// The cache.
    Cache {
        part: Part,
        file: Arc<File>,
        _lease: Lease,
    },
    /// The sources themselves.
    Source(Box<Fetch>),
}

impl Run {
    /// The bytes `range` of a file, cut at its end.
    pub(crate) async fn new(
        engine: Arc<Engine>,
        file_ref: FileRef,
        range: Range<u64>,
        reach: Reach,
    ) -> Run {
        let file_ref = Arc::new(file_ref);
        let end = range.end.min(file_ref.size());
        let range = range.start.min(end)..end;
        let access = Access {
            pattern: Pattern::Until(end),
            reach,
            urgent: true,
        };
        let from = match engine.part(&file_ref).await {
            Ok((lease, file, part)) => From::Cache {
                part,
                file,
                _lease: lease,
            },
            Err(error) => {
                tracing::debug!(%error, "serving without the cache");
                past_the_cache(&engine, &file_ref, &range, reach)
            }
        };
        Run {
            engine,
            file_ref,
            range,
            access,
            from,
        }
    }

    /// The pieces, in order.
    pub(crate) fn pieces(self) -> impl Stream<Item = Result<Bytes>> + Send {
        futures::stream::try_unfold(self, |mut run| async move {
            Ok(run.next().await?.map(|piece| (piece, run)))
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.range.is_empty() {
            return Ok(None);
        }
        if let From::Cache { part, file, .. } = &self.from {
            let chunk = if part.file().is_whole() {
                CHUNK
            } else {
                FILLING_CHUNK
            };
            let piece = self.range.start..step(self.range.start, self.range.end, chunk);
            if part.ensure(piece.clone(), self.access).await? == Ensured::Present {
                match read(&self.engine.disk, file, piece.clone()).await {
                    Ok(bytes) => {
                        self.range.start = piece.end;
                        return Ok(Some(bytes));
                    }
                    Err(error) => {
                        tracing::warn!(file = %self.file_ref.id, %error, "cannot read a cached file");
                    }
                }
            }
            self.from =
                past_the_cache(&self.engine, &self.file_ref, &self.range, self.access.reach);
        }
        let From::Source(fetch) = &mut self.from else {
            return Ok(None);
        };
        match fetch.next().await {
            Ok(Some(piece)) => {
                self.range.start += piece.len() as u64;
                Ok(Some(piece))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(self
                .engine
                .filler
                .source_failed(&self.file_ref, error)
                .await),
        }
    }
}

fn past_the_cache(
    engine: &Arc<Engine>,
    file: &Arc<FileRef>,
    range: &Range<u64>,
    reach: Reach,
) -> From {
    engine.metrics.uncached_reads.inc();
    let urgent = Urgency::new(true);
    From::Source(Box::new(engine.sources.fetch(
        file.clone(),
        range.clone(),
        reach,
        urgent,
    )))
}

/// Reads bytes that are in the file: on the spot what memory has, the rest where it may block.
async fn read(disk: &Disk, file: &Arc<File>, range: Range<u64>) -> io::Result<Bytes> {
    let mut bytes = BytesMut::zeroed((range.end - range.start) as usize);
    let mut done = 0;
    while done < bytes.len() {
        let mut slices = [IoSliceMut::new(&mut bytes[done..])];
        match preadv2(
            file,
            &mut slices,
            range.start + done as u64,
            ReadWriteFlags::NOWAIT,
        ) {
            Ok(0) | Err(_) => break,
            Ok(n) => done += n,
        }
    }
    if done == bytes.len() {
        return Ok(bytes.freeze());
    }
    let file = file.clone();
    let rest = move || {
        file.read_exact_at(&mut bytes[done..], range.start + done as u64)?;
        Ok(bytes.freeze())
    };
    disk.blocking(rest).await
}
