//! The executor of a parallel listing: sends what the plan asks for, gives out what it returns.
//!
//! All requests run inside the stream itself: who stops reading stops the listing, who drops it
//! ends it, and no more pages are held than requests may run at a time.

use super::{
    plan::{Ask, Broken, Plan, Ticket},
    xml::Page,
};
use crate::{Error, Result};
use bytes::Bytes;
use forebay_types::Code;
use futures::{
    FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream, stream::FuturesUnordered,
};
use std::sync::Arc;

/// What answers list requests of one prefix.
pub(crate) trait Pages: Send + Sync + 'static {
    /// The page that `token` names, or else the first page of what comes after `start_after`.
    fn page(
        self: Arc<Self>,
        token: Option<String>,
        start_after: Option<Bytes>,
    ) -> BoxFuture<'static, Result<Page>>;
}

struct Listing<P> {
    pages: Arc<P>,
    plan: Plan,
    under_way: FuturesUnordered<BoxFuture<'static, (Ticket, Result<Page>)>>,
    what: String,
}

/// Lists everything that `pages` has below a prefix of `prefix` bytes, with at most `most`
/// requests at a time. `what` names it in errors. Empty pieces are left out.
pub(crate) fn list<P: Pages>(
    pages: Arc<P>,
    prefix: usize,
    most: usize,
    what: String,
) -> impl Stream<Item = Result<Page>> {
    let listing = Listing {
        pages,
        plan: Plan::new(prefix, most),
        under_way: FuturesUnordered::new(),
        what,
    };
    stream::try_unfold(listing, |mut listing| async move {
        let page = listing.piece().await?;
        Ok(page.map(|page| (page, listing)))
    })
}

impl<P: Pages> Listing<P> {
    async fn piece(&mut self) -> Result<Option<Page>> {
        while !self.plan.finished() {
            while let Some(Ask {
                ticket,
                token,
                start_after,
            }) = self.plan.ask()
            {
                let page = self.pages.clone().page(token, start_after);
                self.under_way
                    .push(page.map(move |answer| (ticket, answer)).boxed());
            }
            let Some((ticket, answer)) = self.under_way.next().await else {
                return Err(self.broken("the plan has no request left"));
            };
            match answer {
                Ok(page) => {
                    let page = self.plan.answer(ticket, page);
                    let page = page.map_err(|broken: Broken| self.broken(broken))?;
                    if !page.objects.is_empty() || !page.prefixes.is_empty() {
                        return Ok(Some(page));
                    }
                }
                Err(error) if refusal(ticket, &error) => {
                    tracing::info!(listing = %self.what, %error, "the store does not start in the middle: listing page by page");
                    self.plan.refused(ticket);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn broken(&self, why: impl std::fmt::Display) -> Error {
        Error::new(
            Code::Internal,
            format!("cannot list {}: the store sends {why}", self.what),
        )
    }
}

/// Whether the store does not know how to start in the middle.
fn refusal(ticket: Ticket, error: &Error) -> bool {
    let code = error.code();
    matches!(ticket, Ticket::Cut(_)) && matches!(code, Code::InvalidArgument | Code::Unsupported)
}

#[cfg(test)]
#[path = "list_test.rs"]
mod tests;
