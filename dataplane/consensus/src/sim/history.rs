//! What the clients saw.

use super::{
    checker::{self, Act, MOST, Operation, Time, Verdict},
    invariant::{Step, Violation},
};
use forebay_meta::{Outcome, Reply, RequestId};
use std::collections::BTreeMap;

/// All operations of all clients, by register, and all answers to identified requests.
#[derive(Default)]
pub(crate) struct History {
    registers: BTreeMap<u64, Vec<Operation>>,
    answers: BTreeMap<(u64, u64), Outcome>,
}

/// An operation of the history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    key: u64,
    at: usize,
}

impl History {
    /// Whether the register has room for another operation: a history has a bound, and room
    /// for the last reads stays.
    pub(crate) fn has_room(&self, key: u64) -> bool {
        self.registers
            .get(&key)
            .is_none_or(|history| history.len() < MOST - 32)
    }

    /// An operation, with or without an answer.
    pub(crate) fn record(&mut self, key: u64, operation: Operation) -> Place {
        let history = self.registers.entry(key).or_default();
        history.push(operation);
        Place {
            key,
            at: history.len() - 1,
        }
    }

    /// The answer to an operation that was recorded without one.
    pub(crate) fn answer(&mut self, place: Place, act: Act, now: Time) {
        let history = self.registers.entry(place.key).or_default();
        let operation = &mut history[place.at];
        operation.act = act;
        operation.returned = Some(now);
    }

    /// Exactly once: every answer to a request, however often it was sent, is the first one. (Or
    /// a refusal, when the session has expired or has acknowledged the request.)
    pub(crate) fn same_answer(&mut self, request: RequestId, outcome: &Outcome) -> Step {
        if matches!(outcome.reply, Reply::Refused { .. }) {
            return Ok(());
        }
        let id = (request.session.0, request.sequence);
        let first = self.answers.entry(id).or_insert_with(|| outcome.clone());
        if first != outcome {
            let what = format!("request {id:?} was answered {first:?}, then {outcome:?}");
            return Err(Violation::new("exactly once", what));
        }
        Ok(())
    }

    /// Linearizability of each register; the number of registers that could not be decided.
    pub(crate) fn check(&self) -> Step<u64> {
        let mut undecided = 0;
        for (key, history) in &self.registers {
            match checker::check(history) {
                Verdict::Linearizable => {}
                Verdict::Undecided => undecided += 1,
                Verdict::NotLinearizable => {
                    let what = format!("register {key}: {history:?}");
                    return Err(Violation::new("linearizability", what));
                }
            }
        }
        Ok(undecided)
    }

    /// How many operations were answered.
    pub(crate) fn answered(&self) -> u64 {
        let operations = self.registers.values().flatten();
        operations
            .filter(|operation| operation.returned.is_some())
            .count() as u64
    }
}
