//! The body of an answer as it goes out, with what faults do to it.

use super::{Content, fault::Gate, stats::Counters};
use bytes::Bytes;
use futures::{Stream, stream};
use s3s::{
    StdError,
    stream::{ByteStream, RemainingLength},
};
use std::{
    io,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// Most bytes handed to the network at once.
const PIECE: usize = 1 << 20;

/// Bytes of an object on their way to a client.
pub(super) struct Body {
    pieces: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send + Sync>>,
    remaining: u64,
}

struct State {
    content: Content,
    left: Range<u64>,
    hold: Option<(u64, Gate)>,
    cut: Option<u64>,
    counters: Arc<Counters>,
}

impl Body {
    /// The bytes `range` of `content`; `hold` and `cut` are offsets within the object.
    pub(super) fn new(
        content: Content,
        range: Range<u64>,
        hold: Option<(u64, Gate)>,
        cut: Option<u64>,
        counters: Arc<Counters>,
    ) -> Body {
        let remaining = range.end - range.start;
        let state = State {
            content,
            left: range,
            hold,
            cut,
            counters,
        };
        let pieces = stream::try_unfold(state, |mut state| async move {
            let piece = state.next().await?;
            Ok(piece.map(|piece| (piece, state)))
        });
        Body {
            pieces: Box::pin(pieces),
            remaining,
        }
    }
}

impl State {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let at = self.left.start;
        if self.cut.is_some_and(|cut| at >= cut) {
            // Once pending, so that what was handed over before leaves before the connection breaks.
            tokio::task::yield_now().await;
            return Err(io::Error::other("cut by a fault"));
        }
        if let Some((hold, gate)) = &mut self.hold
            && at >= *hold
        {
            gate.opened().await;
            self.hold = None;
        }
        let mut end = self.left.end.min(at + PIECE as u64);
        for stop in [self.cut, self.hold.as_ref().map(|(hold, _)| *hold)]
            .into_iter()
            .flatten()
        {
            end = end.min(stop.max(at + 1));
        }
        let most = (end - at) as usize;
        let piece = match &self.content {
            Content::Memory { .. } => self.content.piece(at, most)?,
            Content::File { .. } => {
                let content = self.content.clone();
                tokio::task::spawn_blocking(move || content.piece(at, most))
                    .await
                    .map_err(io::Error::other)??
            }
        };
        self.left.start += piece.len() as u64;
        self.counters.sent(piece.len());
        Ok(Some(piece))
    }
}

impl Stream for Body {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.pieces.as_mut().poll_next(cx);
        if let Poll::Ready(Some(Ok(piece))) = &next {
            self.remaining -= piece.len() as u64;
        }
        next.map_err(Into::into)
    }
}

impl ByteStream for Body {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.remaining as usize)
    }
}
