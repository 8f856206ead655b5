//! The masters' services: one connection to each master that is used, and the way to the leader.
//!
//! Calls go to the master that answered last. One that does not lead says who does; one that does not
//! answer is left for the next. A call that may be repeated goes on through an election.

use crate::{
    Calls, Error, Result, Voter,
    call::error_of,
    channel::{MAX_MESSAGE, connect},
    pulse::Pulse,
    voter::Choice,
};
use backon::{BackoffBuilder, ExponentialBuilder};
use forebay_proto::{
    convert::{code_of, leader_of},
    v1::{
        admin_client::AdminClient, metadata_client::MetadataClient, registry_client::RegistryClient,
    },
};
use forebay_types::{Address, Addresses, Code};
use parking_lot::{Mutex, RwLock};
use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;
use tonic::{Status, transport::Channel};

/// A call that fails for so long is given up: a restart of a master and an election are bridged, the
/// absence of all masters is reported.
const LIMIT: Duration = Duration::from_secs(12);

/// The same where a program waits that would not try again: an only master comes back on another node in this time.
const LONG_LIMIT: Duration = Duration::from_mins(1);

/// The longest wait between two attempts at an only master, before jitter …
const WAIT_MAX: Duration = Duration::from_secs(1);

/// … and where another may lead by now.
const WAIT_MAX_IN_GROUP: Duration = Duration::from_millis(100);

/// The shortest and the longest wait of a call that nobody waits for.
const CALM: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(2)];

/// Masters that are remembered at most, hints included.
const MASTERS_MAX: usize = 16;

/// The masters of a cluster; cheap to clone. Clones share the connections and what is known of the
/// leader.
#[derive(Clone, Debug)]
pub struct Master {
    group: Arc<Group>,
    /// When a call that fails is given up.
    limit: Duration,
}

#[derive(Debug)]
struct Group {
    addresses: Addresses,
    state: RwLock<State>,
    /// Which voter is asked questions; absent: the leader.
    choice: Option<Mutex<Choice>>,
}

#[derive(Debug)]
struct State {
    /// Those that were used or given.
    members: Vec<Member>,
    /// Where calls go.
    current: usize,
}

#[derive(Clone, Debug)]
struct Member {
    address: Address,
    channel: Channel,
    calls: Calls,
    /// For questions that it need not lead to answer.
    questions: Calls,
    pulse: Pulse,
}

impl Member {
    fn new(address: &Address) -> Member {
        let channel = connect(address);
        Member {
            address: address.clone(),
            calls: Calls::new(channel.clone()),
            questions: Calls::to_any_voter(channel.clone()),
            pulse: Pulse::new(channel.clone()),
            channel,
        }
    }

    fn leader(self) -> Voter {
        Voter {
            calls: self.calls,
            channel: self.channel,
            any: false,
        }
    }
}

impl Master {
    /// Masters that are connected to on first use; the leader answers all questions. Must be called
    /// within a tokio runtime.
    pub fn new(addresses: impl Into<Addresses>) -> Master {
        Master::with_choice(addresses.into(), |_| None)
    }

    /// The same, but questions go to one of the masters, drawn by lot: many clients spread them over
    /// all. An answer takes one more round trip between masters, and shows just as much.
    pub fn spreading_reads(addresses: impl Into<Addresses>) -> Master {
        let choose = |voters: usize| {
            let lot = RandomState::new().hash_one(0);
            (voters > 1).then(|| Mutex::new(Choice::new(lot, voters)))
        };
        Master::with_choice(addresses.into(), choose)
    }

    fn with_choice(
        addresses: Addresses,
        choice: impl FnOnce(usize) -> Option<Mutex<Choice>>,
    ) -> Master {
        let choice = choice(addresses.as_slice().len());
        let members = addresses.as_slice().iter().map(Member::new).collect();
        let state = RwLock::new(State {
            members,
            current: 0,
        });
        Master {
            group: Arc::new(Group {
                addresses,
                state,
                choice,
            }),
            limit: LIMIT,
        }
    }

    /// The same masters, for calls that go on for a minute while none of them serves.
    #[must_use]
    pub fn patient(&self) -> Master {
        Master {
            limit: LONG_LIMIT,
            ..self.clone()
        }
    }

    /// All masters, as they were given.
    pub fn addresses(&self) -> &Addresses {
        &self.group.addresses
    }

    /// Where the next call goes.
    pub fn address(&self) -> Address {
        self.group.current().address
    }

    /// Asks a question: one of the voters if reads are spread and it can answer, else the leader,
    /// as [`Master::retrying`] does.
    pub async fn ask<T, F, Fut>(&self, what: &str, mut question: F) -> Result<T>
    where
        F: FnMut(Voter) -> Fut,
        Fut: Future<Output = std::result::Result<T, Status>>,
    {
        if let Some((at, voter, pulse)) = self.group.voter() {
            match pulse.during(question(voter)).await {
                Ok(answer) => return Ok(answer),
                Err(status) if code_of(&status).is_transient() => {
                    if code_of(&status) != Code::NotLeader {
                        self.group.leave_voter(at);
                    }
                }
                Err(status) => {
                    let address = &self.group.addresses.as_slice()[at];
                    return Err(error_of(address, what, &status));
                }
            }
        }
        self.retrying(what, || question(self.group.current().leader()))
            .await
    }

    /// Questions about single inodes, and changes ([`crate::Session`] numbers them).
    pub fn calls(&self) -> Calls {
        self.group.current().calls
    }

    /// The rest of the namespace: sessions, listings, invalidations.
    pub fn metadata(&self) -> MetadataClient<Channel> {
        MetadataClient::new(self.group.current().channel).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Workers and topology.
    pub fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.group.current().channel).max_decoding_message_size(MAX_MESSAGE)
    }

    /// What a person asks for.
    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.group.current().channel).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Makes a call that may be repeated until it succeeds, fails for good, or too much time has
    /// passed. `call` asks for the client ([`Master::metadata`] and the like) each time: it may be
    /// another master's.
    pub async fn retrying<T, F, Fut>(&self, what: &str, call: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = std::result::Result<T, Status>>,
    {
        let longest = if self.group.is_alone() {
            WAIT_MAX
        } else {
            WAIT_MAX_IN_GROUP
        };
        let waits = [Duration::from_millis(20), longest];
        self.search(what, call, waits).await
    }

    /// [`Master::retrying`] for what nobody waits for, and thousands do at the same moment: the waits
    /// between two attempts are long, so that masters which are away are not run over when they come
    /// back.
    pub async fn calmly<T, F, Fut>(&self, what: &str, call: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = std::result::Result<T, Status>>,
    {
        self.search(what, call, CALM).await
    }

    async fn search<T, F, Fut>(&self, what: &str, mut call: F, waits: [Duration; 2]) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = std::result::Result<T, Status>>,
    {
        let begun = Instant::now();
        let mut search = Search::new(&self.group, waits);
        loop {
            let Member { address, pulse, .. } = self.group.current();
            let answer = if self.group.is_alone() {
                call().await
            } else {
                // Another one may lead by now.
                pulse.during(call()).await
            };
            let status = match answer {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let error = error_of(&address, what, &status);
            let pause = search.turn(&address, &error, leader_of(&status));
            let over = begun.elapsed() >= self.limit;
            if over || !error.code.is_transient() {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    /// Signs of life of the master that calls go to now.
    pub(crate) fn pulse(&self) -> Pulse {
        self.group.current().pulse
    }
}

impl Group {
    fn current(&self) -> Member {
        let state = self.state.read();
        state.members[state.current].clone()
    }

    /// The voter that is asked questions, if not the leader.
    fn voter(&self) -> Option<(usize, Voter, Pulse)> {
        let at = self.choice.as_ref()?.lock().now(Instant::now())?;
        let member = self.state.read().members[at].clone();
        let voter = Voter {
            calls: member.questions,
            channel: member.channel,
            any: true,
        };
        Some((at, voter, member.pulse))
    }

    fn leave_voter(&self, at: usize) {
        if let Some(choice) = &self.choice {
            let voters = self.addresses.as_slice().len();
            choice.lock().fail(at, voters, Instant::now());
        }
    }

    /// Goes on to the next master, unless somebody has left this one already.
    fn leave(&self, address: &Address) {
        let mut state = self.state.write();
        if state.members[state.current].address == *address {
            state.current = (state.current + 1) % state.members.len();
        }
    }

    /// Goes to the master that is said to lead.
    fn follow(&self, leader: &Address) {
        let mut state = self.state.write();
        let known = state.members.iter().position(|m| m.address == *leader);
        state.current = known.unwrap_or_else(|| {
            if state.members.len() >= MASTERS_MAX {
                // The one that was learned last; those given stay.
                state.members.pop();
            }
            let member = Member::new(leader);
            state.members.push(member);
            state.members.len() - 1
        });
    }

    fn is_alone(&self) -> bool {
        self.state.read().members.len() == 1
    }
}

/// The search for the leader during one call.
struct Search<'a> {
    group: &'a Group,
    waits: backon::ExponentialBackoff,
    /// Who did not answer last: a hint to it is old news.
    dead: Option<Address>,
    /// A hint was followed since the last pause.
    hinted: bool,
}

impl Search<'_> {
    fn new(group: &Group, [shortest, longest]: [Duration; 2]) -> Search<'_> {
        let waits = ExponentialBuilder::new()
            .with_min_delay(shortest)
            .with_max_delay(longest)
            .with_factor(2.0)
            .without_max_times()
            .with_jitter()
            .with_jitter_seed(RandomState::new().hash_one(0))
            .build();
        Search {
            group,
            waits,
            dead: None,
            hinted: false,
        }
    }

    /// After a failure at `asked`: where the next attempt goes; how long to wait before.
    fn turn(&mut self, asked: &Address, error: &Error, hint: Option<Address>) -> Duration {
        match (error.code, hint) {
            (Code::NotLeader, Some(leader)) if self.dead.as_ref() != Some(&leader) => {
                self.group.follow(&leader);
                if !std::mem::replace(&mut self.hinted, true) {
                    return Duration::ZERO;
                }
            }
            // It still believes in a leader that is gone: it will know better soon.
            (Code::NotLeader, Some(_)) => self.dead = None,
            (Code::NotLeader, None) => self.group.leave(asked),
            (Code::Unavailable, _) => {
                self.dead = Some(asked.clone());
                self.group.leave(asked);
            }
            _ => {}
        }
        self.hinted = false;
        self.waits.next().unwrap_or(WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_proto::convert::status;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn address(n: u16) -> Address {
        format!("127.0.0.1:{n}").parse().unwrap()
    }

    fn three() -> Master {
        Master::new(Addresses::new(vec![address(1), address(2), address(3)]).unwrap())
    }

    fn failed(code: Code) -> Error {
        Error::new(code, "x")
    }

    #[tokio::test]
    async fn a_hint_is_followed_at_once_and_only_once_in_a_row() {
        let master = three();
        let mut search = Search::new(&master.group, CALM);
        let not_leader = failed(Code::NotLeader);
        let pause = search.turn(&address(1), &not_leader, Some(address(3)));
        assert_eq!((pause, master.address()), (Duration::ZERO, address(3)));
        let pause = search.turn(&address(3), &not_leader, Some(address(9)));
        assert!(pause > Duration::ZERO, "two that point at each other");
        assert_eq!(master.address(), address(9), "one that was not given");
        assert_eq!(master.addresses().as_slice().len(), 3);
    }

    #[tokio::test]
    async fn the_next_is_asked_when_one_is_away_and_hints_to_it_are_waited_out() {
        let master = three();
        let mut search = Search::new(&master.group, CALM);
        let away = failed(Code::Unavailable);
        assert!(search.turn(&address(1), &away, None) > Duration::ZERO);
        assert_eq!(master.address(), address(2));
        let old_news = search.turn(&address(2), &failed(Code::NotLeader), Some(address(1)));
        assert!(old_news > Duration::ZERO);
        assert_eq!(master.address(), address(2));
        // Somebody else's call has moved on already.
        search.turn(&address(1), &away, None);
        assert_eq!(master.address(), address(2));
        search.turn(&address(2), &failed(Code::NotLeader), None);
        assert_eq!(master.address(), address(3));
        search.turn(&address(3), &failed(Code::Busy), None);
        assert_eq!(
            master.address(),
            address(3),
            "it answers: busy is no absence"
        );
    }

    #[tokio::test]
    async fn transient_failures_are_repeated_and_others_are_not() {
        let (calls, master) = (AtomicU32::new(0), Master::new(address(1)));
        let answer = master.retrying("lookup", || {
            let n = calls.fetch_add(1, Ordering::Relaxed);
            async move {
                if n < 2 {
                    Err(status(Code::Unavailable, "away"))
                } else {
                    Ok(7)
                }
            }
        });
        assert_eq!(answer.await.unwrap(), 7);
        calls.store(0, Ordering::Relaxed);
        let failed = master.retrying::<(), _, _>("lookup", || {
            calls.fetch_add(1, Ordering::Relaxed);
            async { Err(status(Code::Stale, "gone")) }
        });
        let error = failed.await.unwrap_err();
        assert_eq!(error.code, Code::Stale);
        assert_eq!(error.message, "lookup at 127.0.0.1:1: gone");
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
