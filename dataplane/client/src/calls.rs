//! Many calls over one stream: all that is asked while a message is on its way goes into the next
//! one. No task and no message of its own for any call.
//!
//! The stream is opened by the first call, and again by the first one after it broke. Calls that
//! were in flight then fail with `Unavailable`; whoever repeats them makes them anew.

use crate::channel::MAX_MESSAGE;
use forebay_proto::{
    convert::{code_of, status},
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
use tonic::{Status, transport::Channel};

/// Bytes of calls in flight, from the call to the answer; more wait.
const ROOM: u32 = 8 << 20;

/// What a call costs beside its names and paths.
const OVERHEAD: u32 = 256;

/// Most calls in one message: the master answers them in one go.
const BATCH: usize = 1_024;

type Answered = Result<Told, Status>;

/// Calls over a channel; clones share the stream.
#[derive(Clone, Debug)]
pub struct Calls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    channel: Channel,
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
    /// Calls over `channel`; connects when the first one is made.
    pub fn new(channel: Channel) -> Calls {
        Calls {
            shared: Arc::new(Shared {
                channel,
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
        let _room = self.shared.room.acquire_many(cost(&what)).await;
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
            None => Err((call, waiter)),
        };
        if let Err((call, waiter)) = unsent {
            let link = Arc::new(Link::default());
            tokio::spawn(run(self.shared.channel.clone(), link.clone()));
            // A new one is open.
            let _ = link.send(call, waiter);
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
    ) -> Result<(), (v1::Call, oneshot::Sender<Answered>)> {
        let waker = {
            let mut queue = self.queue.lock();
            if queue.closed.is_some() {
                return Err((call, waiter));
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
        Ok(())
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
        let calls = if queue.calls.len() <= BATCH {
            std::mem::take(&mut queue.calls)
        } else {
            queue.calls.drain(..BATCH).collect()
        };
        Poll::Ready(Some(v1::CallBatch { calls }))
    }
}

/// Takes in the answers until the stream ends.
async fn run(channel: Channel, link: Arc<Link>) {
    let mut client = MetadataClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let why = match client.calls(Outgoing(link.clone())).await {
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

fn cost(what: &Asked) -> u32 {
    let bytes = match what {
        Asked::Lookup(lookup) => lookup.name.len(),
        Asked::Resolve(resolve) => resolve.path.len(),
        Asked::Create(make) | Asked::Mkdir(make) => make.name.len(),
        Asked::Rename(rename) => rename.name.len() + rename.new_name.len(),
        Asked::Remove(remove) | Asked::RemoveDir(remove) => remove.name.len(),
        Asked::GetAttr(_) | Asked::OpenFile(_) | Asked::SetAttr(_) => 0,
    };
    u32::try_from(bytes)
        .unwrap_or(ROOM)
        .saturating_add(OVERHEAD)
        .min(ROOM)
}
