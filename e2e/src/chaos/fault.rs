//! What is done to the masters, and in which order.

use clap::ValueEnum;
use rand::{Rng, rngs::SmallRng, seq::SliceRandom};
use serde::Serialize;

/// What is done to the masters in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL of the leader.
    KillLeader,
    /// SIGSTOP of the leader for longer than an election.
    StopLeader,
    /// SIGKILL of a follower.
    KillFollower,
    /// SIGSTOP of a follower.
    StopFollower,
    /// SIGKILL of all at once.
    KillAll,
    /// SIGKILL of any one, whose directory is gone afterwards.
    LoseDisk,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Fault; 6] = [
        Fault::KillLeader,
        Fault::StopLeader,
        Fault::KillFollower,
        Fault::StopFollower,
        Fault::KillAll,
        Fault::LoseDisk,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Fault::KillLeader => "kill leader",
            Fault::StopLeader => "stop leader",
            Fault::KillFollower => "kill follower",
            Fault::StopFollower => "stop follower",
            Fault::KillAll => "kill all",
            Fault::LoseDisk => "lose disk",
        }
    }

    /// Whether enough masters are left: then no client may see an error.
    pub fn leaves_majority(self) -> bool {
        self != Fault::KillAll
    }
}

/// The faults of so many rounds: every kind once, then those of the leader more often than others.
pub(super) fn drawn(rounds: u32, rng: &mut SmallRng) -> Vec<Fault> {
    let mut faults = Fault::ALL.to_vec();
    faults.shuffle(rng);
    while faults.len() < rounds as usize {
        faults.push(match rng.random_range(0..10) {
            0..3 => Fault::KillLeader,
            3..6 => Fault::StopLeader,
            6 => Fault::KillFollower,
            7 => Fault::StopFollower,
            8 => Fault::KillAll,
            _ => Fault::LoseDisk,
        });
    }
    faults.truncate(rounds as usize);
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_draws_the_same_again_and_every_kind_comes_early() {
        let of = |seed, rounds| drawn(rounds, &mut SmallRng::seed_from_u64(seed));
        assert_eq!(of(1, 50), of(1, 50));
        assert_ne!(of(1, 50), of(2, 50));
        assert_eq!(of(1, 4).len(), 4);
        let early: BTreeSet<Fault> = of(3, 60)[..6].iter().copied().collect();
        assert_eq!(early.len(), Fault::ALL.len());
    }
}
