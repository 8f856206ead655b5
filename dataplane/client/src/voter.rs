//! The master that a question goes to.

use crate::{
    Calls,
    channel::{MAX_MESSAGE, connect},
};
use forebay_proto::{
    convert::to_any_voter,
    v1::{self, metadata_client::MetadataClient},
};
use forebay_types::Address;
use std::time::{Duration, Instant};
use tonic::{Request, Status, Streaming, transport::Channel};

/// How long the leader is asked after another voter could not be reached.
const REST: Duration = Duration::from_secs(1);

/// A master, asked as the leader or as any of the voters.
#[derive(Clone, Debug)]
pub struct Voter {
    pub(crate) calls: Calls,
    pub(crate) channel: Channel,
    pub(crate) any: bool,
}

impl Voter {
    /// The master at `address`, whether it leads or not. Must be called within a tokio runtime.
    pub fn at(address: &Address) -> Voter {
        let channel = connect(address);
        Voter {
            calls: Calls::to_any_voter(channel.clone()),
            channel,
            any: true,
        }
    }

    /// Questions about single inodes.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// A listing.
    pub async fn read_dir(
        &self,
        request: v1::ReadDirRequest,
    ) -> Result<Streaming<v1::ReadDirResponse>, Status> {
        let channel = self.channel.clone();
        let mut client = MetadataClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let request = if self.any {
            to_any_voter(request)
        } else {
            Request::new(request)
        };
        Ok(client.read_dir(request).await?.into_inner())
    }
}

/// Which of the voters is asked. Every client begins with one drawn by lot, so that all together
/// spread over them.
#[derive(Debug)]
pub(crate) struct Choice {
    chosen: usize,
    rests_until: Option<Instant>,
}

impl Choice {
    pub(crate) fn new(lot: u64, voters: usize) -> Choice {
        Choice {
            chosen: (lot % voters as u64) as usize,
            rests_until: None,
        }
    }

    /// Which one, unless the leader is to be asked.
    pub(crate) fn now(&self, now: Instant) -> Option<usize> {
        let rests = self.rests_until.is_some_and(|until| now < until);
        (!rests).then_some(self.chosen)
    }

    /// The voter `failed` of `voters` cannot be reached.
    pub(crate) fn fail(&mut self, failed: usize, voters: usize, now: Instant) {
        if failed == self.chosen {
            self.chosen = (self.chosen + 1) % voters;
            self.rests_until = Some(now + REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voter_that_is_away_is_left_after_a_rest_for_the_next() {
        let start = Instant::now();
        let mut choice = Choice::new(5, 3);
        assert_eq!(choice.now(start), Some(2));
        choice.fail(2, 3, start);
        assert_eq!(choice.now(start), None);
        // Of a question that was under way.
        choice.fail(2, 3, start + REST / 2);
        assert_eq!(choice.now(start + REST), Some(0));
    }
}
