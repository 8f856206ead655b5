//! Whether a history of one register is linearizable: is there an order of its operations that
//! respects real time and in which every answer is right?
//!
//! The algorithm is that of Wing and Gong with Lowe's memory of configurations already seen.
//! (The tester of the `stateright` crate has no such memory: operations without an answer, which
//! a simulation of crashes has many of, make it exponential.)

use std::collections::HashSet;

/// A moment of the simulation.
pub(crate) type Time = u64;

/// What an operation did to a register that holds a value or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Sets the value. `found`: whether the answer said that there was one before; none: it did
    /// not say.
    Write { value: u64, found: Option<bool> },
    /// Sets the value if there is none. `found`: as above.
    Create { value: u64, found: Option<bool> },
    /// Removes the value.
    Remove { found: Option<bool> },
    /// Saw this.
    Read { value: Option<u64> },
}

/// An operation as its client saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) act: Act,
    /// When it was asked for.
    pub(crate) invoked: Time,
    /// When the answer came; none: never, so that it may take effect at any later time, or not.
    pub(crate) returned: Option<Time>,
}

impl Operation {
    /// The value that it saw.
    fn saw(&self) -> Option<u64> {
        match self.act {
            Act::Read { value } => value,
            _ => None,
        }
    }
}

/// Stands for every value that was never read.
const UNSEEN: u64 = u64::MAX;

/// Most operations of one history.
pub(crate) const MOST: usize = 128;

/// Configurations looked at before a history is given up as undecided.
const PATIENCE: usize = 1 << 20;

/// What is known of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    NotLinearizable,
    /// Too many orders to try.
    Undecided,
}

/// Does `act` to a register; false: not on one that holds this.
fn step(register: &mut Option<u64>, act: Act) -> bool {
    let before = *register;
    let fits = |found: Option<bool>| found.is_none_or(|found| found == before.is_some());
    match act {
        Act::Write { value, found } => {
            *register = Some(value);
            fits(found)
        }
        Act::Create { value, found } => {
            register.get_or_insert(value);
            fits(found)
        }
        Act::Remove { found } => {
            *register = None;
            fits(found)
        }
        Act::Read { value } => value == before,
    }
}

/// Checks a history of at most [`MOST`] operations on a register that is empty at first.
pub(crate) fn check(history: &[Operation]) -> Verdict {
    assert!(history.len() <= MOST, "history of {}", history.len());
    let mut operations = history.to_vec();
    // Values that nobody saw are all the same.
    let seen: HashSet<_> = history.iter().filter_map(Operation::saw).collect();
    for operation in &mut operations {
        if let Act::Write { value, .. } | Act::Create { value, .. } = &mut operation.act
            && !seen.contains(value)
        {
            *value = UNSEEN;
        }
    }
    // Those with an answer first, in the order of their answers: the likeliest order.
    operations
        .sort_by_key(|operation| (operation.returned.unwrap_or(Time::MAX), operation.invoked));
    let answered = operations
        .iter()
        .filter(|operation| operation.returned.is_some())
        .count();
    let goal = low_bits(answered);

    let mut seen = HashSet::new();
    let mut stack = vec![(0u128, None)];
    while let Some((done, value)) = stack.pop() {
        if done & goal == goal {
            return Verdict::Linearizable;
        }
        if !seen.insert((done, value)) {
            continue;
        }
        if seen.len() > PATIENCE {
            return Verdict::Undecided;
        }
        // The next one must have been asked for before any other that is left was answered.
        let first = (done & goal).trailing_ones() as usize;
        let horizon = operations[first].returned.unwrap_or(Time::MAX);
        let mut tried = Vec::new();
        let next = stack.len();
        for (index, operation) in operations.iter().enumerate() {
            if done & (1 << index) != 0 || operation.invoked > horizon {
                continue;
            }
            // Of those without an answer that do the same, the one asked for first can stand for
            // the others: they may take its place later.
            if operation.returned.is_none() {
                if tried.contains(&operation.act) {
                    continue;
                }
                tried.push(operation.act);
            }
            let mut register = value;
            if step(&mut register, operation.act) {
                stack.push((done | (1 << index), register));
            }
        }
        // The likeliest is taken first.
        stack[next..].reverse();
    }
    Verdict::NotLinearizable
}

fn low_bits(count: usize) -> u128 {
    if count == MOST {
        u128::MAX
    } else {
        (1 << count) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(act: Act, invoked: Time, returned: impl Into<Option<Time>>) -> Operation {
        Operation {
            act,
            invoked,
            returned: returned.into(),
        }
    }

    fn write(value: u64) -> Act {
        Act::Write { value, found: None }
    }

    fn read(value: impl Into<Option<u64>>) -> Act {
        Act::Read {
            value: value.into(),
        }
    }

    fn good(history: &[Operation]) {
        assert_eq!(check(history), Verdict::Linearizable, "{history:?}");
    }

    fn bad(history: &[Operation]) {
        assert_eq!(check(history), Verdict::NotLinearizable, "{history:?}");
    }

    #[test]
    fn reads_see_the_last_write() {
        good(&[]);
        good(&[op(write(1), 0, 1), op(read(1), 2, 3)]);
        bad(&[op(write(1), 0, 1), op(read(None), 2, 3)]);
        bad(&[op(write(1), 0, 1), op(read(2), 2, 3)]);
        bad(&[op(write(1), 0, 1), op(write(2), 2, 3), op(read(1), 4, 5)]);
    }

    #[test]
    fn concurrent_operations_take_either_order() {
        for value in [1, 2] {
            good(&[
                op(write(1), 0, 9),
                op(write(2), 0, 9),
                op(read(value), 10, 11),
            ]);
        }
        good(&[op(write(1), 0, 9), op(read(None), 1, 2), op(read(1), 3, 4)]);
        bad(&[op(write(1), 0, 9), op(read(1), 1, 2), op(read(None), 3, 4)]);
    }

    #[test]
    fn what_was_never_answered_may_happen_late_or_never_but_once() {
        let lost = op(write(1), 0, None);
        good(&[lost, op(read(None), 2, 3)]);
        good(&[lost, op(read(None), 2, 3), op(read(1), 4, 5)]);
        good(&[lost, op(write(2), 2, 3), op(read(1), 4, 5)]);
        bad(&[
            lost,
            op(read(1), 1, 2),
            op(write(2), 3, 4),
            op(read(1), 5, 6),
        ]);
        bad(&[op(read(1), 0, 1), op(write(1), 2, None)]);
    }

    #[test]
    fn answers_of_changes_count() {
        let found = |found| Act::Write {
            value: 7,
            found: Some(found),
        };
        let removed = |found| Act::Remove { found: Some(found) };
        good(&[
            op(found(false), 0, 1),
            op(removed(true), 2, 3),
            op(removed(false), 4, 5),
        ]);
        bad(&[op(found(true), 0, 1)]);
        bad(&[op(found(false), 0, 1), op(removed(false), 2, 3)]);
        bad(&[
            op(found(false), 0, 1),
            op(removed(true), 2, 3),
            op(removed(true), 4, 5),
        ]);
    }

    #[test]
    fn what_is_there_is_not_created() {
        let create = |value, found| Act::Create { value, found };
        good(&[
            op(create(1, Some(false)), 0, 1),
            op(create(2, Some(true)), 2, 3),
            op(read(1), 4, 5),
        ]);
        bad(&[
            op(create(1, Some(false)), 0, 1),
            op(create(2, Some(false)), 2, 3),
        ]);
        bad(&[
            op(create(1, None), 0, 1),
            op(create(2, None), 2, 3),
            op(read(2), 4, 5),
        ]);
    }

    /// Every order, one by one.
    fn by_force(left: &mut Vec<Operation>, value: Option<u64>) -> bool {
        if left.iter().all(|operation| operation.returned.is_none()) {
            return true;
        }
        let horizon = left.iter().filter_map(|operation| operation.returned).min();
        for index in 0..left.len() {
            let operation = left[index];
            let mut register = value;
            if Some(operation.invoked) <= horizon && step(&mut register, operation.act) {
                left.remove(index);
                let found = by_force(left, register);
                left.insert(index, operation);
                if found {
                    return true;
                }
            }
        }
        false
    }

    #[test]
    fn it_agrees_with_trying_every_order() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut good = 0;
        for _ in 0..3000 {
            let mut history: Vec<_> = (0..rng.usize(1..7))
                .map(|_| {
                    let found = [None, Some(true), Some(false)][rng.usize(..3)];
                    let value = rng.u64(1..4);
                    let act = match rng.u8(..4) {
                        0 => Act::Write { value, found },
                        1 => Act::Create { value, found },
                        2 => Act::Remove { found },
                        _ => read([None, Some(value)][rng.usize(..2)]),
                    };
                    let invoked = rng.u64(..10);
                    op(act, invoked, rng.bool().then(|| invoked + rng.u64(1..6)))
                })
                .collect();
            let verdict = check(&history);
            let expected = by_force(&mut history, None);
            assert_eq!(verdict == Verdict::Linearizable, expected, "{history:?}");
            good += usize::from(expected);
        }
        assert!((500..2500).contains(&good), "{good} of 3000 are good");
    }
}
