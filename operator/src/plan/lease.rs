//! Who acts: one operator of several, by a Lease. Pure: what a candidate does next.

use k8s_openapi::{
    api::coordination::v1::LeaseSpec,
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::{SignedDuration, Timestamp},
};

/// For how long a lease holds without being renewed.
pub const LENGTH: SignedDuration = SignedDuration::from_secs(15);
/// How often its holder renews it.
pub const RENEW: SignedDuration = SignedDuration::from_secs(5);
/// A holder that could not renew it for so long stops acting: before anyone else may begin.
pub const GIVE_UP: SignedDuration = SignedDuration::from_secs(10);

/// What a candidate knows.
#[derive(Clone, Debug, Default)]
pub struct Candidate {
    /// Its name.
    pub me: String,
    /// What it last read in the lease, and when that was new, by its own clock: clocks of others may be wrong.
    seen: Option<(LeaseSpec, Timestamp)>,
}

/// What it does now.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Writes this: it holds the lease if that succeeds.
    Write(LeaseSpec),
    /// Somebody else holds it.
    Wait,
}

impl Candidate {
    /// One that has seen nothing.
    pub fn new(me: impl Into<String>) -> Candidate {
        Candidate {
            me: me.into(),
            seen: None,
        }
    }

    /// After reading the lease (`None`: there is none).
    pub fn step(&mut self, lease: Option<&LeaseSpec>, now: Timestamp) -> Step {
        let Some(lease) = lease else {
            return Step::Write(self.held(None, now));
        };
        let unchanged = matches!(&self.seen, Some((seen, _)) if seen == lease);
        if !unchanged {
            self.seen = Some((lease.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        let holder = lease.holder_identity.as_deref().unwrap_or_default();
        let length = lease
            .lease_duration_seconds
            .map_or(LENGTH, |seconds| SignedDuration::from_secs(seconds.into()));
        if holder == self.me || holder.is_empty() || now.duration_since(since) > length {
            Step::Write(self.held(Some(lease), now))
        } else {
            Step::Wait
        }
    }

    fn held(&self, before: Option<&LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let mine = before.is_some_and(|b| b.holder_identity.as_ref() == Some(&self.me));
        let acquired = before.and_then(|b| b.acquire_time.clone()).filter(|_| mine);
        let transitions = before.and_then(|b| b.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: Some(LENGTH.as_secs() as i32),
            acquire_time: acquired.or(Some(MicroTime(now))),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(transitions + i32::from(before.is_some() && !mine)),
            ..LeaseSpec::default()
        }
    }

    /// What it leaves behind when it stops: the next need not wait.
    pub fn released(&self, lease: &LeaseSpec) -> Option<LeaseSpec> {
        let mine = lease.holder_identity.as_ref() == Some(&self.me);
        mine.then(|| LeaseSpec {
            holder_identity: None,
            lease_duration_seconds: Some(1),
            ..lease.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn written(step: Step) -> LeaseSpec {
        match step {
            Step::Write(spec) => spec,
            Step::Wait => panic!("waits"),
        }
    }

    #[test]
    fn one_holds_it_and_the_other_waits_until_it_runs_out() {
        let (mut a, mut b) = (Candidate::new("a"), Candidate::new("b"));
        let first = written(a.step(None, at(0)));
        assert_eq!(first.holder_identity.as_deref(), Some("a"));
        assert_eq!(first.lease_transitions, Some(0));
        // B's clock is far ahead: what counts is how long it saw no change.
        assert_eq!(b.step(Some(&first), at(1000)), Step::Wait);
        assert_eq!(b.step(Some(&first), at(1014)), Step::Wait);
        let second = written(a.step(Some(&first), at(5)));
        assert_eq!(second.acquire_time, first.acquire_time);
        assert_eq!(b.step(Some(&second), at(1016)), Step::Wait);
        assert_eq!(b.step(Some(&second), at(1031)), Step::Wait);
        let third = written(b.step(Some(&second), at(1032)));
        assert_eq!(third.holder_identity.as_deref(), Some("b"));
        assert_eq!(third.lease_transitions, Some(1));
        assert_eq!(a.step(Some(&third), at(6)), Step::Wait);
    }

    #[test]
    fn whoever_stops_lets_it_go_at_once() {
        let (mut a, mut b) = (Candidate::new("a"), Candidate::new("b"));
        let held = written(a.step(None, at(0)));
        assert_eq!(b.released(&held), None);
        let free = a.released(&held).unwrap();
        assert!(matches!(b.step(Some(&free), at(1)), Step::Write(_)));
    }

    #[test]
    fn a_holder_stops_before_the_next_begins() {
        assert!(GIVE_UP < LENGTH && RENEW < GIVE_UP);
    }
}
