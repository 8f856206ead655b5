//! Faults: what goes wrong, for which requests, for how long.

use super::Op;
use parking_lot::{Condvar, Mutex};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `503 SlowDown`.
    SlowDown,
    /// `500 InternalError`.
    InternalError,
    /// `403 AccessDenied`.
    AccessDenied,
    /// The answer comes this much later.
    Delay(Duration),
    /// No answer until the fault is lifted.
    Hold,
    /// The body stops after so many bytes until the fault is lifted.
    HoldBody(u64),
    /// The connection breaks after so many bytes of the body.
    CutBody(u64),
}

/// Which requests are struck, and by what.
#[derive(Clone, Debug)]
pub struct Fault {
    effect: Effect,
    op: Option<Op>,
    prefix: String,
    times: Option<u64>,
}

impl Fault {
    /// `effect` for every request until the fault is lifted.
    pub fn new(effect: Effect) -> Fault {
        Fault {
            effect,
            op: None,
            prefix: String::new(),
            times: None,
        }
    }

    /// Only for this operation.
    #[must_use]
    pub fn on(mut self, op: Op) -> Fault {
        self.op = Some(op);
        self
    }

    /// Only for keys (of a listing: prefixes) that begin so.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Fault {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Only for the next `times` requests.
    #[must_use]
    pub fn times(mut self, times: u64) -> Fault {
        self.times = Some(times);
        self
    }
}

/// The faults of one server.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Mutex<Vec<Arc<Rule>>>,
}

#[derive(Debug)]
struct Rule {
    fault: Fault,
    hits: Mutex<u64>,
    hit: Condvar,
    lifted: watch::Sender<bool>,
}

/// A fault in force; it is lifted when this is dropped, and what it held goes on.
#[derive(Debug)]
pub struct FaultHandle {
    faults: Arc<Faults>,
    rule: Arc<Rule>,
}

/// What the faults in force make of one request.
#[derive(Debug, Default)]
pub(super) struct Struck {
    pub(super) refuse: Option<Effect>,
    pub(super) delay: Duration,
    pub(super) hold: Option<Gate>,
    pub(super) hold_body: Option<(u64, Gate)>,
    pub(super) cut_body: Option<u64>,
}

/// Opens when a fault is lifted.
#[derive(Clone, Debug)]
pub(super) struct Gate(watch::Receiver<bool>);

impl Gate {
    pub(super) async fn opened(&mut self) {
        // The sender lives in the rule: gone means lifted.
        let _ = self.0.wait_for(|lifted| *lifted).await;
    }
}

impl Faults {
    /// Puts `fault` in force.
    pub fn inject(self: &Arc<Faults>, fault: Fault) -> FaultHandle {
        let rule = Arc::new(Rule {
            fault,
            hits: Mutex::new(0),
            hit: Condvar::new(),
            lifted: watch::Sender::new(false),
        });
        self.rules.lock().push(Arc::clone(&rule));
        FaultHandle {
            faults: Arc::clone(self),
            rule,
        }
    }

    /// What happens to this request; `None`: nothing.
    pub(super) fn strike(&self, op: Op, key: &str) -> Option<Struck> {
        let rules = self.rules.lock();
        let mut struck: Option<Struck> = None;
        for rule in rules.iter() {
            let Fault {
                effect,
                op: only,
                prefix,
                times,
            } = &rule.fault;
            if only.is_some_and(|only| only != op) || !key.starts_with(prefix.as_str()) {
                continue;
            }
            let mut hits = rule.hits.lock();
            if times.is_some_and(|times| *hits >= times) {
                continue;
            }
            *hits += 1;
            rule.hit.notify_all();
            let gate = || Gate(rule.lifted.subscribe());
            let struck = struck.get_or_insert_default();
            match *effect {
                Effect::SlowDown | Effect::InternalError | Effect::AccessDenied => {
                    struck.refuse = Some(*effect);
                }
                Effect::Delay(delay) => struck.delay += delay,
                Effect::Hold => struck.hold = Some(gate()),
                Effect::HoldBody(after) => struck.hold_body = Some((after, gate())),
                Effect::CutBody(after) => struck.cut_body = Some(after),
            }
        }
        struck
    }
}

impl FaultHandle {
    /// Requests struck so far.
    pub fn hits(&self) -> u64 {
        *self.rule.hits.lock()
    }

    /// Waits until `hits` requests were struck; false if that takes longer than `limit`.
    pub fn wait_for_hits(&self, hits: u64, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut count = self.rule.hits.lock();
        while *count < hits {
            if self.rule.hit.wait_until(&mut count, end).timed_out() {
                return *count >= hits;
            }
        }
        true
    }

    /// Ends the fault; what it held goes on.
    pub fn lift(self) {
        drop(self);
    }
}

impl Drop for FaultHandle {
    fn drop(&mut self) {
        self.faults
            .rules
            .lock()
            .retain(|rule| !Arc::ptr_eq(rule, &self.rule));
        self.rule.lifted.send_replace(true);
    }
}
