//! A client: does some things at a time, and asks again until it has an answer or gives up.
//!
//! The registers of the history are the pin of the root (register 0), files of the root directory, as a
//! listing of an under store sets them, whose value is their modification time (1 and up), and files
//! that clients make in a scratch mount, whose value is their owner (the highest).

use super::{
    checker::{Act, Operation, Time},
    history::Place,
    invariant::{Step, Violation},
    world::{Happening, World},
};
use bytes::Bytes;
use forebay_meta::{Access, Change, Meta, Outcome, Reply, RequestId, UfsEntry, UfsKind};
use forebay_types::{Code, Fingerprint, Ino, MountSpec, Name, SessionId, SyncPolicy};

/// Files of the root.
const FILES: u64 = 3;

/// Registers beside the pin: those files, and as many in the scratch mount as are left.
const REGISTERS: u64 = 5;

/// The scratch mount, in the root.
const SCRATCH: &str = "scratch";

/// Sessions that were not used for so long are dropped. Only clocks that jump come to this.
const SESSION_NS: i64 = 3_600 * 1_000_000_000;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Mount,
    MountScratch,
    OpenSession,
    Write { key: u64, value: u64 },
    Remove { key: u64 },
    Read { key: u64 },
    Reap,
    ExpireSessions,
}

/// A wish on its way to a node.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) ticket: Ticket,
    pub(crate) wish: Wish,
}

/// To whom an answer goes, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) client: u64,
    number: u64,
    pub(crate) id: Option<RequestId>,
}

/// A node's answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) ticket: Ticket,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Outcome(Outcome),
    /// Done, without an outcome: only a mutation says so.
    Done,
    Value(Option<u64>),
    NotLeader(Option<u64>),
    Unavailable,
}

/// Why a client looks up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    /// To begin something more.
    Begin,
    /// To ask again, if nothing has happened since: this node, or any.
    AskAgain {
        number: u64,
        attempt: u64,
        node: Option<u64>,
    },
}

struct Current {
    wish: Wish,
    ticket: Ticket,
    invoked: Time,
    /// Of a change of a register.
    place: Option<Place>,
    attempt: u64,
}

pub(crate) struct Client {
    id: u64,
    rng: fastrand::Rng,
    nodes: u64,
    /// Whom to ask.
    node: u64,
    /// The mounts that are there.
    mounted: u32,
    session: Option<SessionId>,
    sequence: u64,
    numbers: u64,
    /// What it waits for.
    current: Vec<Current>,
    /// Asks so often, then gives up.
    patience: u64,
    /// All is well: what is still to be done.
    last: Option<Vec<Wish>>,
}

impl Client {
    pub(crate) fn new(id: u64, nodes: u64, rng: &mut fastrand::Rng) -> Client {
        let mut rng = rng.fork();
        Client {
            id,
            nodes,
            node: rng.u64(1..=nodes),
            mounted: 0,
            session: None,
            sequence: 0,
            numbers: 0,
            current: Vec::new(),
            patience: rng.u64(2..20),
            last: None,
            rng,
        }
    }

    /// Does its last things from here on: a change, and a look at every register.
    pub(crate) fn finish(&mut self) {
        let mut last: Vec<_> = (0..=REGISTERS).map(|key| Wish::Read { key }).collect();
        last.push(Wish::Write {
            key: 1 + self.id % REGISTERS,
            value: 1_000_000 + self.id,
        });
        self.last = Some(last);
        // All the time in the world.
        self.patience = u64::MAX;
    }

    /// Whether it has done its last things.
    pub(crate) fn is_done(&self) -> bool {
        self.current.is_empty() && self.last.as_ref().is_some_and(Vec::is_empty)
    }

    pub(crate) fn timer(&mut self, timer: Timer, world: &mut World) {
        match timer {
            Timer::Begin => self.begin(world),
            Timer::AskAgain {
                number,
                attempt,
                node,
            } => {
                let due = self.current.extract_if(.., |current| {
                    (current.ticket.number, current.attempt) == (number, attempt)
                });
                if let Some(current) = due.last() {
                    self.node = node.unwrap_or_else(|| self.rng.u64(1..=self.nodes));
                    self.ask_again(current, world);
                }
            }
        }
    }

    fn begin(&mut self, world: &mut World) {
        let wish = if self.mounted == 0 {
            Wish::Mount
        } else if self.mounted == 1 {
            Wish::MountScratch
        } else if self.session.is_none() {
            Wish::OpenSession
        } else if let Some(last) = &mut self.last {
            match last.pop() {
                Some(wish) => wish,
                None => return,
            }
        } else {
            self.wish()
        };
        let key = match wish {
            Wish::Write { key, .. } | Wish::Remove { key } => Some((key, true)),
            Wish::Read { key } => Some((key, false)),
            _ => None,
        };
        if self.last.is_none() && key.is_some_and(|(key, _)| !world.history.has_room(key)) {
            self.think(world);
            return;
        }
        self.numbers += 1;
        let changes = key.is_some_and(|(_, changes)| changes);
        let id = changes.then(|| self.request_id());
        let act = changes.then(|| wish.act(None));
        let place = key.zip(act).map(|((key, _), act)| {
            let operation = Operation {
                act,
                invoked: world.now,
                returned: None,
            };
            world.history.record(key, operation)
        });
        let ticket = Ticket {
            client: self.id,
            number: self.numbers,
            id,
        };
        let current = Current {
            wish,
            ticket,
            invoked: world.now,
            place,
            attempt: 0,
        };
        self.ask_again(current, world);
    }

    fn request_id(&mut self) -> RequestId {
        self.sequence += 1;
        let session = self.session.expect("opened before");
        let waiting = self.current.iter().filter_map(|current| current.ticket.id);
        let waiting = waiting.filter(|id| id.session == session);
        RequestId {
            session,
            sequence: self.sequence,
            // What was given up will not be asked for again.
            acknowledged: waiting.map(|id| id.sequence).min().unwrap_or(self.sequence),
        }
    }

    fn wish(&mut self) -> Wish {
        let key = self.rng.u64(0..=REGISTERS);
        // No value is written twice, but for the pin, which has only one.
        let value = if key == 0 {
            1
        } else {
            self.id * 10_000 + self.numbers
        };
        match self.rng.u8(..40) {
            0 => Wish::Reap,
            1 => Wish::ExpireSessions,
            2..18 => Wish::Write { key, value },
            18..24 => Wish::Remove { key },
            _ => Wish::Read { key },
        }
    }

    fn ask_again(&mut self, mut current: Current, world: &mut World) {
        current.attempt += 1;
        if current.attempt > self.patience {
            // Whether it ever takes effect is not known.
            self.think(world);
            return;
        }
        let request = Request {
            ticket: current.ticket,
            wish: current.wish,
        };
        let timer = Timer::AskAgain {
            number: current.ticket.number,
            attempt: current.attempt,
            node: None,
        };
        // Every node answers reads.
        let anywhere = matches!(current.wish, Wish::Read { .. }) && self.rng.bool();
        let node = if anywhere {
            self.rng.u64(1..=self.nodes)
        } else {
            self.node
        };
        world.send_request(node, &request);
        self.current.push(current);
        let client = self.id;
        world.after(self.rng.u64(30..120), Happening::Timer { client, timer });
    }

    fn think(&mut self, world: &mut World) {
        let client = self.id;
        let timer = Timer::Begin;
        world.after(self.rng.u64(1..80), Happening::Timer { client, timer });
    }

    pub(crate) fn answered(&mut self, answer: Answer, world: &mut World) -> Step {
        let Answer { ticket, what } = answer;
        if let (Some(id), What::Outcome(outcome)) = (ticket.id, &what) {
            world.history.same_answer(id, outcome)?;
        }
        let current = self
            .current
            .extract_if(.., |current| current.ticket == ticket);
        let Some(current) = current.last() else {
            return Ok(());
        };
        match what {
            What::NotLeader(hint) => {
                self.ask_later(current, hint, world);
                return Ok(());
            }
            What::Unavailable => {
                self.ask_later(current, None, world);
                return Ok(());
            }
            What::Value(value) => {
                let Wish::Read { key } = current.wish else {
                    unreachable!("a value for {:?}", current.wish)
                };
                let operation = Operation {
                    act: Act::Read { value },
                    invoked: current.invoked,
                    returned: Some(world.now),
                };
                world.history.record(key, operation);
            }
            What::Done => {
                if let Some(place) = current.place {
                    let act = current.wish.act(None);
                    world.history.answer(place, act, world.now);
                }
            }
            What::Outcome(outcome) => self.outcome(&current, &outcome.reply, world)?,
        }
        self.think(world);
        Ok(())
    }

    /// After a refusal; the timer that waits for an answer then finds that it is too late.
    fn ask_later(&mut self, current: Current, node: Option<u64>, world: &mut World) {
        let client = self.id;
        let timer = Timer::AskAgain {
            number: current.ticket.number,
            attempt: current.attempt,
            node,
        };
        self.current.push(current);
        world.after(self.rng.u64(2..20), Happening::Timer { client, timer });
    }

    fn outcome(&mut self, current: &Current, reply: &Reply, world: &mut World) -> Step {
        let found = match (current.wish, reply) {
            (Wish::Mount, Reply::Mount(_)) => {
                self.mounted = self.mounted.max(1);
                return Ok(());
            }
            (Wish::MountScratch, Reply::Mount(_)) => {
                self.mounted = 2;
                return Ok(());
            }
            (Wish::OpenSession, Reply::Session(session)) => {
                self.session = Some(*session);
                return Ok(());
            }
            (Wish::Reap | Wish::ExpireSessions, Reply::Reaped(_)) => return Ok(()),
            (Wish::Write { key: 0, .. } | Wish::Remove { key: 0 }, Reply::Done) => None,
            (Wish::Write { .. }, Reply::Entries { added, changed, .. }) if added + changed == 1 => {
                Some(*changed == 1)
            }
            (Wish::Remove { .. }, Reply::Entries { removed, .. }) => Some(*removed == 1),
            (Wish::Write { .. }, Reply::Attr(_))
            | (
                Wish::Remove { .. },
                Reply::Refused {
                    code: Code::NotFound,
                    ..
                },
            ) => Some(false),
            (
                Wish::Write { .. },
                Reply::Refused {
                    code: Code::AlreadyExists,
                    ..
                },
            )
            | (Wish::Remove { .. }, Reply::Done) => Some(true),
            // The session has expired: whether the request took effect is not known.
            (
                Wish::Write { .. } | Wish::Remove { .. },
                Reply::Refused {
                    code: Code::Stale,
                    reason,
                },
            ) if reason.starts_with("session") => {
                self.session = None;
                return Ok(());
            }
            (wish, reply) => {
                let what = format!("{wish:?} was answered {reply:?}");
                return Err(Violation::new("answers make sense", what));
            }
        };
        if let Some(place) = current.place {
            let act = current.wish.act(found);
            world.history.answer(place, act, world.now);
        }
        Ok(())
    }
}

impl Wish {
    /// Whether it wants something of the scratch mount.
    pub(crate) fn is_scratch(self) -> bool {
        match self {
            Wish::Write { key, .. } | Wish::Remove { key } | Wish::Read { key } => key > FILES,
            _ => false,
        }
    }

    fn act(self, found: Option<bool>) -> Act {
        match self {
            Wish::Write { key, value } if key > FILES => Act::Create { value, found },
            Wish::Write { value, .. } => Act::Write { value, found },
            Wish::Remove { .. } => Act::Remove { found },
            other => unreachable!("{other:?} changes no register"),
        }
    }

    /// The change that a node proposes, which has the scratch mount at `scratch`; none: it is a read.
    pub(crate) fn change(self, now_ns: i64, padding: u64, scratch: Ino) -> Option<Change> {
        let change = match self {
            Wish::Read { .. } => return None,
            Wish::Mount => mount("/", "file:///simulated"),
            Wish::MountScratch => mount(&format!("/{SCRATCH}"), MountSpec::SCRATCH),
            Wish::OpenSession => Change::OpenSession {
                client: "simulated".to_owned(),
            },
            Wish::Write { key: 0, .. } => Change::SetPin {
                ino: Ino::ROOT,
                pinned: true,
            },
            Wish::Remove { key: 0 } => Change::SetPin {
                ino: Ino::ROOT,
                pinned: false,
            },
            Wish::Write { key, value } if key > FILES => Change::Create {
                parent: scratch,
                name: name(key),
                access: Access {
                    mode: 0o644,
                    uid: value as u32,
                    gid: 0,
                },
            },
            Wish::Remove { key } if key > FILES => Change::Remove {
                parent: scratch,
                name: name(key),
            },
            Wish::Write { key, value } => Change::UpsertEntries {
                parent: Ino::ROOT,
                entries: vec![UfsEntry {
                    name: name(key),
                    kind: UfsKind::File {
                        fingerprint: Fingerprint {
                            size: value,
                            mtime_ns: value as i64,
                            // As long as the value says, so that a repetition is the same.
                            etag: "x".repeat((value * 7919 % (padding + 1)) as usize),
                        },
                        mtime_ns: value as i64,
                    },
                }],
            },
            Wish::Remove { key } => Change::RemoveEntries {
                parent: Ino::ROOT,
                names: vec![name(key)],
            },
            Wish::Reap => Change::Reap {
                before_ns: now_ns,
                limit: 3,
            },
            Wish::ExpireSessions => Change::ExpireSessions {
                unused_since_ns: now_ns - SESSION_NS,
            },
        };
        Some(change)
    }
}

fn mount(path: &str, uri: &str) -> Change {
    Change::Mount {
        configured: true,
        spec: MountSpec {
            path: path.to_owned(),
            uri: uri.to_owned(),
            options: std::collections::BTreeMap::new(),
            sync: SyncPolicy::Never,
            credentials: None,
        },
    }
}

/// The scratch mount's root, if this node knows of it already.
pub(crate) fn scratch(meta: &Meta) -> forebay_meta::Result<Option<Ino>> {
    let name = Name::new(SCRATCH).expect("a good name");
    let attr = meta.lookup(Ino::ROOT, &name)?;
    Ok(attr.map(|attr| attr.ino))
}

fn name(key: u64) -> Name {
    Name::new(Bytes::from(format!("file-{key}"))).expect("a good name")
}

/// The value of a register.
pub(crate) fn value(meta: &Meta, key: u64) -> forebay_meta::Result<Option<u64>> {
    if key == 0 {
        return Ok(meta.is_pinned(Ino::ROOT)?.then_some(1));
    }
    if key > FILES {
        let Some(scratch) = scratch(meta)? else {
            return Ok(None);
        };
        let attr = meta.lookup(scratch, &name(key))?;
        return Ok(attr.map(|attr| u64::from(attr.uid)));
    }
    let attr = meta.lookup(Ino::ROOT, &name(key))?;
    Ok(attr.map(|attr| attr.mtime_ns as u64))
}
