//! Which tier a new file goes to. Pure.

use forebay_types::Medium;
use std::cmp::Reverse;

/// What admission knows of a tier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) medium: Medium,
    /// Most bytes the tier may hold now: its quota, or less when the disk has less.
    pub(crate) limit: u64,
    /// Bytes it can take without evicting.
    pub(crate) free: u64,
    /// Whether it serves.
    pub(crate) healthy: bool,
}

/// A file larger than one part in this many of a tier goes lower: it would drive out too much.
const SHARE: u64 = 8;

/// Whether a file of `size` bytes is small enough for the tier.
pub(crate) fn fits(tier: Room, size: u64) -> bool {
    tier.healthy && size <= tier.limit / SHARE
}

/// The tier for a new file of `size` bytes: the fastest where it fits and there is room now; else
/// the fastest where it fits; else the largest there is, of which it will have a part. None if no
/// tier serves. Among tiers of one medium the one with most room.
pub(crate) fn choose(tiers: &[Room], size: u64) -> Option<usize> {
    let fastest = |able: &dyn Fn(&Room) -> bool| {
        tiers
            .iter()
            .enumerate()
            .filter(|(_, tier)| able(tier))
            .min_by_key(|(_, tier)| (tier.medium, Reverse(tier.free)))
            .map(|(n, _)| n)
    };
    fastest(&|tier| fits(*tier, size) && tier.free >= size)
        .or_else(|| fastest(&|tier| fits(*tier, size)))
        .or_else(|| {
            tiers
                .iter()
                .enumerate()
                .filter(|(_, tier)| tier.healthy)
                .max_by_key(|(_, tier)| (tier.limit, tier.medium))
                .map(|(n, _)| n)
        })
}

/// Where a file goes that tier `from` has no room for now although it was chosen: the fastest
/// other tier, no faster, that can take `bytes`.
pub(crate) fn elsewhere(tiers: &[Room], from: usize, bytes: u64) -> Option<usize> {
    tiers
        .iter()
        .enumerate()
        .filter(|(n, tier)| {
            *n != from && tier.healthy && tier.medium >= tiers[from].medium && tier.free >= bytes
        })
        .min_by_key(|(_, tier)| (tier.medium, Reverse(tier.free)))
        .map(|(n, _)| n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tier(medium: Medium, limit: u64, free: u64) -> Room {
        Room {
            medium,
            limit,
            free,
            healthy: true,
        }
    }

    #[test]
    fn the_fastest_tier_with_room_takes_a_small_file() {
        let tiers = [
            tier(Medium::Mem, 800, 100),
            tier(Medium::Ssd, 8000, 8000),
            tier(Medium::Hdd, 80_000, 80_000),
        ];
        assert_eq!(choose(&tiers, 100), Some(0));
        assert_eq!(choose(&tiers, 101), Some(1), "over an eighth of MEM");
        assert_eq!(choose(&tiers, 1001), Some(2));
        assert_eq!(choose(&tiers, 1_000_000), Some(2), "a part of it");
    }

    #[test]
    fn a_full_tier_is_passed_over_unless_all_are_full() {
        let full = [tier(Medium::Mem, 800, 5), tier(Medium::Ssd, 8000, 50)];
        assert_eq!(choose(&full, 10), Some(1));
        assert_eq!(choose(&full, 60), Some(0), "eviction will make room");
        assert_eq!(elsewhere(&full, 0, 50), Some(1));
        assert_eq!(elsewhere(&full, 0, 51), None);
        assert_eq!(elsewhere(&full, 1, 1), None, "never faster");
    }

    #[test]
    fn a_faulty_tier_takes_nothing() {
        let mut tiers = [tier(Medium::Mem, 800, 800), tier(Medium::Ssd, 8000, 8000)];
        tiers[0].healthy = false;
        assert_eq!(choose(&tiers, 1), Some(1));
        tiers[1].healthy = false;
        assert_eq!(choose(&tiers, 1), None);
        assert_eq!(elsewhere(&tiers, 0, 1), None);
    }

    #[test]
    fn disks_of_one_medium_share_the_load() {
        let tiers = [tier(Medium::Ssd, 8000, 100), tier(Medium::Ssd, 8000, 200)];
        assert_eq!(choose(&tiers, 10), Some(1));
    }
}
