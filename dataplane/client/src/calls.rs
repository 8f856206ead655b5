//! Many calls over one stream: all that is asked while a message is on its way goes into the next
//! one. No task and no message of its own for any call.
//!
//! The stream is opened by the first call, and again by the first one after it broke. Calls that
//! were in flight then fail with `Unavailable`; whoever repeats them makes them anew.

use crate::channel::MAX_MESSAGE;
use forebay_proto::{
    convert::{code_of, status, to_any_voter},
    v1::{self, answer::What as Told, call::What as Asked, metadata_client::MetadataClient},
};
use forebay_types::Code;
use futures::Stream;
use parking_lot::Mutex;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::sync::{Semaphore, oneshot};
use tonic::{Request, Status, transport::Channel};

/// Bytes of calls in flight, from the call to the answer; more wait.
const ROOM: u32 = 8 << 20;

/// What a call costs beside its names and paths.
const OVERHEAD: u32 = 256;

/// Most calls in one message: the master answers them in one go.
const BATCH: usize = 1_024;

/// Most bytes of one message, by what its calls cost.
const BATCH_BYTES: u32 = 1 << 20;

type Answered = Result<Told, Status>;

/// Calls over a channel; clones share the stream.
#[derive(Clone, Debug)]
pub struct Calls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    channel: Channel,
    any_voter: bool,
    room: Semaphore,
    /// The stream in use.
    link: Mutex<Option<Arc<Link>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(link) = self.link.get_mut() {
            link.close(&broken("nobody uses it any more"));
        }
    }
}

/// One stream.
#[derive(Debug, Default)]
struct Link {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// To be sent.
    calls: Vec<v1::Call>,
    /// Who waits, by the id of his call.
    waiting: Vec<Option<oneshot::Sender<Answered>>>,
    /// Ids that are not in use.
    free: Vec<u32>,
    /// Of the stream that sends.
    waker: Option<Waker>,
    /// Why no more can be sent.
    closed: Option<Status>,
}

macro_rules! questions {
    ($($(#[$doc:meta])* $name:ident, $what:ident: $request:ty => $answer:ty;)*) => {
        $($(#[$doc])*
        pub async fn $name(&self, request: $request) -> Result<$answer, Status> {
            match self.call(None, Asked::$what(request)).await? {
                Told::$what(answer) => Ok(answer),
                _ => Err(garbled()),
            }
        })*
    };
}

impl Calls {
    /// Calls to the leader over `channel`; connects when the first one is made.
    pub fn new(channel: Channel) -> Calls {
        Calls::to(channel, false)
    }

    /// Questions that the voter at the other end may answer even if it does not lead.
    pub fn to_any_voter(channel: Channel) -> Calls {
        Calls::to(channel, true)
    }

    fn to(channel: Channel, any_voter: bool) -> Calls {
        Calls {
            shared: Arc::new(Shared {
                channel,
                any_voter,
                room: Semaphore::new(ROOM as usize),
                link: Mutex::new(None),
            }),
        }
    }

    questions! {
        /// One name in a directory.
        lookup, Lookup: v1::LookupRequest => v1::LookupResponse;
        /// Attributes.
        get_attr, GetAttr: v1::GetAttrRequest => v1::GetAttrResponse;
        /// An absolute path.
        resolve, Resolve: v1::ResolveRequest => v1::ResolveResponse;
        /// What a worker needs to fetch a file.
        open_file, OpenFile: v1::OpenFileRequest => v1::FileRef;
    }

    /// Makes a change, or learns what came of it; the attributes of what it made or set.
    pub async fn change(
        &self,
        request: v1::RequestId,
        change: Asked,
    ) -> Result<Option<v1::Attr>, Status> {
        match self.call(Some(request), change).await? {
            Told::Attr(attr) => Ok(Some(attr)),
            Told::Done(_) => Ok(None),
            _ => Err(garbled()),
        }
    }

    async fn call(&self, request: Option<v1::RequestId>, what: Asked) -> Answered {
        let _room = self.shared.room.acquire_many(cost(Some(&what))).await;
        let (waiter, answer) = oneshot::channel();
        let call = v1::Call {
            id: 0,
            request,
            what: Some(what),
        };
        self.send(call, waiter);
        match answer.await {
            Ok(Ok(Told::Refusal(refusal))) => Err(refusal.into()),
            Ok(answered) => answered,
            Err(_) => Err(broken("the stream of calls has ended")),
        }
    }

    fn send(&self, call: v1::Call, waiter: oneshot::Sender<Answered>) {
        let mut current = self.shared.link.lock();
        let unsent = match &*current {
            Some(link) => link.send(call, waiter),
            None => Some((call, waiter)),
        };
        if let Some((call, waiter)) = unsent {
            let link = Arc::new(Link::default());
            let Shared {
                channel, any_voter, ..
            } = &*self.shared;
            // Before it is opened: the master may refuse it at once.
            link.send(call, waiter);
            tokio::spawn(run(channel.clone(), *any_voter, link.clone()));
            *current = Some(link);
        }
    }
}

impl Link {
    /// Queues a call; gives it back if the stream is closed.
    fn send(
        &self,
        mut call: v1::Call,
        waiter: oneshot::Sender<Answered>,
    ) -> Option<(v1::Call, oneshot::Sender<Answered>)> {
        let waker = {
            let mut queue = self.queue.lock();
            if queue.closed.is_some() {
                return Some((call, waiter));
            }
            call.id = if let Some(id) = queue.free.pop() {
                queue.waiting[id as usize] = Some(waiter);
                id
            } else {
                queue.waiting.push(Some(waiter));
                queue.waiting.len() as u32 - 1
            };
            queue.calls.push(call);
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        None
    }

    fn answer(&self, answers: Vec<v1::Answer>) {
        let mut told = Vec::with_capacity(answers.len());
        {
            let mut queue = self.queue.lock();
            for answer in answers {
                let waiter = queue.waiting.get_mut(answer.id as usize);
                if let Some(waiter) = waiter.and_then(Option::take) {
                    queue.free.push(answer.id);
                    told.push((waiter, answer.what.ok_or_else(garbled)));
                }
            }
        }
        for (waiter, answer) in told {
            // A caller that went away is none of our business.
            let _ = waiter.send(answer);
        }
    }

    /// Ends the stream; whoever waits learns why.
    fn close(&self, why: &Status) {
        let (waiting, waker) = {
            let mut queue = self.queue.lock();
            queue.closed.get_or_insert_with(|| why.clone());
            queue.calls.clear();
            (std::mem::take(&mut queue.waiting), queue.waker.take())
        };
        for waiter in waiting.into_iter().flatten() {
            let _ = waiter.send(Err(why.clone()));
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The messages of a stream, made when there is room for one.
struct Outgoing(Arc<Link>);

impl Stream for Outgoing {
    type Item = v1::CallBatch;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::CallBatch>> {
        let mut queue = self.0.queue.lock();
        if queue.closed.is_some() {
            return Poll::Ready(None);
        }
        if queue.calls.is_empty() {
            queue.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut room = BATCH_BYTES;
        let fits = |call: &&v1::Call| {
            let left = room.checked_sub(cost(call.what.as_ref()));
            room = left.unwrap_or_default();
            left.is_some()
        };
        let fitting = queue.calls.iter().take(BATCH).take_while(fits).count();
        let later = queue.calls.split_off(fitting.max(1));
        let calls = std::mem::replace(&mut queue.calls, later);
        Poll::Ready(Some(v1::CallBatch { calls }))
    }
}

/// Takes in the answers until the stream ends.
async fn run(channel: Channel, any_voter: bool, link: Arc<Link>) {
    let mut client = MetadataClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let outgoing = Outgoing(link.clone());
    let request = if any_voter {
        to_any_voter(outgoing)
    } else {
        Request::new(outgoing)
    };
    let why = match client.calls(request).await {
        Err(status) => status,
        Ok(answers) => {
            let mut answers = answers.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(batch)) => link.answer(batch.answers),
                    Ok(None) => break broken("the master ended the stream of calls"),
                    Err(status) => break status,
                }
            }
        }
    };
    link.close(&transient(why));
}

/// What a broken stream means for a call: it can be made again, unless the master does not want it.
fn transient(why: Status) -> Status {
    match code_of(&why) {
        Code::Internal => status(Code::Unavailable, why.message()),
        _ => why,
    }
}

fn broken(why: &str) -> Status {
    status(Code::Unavailable, why)
}

fn garbled() -> Status {
    status(Code::Internal, "the answer is none to the call")
}

/// Bytes that a call takes, at least.
fn cost(what: Option<&Asked>) -> u32 {
    let bytes = match what {
        Some(Asked::Lookup(lookup)) => lookup.name.len(),
        Some(Asked::Resolve(resolve)) => resolve.path.len(),
        Some(Asked::Create(make) | Asked::Mkdir(make)) => make.name.len(),
        Some(Asked::Rename(rename)) => rename.name.len() + rename.new_name.len(),
        Some(Asked::Remove(remove) | Asked::RemoveDir(remove)) => remove.name.len(),
        _ => 0,
    };
    u32::try_from(bytes)
        .unwrap_or(ROOM)
        .saturating_add(OVERHEAD)
        .min(ROOM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, StreamExt};

    fn getattr(ino: u64) -> v1::Call {
        v1::Call {
            what: Some(Asked::GetAttr(v1::GetAttrRequest { ino })),
            ..v1::Call::default()
        }
    }

    fn ask(link: &Link, call: v1::Call) -> oneshot::Receiver<Answered> {
        let (waiter, answer) = oneshot::channel();
        assert!(link.send(call, waiter).is_none());
        answer
    }

    fn done(id: u32) -> v1::Answer {
        v1::Answer {
            id,
            what: Some(Told::Done(v1::Done {})),
        }
    }

    #[test]
    fn what_waits_goes_in_one_message_and_answers_come_in_any_order() {
        let link = Arc::new(Link::default());
        let mut outgoing = Outgoing(link.clone());
        assert!(outgoing.next().now_or_never().is_none());
        let mut answers: Vec<_> = (0..3).map(|ino| ask(&link, getattr(ino))).collect();
        let batch = outgoing.next().now_or_never().flatten().unwrap();
        let ids: Vec<u32> = batch.calls.iter().map(|call| call.id).collect();
        assert_eq!(batch.calls.len(), 3);
        link.answer(vec![done(ids[2]), done(ids[0]), done(999)]);
        assert!(answers[2].try_recv().unwrap().is_ok());
        assert!(answers[0].try_recv().unwrap().is_ok());
        assert!(answers[1].try_recv().is_err(), "not answered yet");
        // An id is used again only once it is free.
        drop(ask(&link, getattr(3)));
        let batch = outgoing.next().now_or_never().flatten().unwrap();
        assert_ne!(batch.calls[0].id, ids[1]);
        assert!(ids.contains(&batch.calls[0].id));
    }

    #[test]
    fn messages_are_bounded() {
        let link = Arc::new(Link::default());
        let mut outgoing = Outgoing(link.clone());
        let resolve = || v1::Call {
            what: Some(Asked::Resolve(v1::ResolveRequest {
                path: vec![b'x'; 300 << 10].into(),
            })),
            ..v1::Call::default()
        };
        let mut answers: Vec<_> = (0..5).map(|_| ask(&link, resolve())).collect();
        answers.extend((0..3000).map(|ino| ask(&link, getattr(ino))));
        let mut sizes = Vec::new();
        while let Some(Some(batch)) = outgoing.next().now_or_never() {
            sizes.push(batch.calls.len());
        }
        assert_eq!(sizes.iter().sum::<usize>(), answers.len());
        assert_eq!(sizes[..1], [3]);
        assert!(sizes.iter().all(|size| *size <= BATCH));
    }

    #[test]
    fn a_broken_stream_fails_what_is_in_flight_and_takes_no_more() {
        let link = Arc::new(Link::default());
        let mut outgoing = Outgoing(link.clone());
        let mut sent = ask(&link, getattr(1));
        assert!(outgoing.next().now_or_never().is_some());
        let mut queued = ask(&link, getattr(2));
        link.close(&transient(Status::internal("h2 broke")));
        for answer in [&mut sent, &mut queued] {
            let status = answer.try_recv().unwrap().unwrap_err();
            assert!(code_of(&status).is_transient());
        }
        assert_eq!(outgoing.next().now_or_never(), Some(None));
        assert!(link.send(getattr(3), oneshot::channel().0).is_some());
        link.answer(vec![done(0)]);
        let unknown = transient(Status::unimplemented("an old master"));
        assert_eq!(code_of(&unknown), Code::Unsupported);
    }
}
