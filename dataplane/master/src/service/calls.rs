//! A stream of calls: many in a message, answered in any order, without a task or a hand-over for
//! any of them.
//!
//! The stream of answers does all the work when it is polled: takes in calls while not too many
//! are in flight, answers what needs no waiting, and sends together what is ready. It is polled
//! only when the client takes answers, so a client that does not is not served further.

use super::{
    change::{answer, change},
    metadata::{bad_name, millis},
    source::Source,
};
use crate::{
    error::{Error, Result},
    metrics::Metrics,
    namespace::{Namespace, Resolved},
    proposer::Proposer,
};
use forebay_proto::{
    convert::refusal,
    v1::{self, answer::What as Told, call::What as Asked},
};
use forebay_types::{Attr, Code, Ino, Name};
use futures::{FutureExt, Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tonic::{Status, Streaming};

/// Calls in flight at which no more are taken in.
const MOST_CALLS: usize = 8_192;

/// A question with its call's id.
type Question = (u32, Asked);

/// Serves one stream.
pub(super) struct Calls {
    /// None once the client has said all.
    incoming: Option<Streaming<v1::CallBatch>>,
    source: Source,
    proposer: Arc<Proposer>,
    metrics: Arc<Metrics>,
    in_flight: usize,
    /// Questions that wait until what was acknowledged before them is applied here.
    early: FuturesUnordered<BoxFuture<'static, (Result<Namespace>, Vec<Question>)>>,
    /// Questions that wait for an under store.
    slow: FuturesUnordered<BoxFuture<'static, v1::Answer>>,
    /// Changes, those of a message together.
    changes: FuturesUnordered<BoxFuture<'static, Vec<v1::Answer>>>,
}

impl Calls {
    pub(super) fn new(
        incoming: Streaming<v1::CallBatch>,
        source: Source,
        proposer: Arc<Proposer>,
        metrics: Arc<Metrics>,
    ) -> Calls {
        Calls {
            incoming: Some(incoming),
            source,
            proposer,
            metrics,
            in_flight: 0,
            early: FuturesUnordered::new(),
            slow: FuturesUnordered::new(),
            changes: FuturesUnordered::new(),
        }
    }

    /// Begins all calls of a message.
    fn take_in(&mut self, calls: Vec<v1::Call>, answers: &mut Vec<v1::Answer>) {
        self.in_flight += calls.len();
        let mut questions = Vec::new();
        let (mut ids, mut changes) = (Vec::new(), Vec::new());
        for call in calls {
            let Some(what) = call.what else {
                let error = Error::new(Code::Unsupported, "a call that this master does not know");
                answers.push(told(call.id, Err(error)));
                continue;
            };
            self.metrics.call(method(&what));
            if is_question(&what) {
                questions.push((call.id, what));
                continue;
            }
            match change(call.request, what) {
                Ok(change) => {
                    ids.push(call.id);
                    changes.push(change);
                }
                Err(error) => answers.push(told(call.id, Err(error))),
            }
        }
        if !questions.is_empty() {
            let source = self.source.clone();
            let mut ready = async move { source.ready().await }.boxed();
            match (&mut ready).now_or_never() {
                Some(tree) => self.answer(&tree, questions, answers),
                None => self.early.push(ready.map(|tree| (tree, questions)).boxed()),
            }
        }
        if !changes.is_empty() {
            let proposer = self.proposer.clone();
            let outcomes = async move {
                let replies = proposer.propose_all(changes).await;
                let told = |(at, id): (usize, u32)| match &replies {
                    Ok(replies) => {
                        let lost = || Error::new(Code::Internal, "a change without an outcome");
                        let reply = replies.get(at).cloned().ok_or_else(lost);
                        told(id, reply.and_then(answer))
                    }
                    Err(error) => told(id, Err(error.clone())),
                };
                ids.into_iter().enumerate().map(told).collect()
            };
            self.changes.push(outcomes.boxed());
        }
    }

    /// Answers questions that have waited long enough.
    fn answer(
        &mut self,
        tree: &Result<Namespace>,
        questions: Vec<Question>,
        answers: &mut Vec<v1::Answer>,
    ) {
        for (id, what) in questions {
            let tree = match tree {
                Ok(tree) => tree,
                Err(error) => {
                    answers.push(told(id, Err(error.clone())));
                    continue;
                }
            };
            match at_once(tree, &what) {
                Ok(Some(what)) => answers.push(told(id, Ok(what))),
                Err(error) => answers.push(told(id, Err(error))),
                Ok(None) => {
                    let tree = tree.clone();
                    let mut answer = async move { told(id, later(&tree, what).await) }.boxed();
                    match (&mut answer).now_or_never() {
                        Some(answer) => answers.push(answer),
                        None => self.slow.push(answer),
                    }
                }
            }
        }
    }
}

impl Stream for Calls {
    type Item = std::result::Result<v1::AnswerBatch, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut answers = Vec::new();
        let mut taken_in = true;
        while taken_in && answers.is_empty() {
            taken_in = false;
            if this.in_flight < MOST_CALLS
                && let Some(incoming) = &mut this.incoming
                && let Poll::Ready(message) = incoming.poll_next_unpin(context)
            {
                match message {
                    Some(Ok(batch)) => {
                        this.take_in(batch.calls, &mut answers);
                        taken_in = true;
                    }
                    // Nobody is left to answer.
                    Some(Err(_)) => return Poll::Ready(None),
                    None => this.incoming = None,
                }
            }
            while let Poll::Ready(Some((tree, questions))) = this.early.poll_next_unpin(context) {
                this.answer(&tree, questions, &mut answers);
            }
            while let Poll::Ready(Some(answer)) = this.slow.poll_next_unpin(context) {
                answers.push(answer);
            }
            while let Poll::Ready(Some(told)) = this.changes.poll_next_unpin(context) {
                answers.extend(told);
            }
        }
        if !answers.is_empty() {
            this.in_flight -= answers.len();
            return Poll::Ready(Some(Ok(v1::AnswerBatch { answers })));
        }
        if this.incoming.is_none() && this.in_flight == 0 {
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

fn told(id: u32, answer: Result<Told>) -> v1::Answer {
    let what = answer.unwrap_or_else(|error| Told::Refusal(refusal(&error.into())));
    v1::Answer {
        id,
        what: Some(what),
    }
}

fn is_question(what: &Asked) -> bool {
    matches!(
        what,
        Asked::Lookup(_) | Asked::GetAttr(_) | Asked::Resolve(_) | Asked::OpenFile(_)
    )
}

fn method(what: &Asked) -> &'static str {
    match what {
        Asked::Lookup(_) => "Lookup",
        Asked::GetAttr(_) => "GetAttr",
        Asked::Resolve(_) => "Resolve",
        Asked::OpenFile(_) => "OpenFile",
        Asked::Create(_) => "Create",
        Asked::Mkdir(_) => "Mkdir",
        Asked::Rename(_) => "Rename",
        Asked::Remove(_) => "Remove",
        Asked::RemoveDir(_) => "RemoveDir",
        Asked::SetAttr(_) => "SetAttr",
    }
}

/// The answer to a question, if nothing must be waited for.
fn at_once(namespace: &Namespace, what: &Asked) -> Result<Option<Told>> {
    Ok(match what {
        Asked::Lookup(lookup) => {
            let name = Name::new(lookup.name.clone()).map_err(bad_name)?;
            let found = namespace.lookup_now(Ino(lookup.parent), &name)?;
            found.map(|(attr, lease)| looked_up(attr, lease))
        }
        Asked::GetAttr(asked) => {
            let found = namespace.attr_now(Ino(asked.ino))?;
            found.map(|(attr, lease)| attributes(attr, lease))
        }
        Asked::OpenFile(open) => Some(Told::OpenFile(namespace.file(Ino(open.ino))?.into())),
        _ => None,
    })
}

/// The answer to a question that may have to wait for an under store.
async fn later(namespace: &Namespace, what: Asked) -> Result<Told> {
    match what {
        Asked::Lookup(lookup) => {
            let name = Name::new(lookup.name).map_err(bad_name)?;
            let (attr, lease) = namespace.lookup(Ino(lookup.parent), &name).await?;
            Ok(looked_up(attr, lease))
        }
        Asked::GetAttr(asked) => {
            let (attr, lease) = namespace.attr(Ino(asked.ino)).await?;
            Ok(attributes(attr, lease))
        }
        Asked::Resolve(resolve) => {
            let Resolved { attr, parent, name } = namespace.resolve(&resolve.path).await?;
            Ok(Told::Resolve(v1::ResolveResponse {
                attr: Some(attr.into()),
                parent: parent.0,
                name: name.map(Name::into_bytes).unwrap_or_default(),
            }))
        }
        _ => Err(Error::new(Code::Internal, "a question that never waits")),
    }
}

fn looked_up(attr: Option<Attr>, lease: Duration) -> Told {
    Told::Lookup(v1::LookupResponse {
        attr: attr.map(Into::into),
        lease_ms: millis(lease),
    })
}

fn attributes(attr: Attr, lease: Duration) -> Told {
    Told::GetAttr(v1::GetAttrResponse {
        attr: Some(attr.into()),
        lease_ms: millis(lease),
    })
}
