//! The plan of a parallel listing: which requests to send, and what their answers mean. Pure.
//!
//! A *span* is the part `(after, end]` of the ordered entries that one chain of pages is working
//! through; an entry is a key, or a prefix that many keys share. It begins as one span over
//! everything. A cut is asked for as a request that starts in the middle of a span, and takes
//! effect only when the answer is there. At any time what has been given out and the spans
//! together are everything, and no two of them overlap: that is why each entry is given out
//! exactly once, whatever cuts are chosen.

use super::{
    split::{Cut, Sample},
    xml::Page,
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Pages of the first chain before it is cut: small directories pay for no cuts.
const WARM: u64 = 2;
/// Most pages to wait after a cut that was in vain.
const PATIENCE: u32 = 3;
/// Pages without progress after which a listing is given up.
const BARREN: u32 = 1000;

/// Names a request to the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticket {
    /// The next page of a span.
    Next(u64),
    /// The first page of what shall be cut off a span.
    Cut(u64),
}

/// A request to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) ticket: Ticket,
    /// The page before this one ended here.
    pub(crate) token: Option<String>,
    /// Without a token: only what comes after this.
    pub(crate) start_after: Option<Bytes>,
}

/// The store breaks the rules of listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("entries out of order")]
    Order,
    #[error("pages without end that hold nothing new")]
    Barren,
}

struct Span {
    /// What has been given out ends here; `None`: nothing yet, from the beginning.
    after: Option<Bytes>,
    /// The last entry that may belong here; `None`: the end of all.
    end: Option<Bytes>,
    token: Option<String>,
    /// The last entry of the chain's pages, whether it was given out or not.
    seen: Option<Bytes>,
    /// A page is under way.
    busy: bool,
    /// A cut is under way.
    cutting: Option<Cut>,
    sample: Option<Sample>,
    /// Depth at which the cut that this span comes from has found keys to part.
    siblings: Option<usize>,
    /// Cuts that cost a page and found nothing.
    futile: u32,
    /// Pages to wait until the next cut.
    wait: u32,
    barren: u32,
}

impl Span {
    fn complete(&self) -> bool {
        matches!((&self.after, &self.end), (Some(after), Some(end)) if after >= end)
    }
}

/// The state of one listing.
pub(crate) struct Plan {
    /// Bytes of the prefix that is listed.
    prefix: usize,
    /// Most requests at a time.
    most: usize,
    spans: BTreeMap<u64, Span>,
    next: u64,
    pages: u64,
    /// No cuts: the store's order or its `start-after` cannot be relied on.
    sequential: bool,
    /// A cut has taken effect.
    cut: bool,
}

impl Plan {
    /// A listing of a prefix of `prefix` bytes with at most `most` requests at a time.
    pub(crate) fn new(prefix: usize, most: usize) -> Plan {
        let all = Span {
            after: None,
            end: None,
            token: None,
            seen: None,
            busy: false,
            cutting: None,
            sample: None,
            siblings: None,
            futile: 0,
            wait: 0,
            barren: 0,
        };
        Plan {
            prefix,
            most,
            spans: BTreeMap::from([(0, all)]),
            next: 1,
            pages: 0,
            sequential: most < 2,
            cut: false,
        }
    }

    /// Whether everything has been given out. Answers that are still under way do not matter.
    pub(crate) fn finished(&self) -> bool {
        self.spans.is_empty()
    }

    /// The next request to send now, if any.
    pub(crate) fn ask(&mut self) -> Option<Ask> {
        if let Some((id, span)) = self.spans.iter_mut().find(|(_, span)| !span.busy) {
            span.busy = true;
            let token = span.token.clone();
            let start_after = if token.is_none() {
                span.after.clone()
            } else {
                None
            };
            return Some(Ask {
                ticket: Ticket::Next(*id),
                token,
                start_after,
            });
        }
        let under_way =
            self.spans.len() + self.spans.values().filter(|s| s.cutting.is_some()).count();
        if self.sequential || self.pages < WARM || under_way >= self.most {
            return None;
        }
        let ready = |span: &Span| span.cutting.is_none() && span.wait == 0;
        let candidates = self.spans.iter().filter(|(_, span)| ready(span));
        let cuts = candidates.filter_map(|(id, span)| {
            let cut = span
                .sample
                .as_ref()?
                .cut(self.prefix, span.end.as_ref(), span.siblings)?;
            Some((*id, cut))
        });
        let (id, cut) = cuts.max_by_key(|(_, cut)| cut.gain)?;
        let at = cut.at.clone();
        self.spans.get_mut(&id)?.cutting = Some(cut);
        Some(Ask {
            ticket: Ticket::Cut(id),
            token: None,
            start_after: Some(at),
        })
    }

    /// Takes the answer to a request; returns what of it is to be given out.
    pub(crate) fn answer(&mut self, ticket: Ticket, page: Page) -> Result<Page, Broken> {
        self.pages += 1;
        match ticket {
            Ticket::Next(id) => self.continued(id, page),
            Ticket::Cut(id) => self.cut_off(id, page),
        }
    }

    /// The store has refused a cut: it shall get no more of them.
    pub(crate) fn refused(&mut self, ticket: Ticket) {
        self.sequential = true;
        if let Ticket::Cut(id) = ticket
            && let Some(span) = self.spans.get_mut(&id)
        {
            span.cutting = None;
        }
    }

    fn continued(&mut self, id: u64, mut page: Page) -> Result<Page, Broken> {
        let Some(span) = self.spans.get_mut(&id) else {
            return Ok(Page::default());
        };
        span.busy = false;
        span.wait = span.wait.saturating_sub(1);
        let before = std::mem::replace(&mut span.token, page.next.take());
        let truncated = span.token.is_some();
        if truncated && span.token == before {
            return Err(Broken::Barren);
        }
        if !ordered(&page) || behind(&page, span.seen.as_ref()) {
            // As long as nothing has been cut, any order is good enough.
            if self.cut {
                return Err(Broken::Order);
            }
            self.sequential = true;
        }
        if self.sequential && !self.cut {
            span.barren = if is_empty(&page) { span.barren + 1 } else { 0 };
            if span.barren > BARREN {
                return Err(Broken::Barren);
            }
            if !truncated {
                self.spans.remove(&id);
            }
            return Ok(page);
        }
        span.seen = last(&page).cloned().or(span.seen.take());
        let beyond = span.end.is_some() && last(&page) >= span.end.as_ref();
        clip(&mut page, span.after.as_ref(), span.end.as_ref());
        let fresh = last(&page).cloned();
        span.barren = if fresh.is_none() { span.barren + 1 } else { 0 };
        span.sample = fresh
            .as_ref()
            .and_then(|last| Sample::new(entries(&page), last));
        span.after = fresh.or(span.after.take());
        if span.barren > BARREN {
            return Err(Broken::Barren);
        }
        if !truncated || beyond || span.complete() {
            self.spans.remove(&id);
        }
        Ok(page)
    }

    fn cut_off(&mut self, id: u64, mut page: Page) -> Result<Page, Broken> {
        // A span that is complete by now has given out all that this page could hold.
        let Some(span) = self.spans.get_mut(&id) else {
            return Ok(Page::default());
        };
        let Some(Cut { at, depth, .. }) = span.cutting.take() else {
            return Ok(Page::default());
        };
        if self.sequential {
            return Ok(Page::default());
        }
        // A prefix that the cut goes through may come again; anything else shows that the store
        // does not know start-after.
        let foreign = page.objects.iter().any(|o| o.key <= at)
            || page.prefixes.iter().any(|p| *p <= at && !at.starts_with(p));
        if foreign {
            self.sequential = true;
            return Ok(Page::default());
        }
        if !ordered(&page) {
            return Err(Broken::Order);
        }
        // The span has gone on in the meantime, maybe past the cut.
        let from = Some(at).max(span.after.clone());
        let end = std::mem::replace(&mut span.end, from.clone());
        let beyond = end.is_some() && last(&page) >= end.as_ref();
        let token = page.next.take();
        let seen = last(&page).cloned();
        clip(&mut page, from.as_ref(), end.as_ref());
        let last = last(&page).cloned();
        // Where the keys of the second part really begin to differ from the first's.
        let parted = last.iter().zip(&span.after).map(|(one, other)| {
            let pairs = one.iter().zip(other.iter());
            pairs.take_while(|(a, b)| a == b).count()
        });
        let siblings = depth.min(parted.min().unwrap_or(depth));
        if last.is_none() && seen.is_some() {
            span.wait = span.futile.min(PATIENCE);
            span.futile += 1;
        } else if last.is_some() {
            span.futile = 0;
        }
        // A chain that is not under way and has reached its new end would never be asked again.
        if span.complete() && !span.busy {
            self.spans.remove(&id);
        }
        self.cut = true;
        if token.is_some() && !beyond {
            let sample = last
                .as_ref()
                .and_then(|last| Sample::new(entries(&page), last));
            let rest = Span {
                after: last.or(from),
                end,
                token,
                seen,
                busy: false,
                cutting: None,
                sample,
                siblings: Some(siblings),
                futile: 0,
                wait: 0,
                barren: 0,
            };
            self.spans.insert(self.next, rest);
            self.next += 1;
        }
        Ok(page)
    }
}

/// Every entry of a page: keys, then prefixes; each of the two in order.
fn entries(page: &Page) -> impl Iterator<Item = &Bytes> + Clone {
    // Merged by hand only where both kinds are there: the sample wants the first of all first.
    let mut objects = page.objects.iter().map(|o| &o.key).peekable();
    let mut prefixes = page.prefixes.iter().peekable();
    std::iter::from_fn(move || match (objects.peek(), prefixes.peek()) {
        (Some(object), Some(prefix)) if prefix < object => prefixes.next(),
        (Some(_), _) => objects.next(),
        (None, _) => prefixes.next(),
    })
}

fn last(page: &Page) -> Option<&Bytes> {
    page.objects
        .last()
        .map(|o| &o.key)
        .max(page.prefixes.last())
}

fn is_empty(page: &Page) -> bool {
    page.objects.is_empty() && page.prefixes.is_empty()
}

fn ordered(page: &Page) -> bool {
    page.objects.is_sorted_by(|a, b| a.key < b.key) && page.prefixes.is_sorted_by(|a, b| a < b)
}

/// Whether a page holds keys that should have come before. (A prefix may come again where a
/// chain began in the middle of its keys.)
fn behind(page: &Page, seen: Option<&Bytes>) -> bool {
    let first = page.objects.first().map(|o| &o.key);
    matches!((first, seen), (Some(first), Some(seen)) if first <= seen)
}

/// Cuts a page, which is in order, down to the entries in `(after, end]`.
fn clip(page: &mut Page, after: Option<&Bytes>, end: Option<&Bytes>) {
    if let Some(end) = end {
        page.objects
            .truncate(page.objects.partition_point(|o| o.key <= *end));
        page.prefixes
            .truncate(page.prefixes.partition_point(|p| p <= end));
    }
    if let Some(after) = after {
        page.objects
            .drain(..page.objects.partition_point(|o| o.key <= *after));
        page.prefixes
            .drain(..page.prefixes.partition_point(|p| p <= after));
    }
}
