//! Read barriers that wait for the leader's word.

use crate::{ProposeError, node::ELECTION_TICKS};
use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
};
use tokio::sync::oneshot;

/// Ticks that a barrier waits: a leader may fail, and two elections in a row.
const PATIENCE_TICKS: u64 = 4 * ELECTION_TICKS as u64;

/// Told the index that must be applied.
type Reply = oneshot::Sender<Result<u64, ProposeError>>;

struct Barrier {
    token: u64,
    /// Begun in this tick.
    since: u64,
    /// What must be applied, once that is known.
    index: Option<u64>,
    reply: Reply,
}

/// Barriers in the order in which they came.
pub(crate) struct Barriers {
    waiting: VecDeque<Barrier>,
    /// The last token given out.
    token: u64,
}

impl Barriers {
    /// None waits. Tokens go up from a random number on: a late answer to a question of a former
    /// life must not pass for an answer to one of this.
    pub(crate) fn new() -> Barriers {
        Barriers::after(RandomState::new().hash_one("token") >> 1)
    }

    /// None waits; tokens go up from this one on.
    pub(crate) fn after(token: u64) -> Barriers {
        Barriers {
            waiting: VecDeque::new(),
            token,
        }
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// These wait from now on; the token to ask with.
    pub(crate) fn begin(&mut self, replies: Vec<Reply>, now: u64) -> u64 {
        self.token += 1;
        let token = self.token;
        self.waiting
            .extend(replies.into_iter().map(|reply| Barrier {
                token,
                since: now,
                index: None,
                reply,
            }));
        token
    }

    /// Those up to `token` are fresh once `index` is applied.
    pub(crate) fn answer(&mut self, token: u64, index: u64) {
        let answered = self.waiting.iter_mut().take_while(|b| b.token <= token);
        for barrier in answered {
            barrier.index.get_or_insert(index);
        }
    }

    /// Releases those whose index is committed here: it will be applied, unless the node stops.
    pub(crate) fn settle(&mut self, committed: u64) {
        let settled = |b: &mut Barrier| b.index.is_some_and(|index| index <= committed);
        while let Some(barrier) = self.waiting.pop_front_if(settled) {
            let _ = barrier.reply.send(Ok(barrier.index.unwrap_or_default()));
        }
    }

    /// Gives up on those that wait too long; whoever asks should ask the leader, if there is one.
    pub(crate) fn expire(&mut self, now: u64, leader: u64) {
        let leader = (leader != 0).then_some(leader);
        let expired = |b: &mut Barrier| now - b.since >= PATIENCE_TICKS;
        while let Some(barrier) = self.waiting.pop_front_if(expired) {
            let _ = barrier.reply.send(Err(ProposeError::NotLeader { leader }));
        }
    }

    /// Fails all.
    pub(crate) fn close(&mut self, error: &ProposeError) {
        for barrier in self.waiting.drain(..) {
            let _ = barrier.reply.send(Err(error.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_serves_all_that_asked_before_and_counts_once_it_is_committed() {
        let mut barriers = Barriers::new();
        let (replies, mut outcomes): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
        let mut replies = replies.into_iter();
        let tokens: Vec<_> = replies
            .by_ref()
            .map(|reply| barriers.begin(vec![reply], 0))
            .collect();
        barriers.answer(tokens[1], 7);
        barriers.settle(6);
        assert!(outcomes[0].try_recv().is_err());
        barriers.settle(7);
        for outcome in &mut outcomes[..2] {
            assert_eq!(outcome.try_recv().unwrap().unwrap(), 7);
        }
        assert!(outcomes[2].try_recv().is_err());
        barriers.expire(PATIENCE_TICKS, 3);
        assert!(matches!(
            outcomes[2].try_recv().unwrap(),
            Err(ProposeError::NotLeader { leader: Some(3) })
        ));
        assert!(barriers.is_empty());
    }

    #[test]
    fn two_lives_do_not_share_tokens() {
        let (first, second) = (Barriers::new().token, Barriers::new().token);
        assert!(first.abs_diff(second) > 1 << 20);
    }
}
