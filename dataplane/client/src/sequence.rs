//! Numbers of a session's requests: which are open, and below which all are answered. Pure.

use std::collections::BTreeSet;

/// Most numbers between the oldest open request and the newest: the masters keep the outcomes of
/// twice as many.
const WINDOW: u64 = 512;

/// The numbers.
#[derive(Debug)]
pub(crate) struct Sequence {
    next: u64,
    open: BTreeSet<u64>,
}

impl Sequence {
    pub(crate) fn new() -> Sequence {
        Sequence {
            next: 1,
            open: BTreeSet::new(),
        }
    }

    /// A new number, and the one below which all are answered; `None` while the oldest open request
    /// is too far behind.
    pub(crate) fn begin(&mut self) -> Option<(u64, u64)> {
        let number = self.next;
        let oldest = self.open.first().copied().unwrap_or(number);
        if number - oldest >= WINDOW {
            return None;
        }
        self.next += 1;
        self.open.insert(number);
        Some((number, oldest))
    }

    /// The request is answered, or given up for ever. Whether another may begin because of it.
    pub(crate) fn end(&mut self, number: u64) -> bool {
        let oldest = self.open.first() == Some(&number);
        self.open.remove(&number);
        oldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_below_the_oldest_open_one_is_answered() {
        let mut sequence = Sequence::new();
        assert_eq!(sequence.begin(), Some((1, 1)));
        assert_eq!(sequence.begin(), Some((2, 1)));
        assert!(!sequence.end(2));
        assert_eq!(sequence.begin(), Some((3, 1)));
        assert!(sequence.end(1));
        assert_eq!(sequence.begin(), Some((4, 3)));
    }

    #[test]
    fn a_request_without_an_answer_holds_up_those_far_beyond_it() {
        let mut sequence = Sequence::new();
        for number in 1..=WINDOW {
            assert_eq!(sequence.begin(), Some((number, 1)));
            assert!(!sequence.end(number) || number == 1);
            if number == 1 {
                sequence.open.insert(1);
            }
        }
        assert_eq!(sequence.begin(), None);
        assert!(sequence.end(1));
        assert_eq!(sequence.begin(), Some((WINDOW + 1, WINDOW + 1)));
    }
}
