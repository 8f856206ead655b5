//! What moves between tiers, and how much must go. Pure.

use crate::admission::{self, Room};
use forebay_types::{FileId, Medium};

/// Uses of a file on a slower tier that make it a candidate for a faster one.
pub(crate) const PROMOTE_USES: u16 = 3;

/// How full a tier is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) medium: Medium,
    /// Most bytes the tier may hold now.
    pub(crate) limit: u64,
    /// Bytes held and bytes promised to writers.
    pub(crate) taken: u64,
    /// Whether it serves.
    pub(crate) healthy: bool,
}

/// The watermarks, as fractions of a limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watermarks {
    pub(crate) high: f64,
    pub(crate) low: f64,
}

fn part(limit: u64, fraction: f64) -> u64 {
    (limit as f64 * fraction) as u64
}

impl Watermarks {
    /// Whether eviction is due.
    pub(crate) fn is_high(self, load: Load) -> bool {
        load.taken > part(load.limit, self.high)
    }

    /// Bytes that must go: down to the low watermark from above the high one, and in any case enough
    /// for the `wanted` bytes of a writer that found no room, but not more than half of the tier.
    pub(crate) fn excess(self, load: Load, wanted: u64) -> u64 {
        let wanted = wanted.min(load.limit / 2);
        let mut target = u64::MAX;
        if self.is_high(load) {
            target = part(load.limit, self.low);
        }
        if wanted > load.limit.saturating_sub(load.taken) {
            target = target.min(part(load.limit, self.low).min(load.limit.saturating_sub(wanted)));
        }
        load.taken.saturating_sub(target)
    }

    /// The slower tier that takes a victim of `bytes` bytes without having to evict for it.
    pub(crate) fn demotion(self, tiers: &[Load], from: usize, bytes: u64) -> Option<usize> {
        tiers
            .iter()
            .enumerate()
            .filter(|(_, tier)| {
                tier.healthy
                    && tier.medium > tiers[from].medium
                    && tier.taken + bytes <= part(tier.limit, self.high)
            })
            .min_by_key(|(_, tier)| (tier.medium, tier.taken))
            .map(|(n, _)| n)
    }

    /// Which candidates (file, its tier, its bytes) go to which faster tier: first come, first
    /// served, into the room below the low watermark.
    pub(crate) fn promotions(
        self,
        tiers: &[Load],
        candidates: &[(FileId, usize, u64)],
    ) -> Vec<(FileId, usize)> {
        let mut tiers = tiers.to_vec();
        let mut plan = Vec::new();
        for (id, from, bytes) in candidates {
            let from_medium = tiers[*from].medium;
            let to = tiers
                .iter()
                .enumerate()
                .filter(|(_, tier)| {
                    tier.medium < from_medium
                        && admission::fits(
                            Room {
                                medium: tier.medium,
                                limit: tier.limit,
                                free: 0,
                                healthy: tier.healthy,
                            },
                            *bytes,
                        )
                        && tier.taken + bytes <= part(tier.limit, self.low)
                })
                .min_by_key(|(_, tier)| (tier.medium, tier.taken))
                .map(|(n, _)| n);
            if let Some(to) = to {
                tiers[to].taken += bytes;
                plan.push((*id, to));
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::id;

    const MARKS: Watermarks = Watermarks {
        high: 0.9,
        low: 0.8,
    };

    fn load(medium: Medium, limit: u64, taken: u64) -> Load {
        Load {
            medium,
            limit,
            taken,
            healthy: true,
        }
    }

    #[test]
    fn eviction_goes_from_the_high_to_the_low_watermark() {
        assert_eq!(MARKS.excess(load(Medium::Ssd, 1000, 900), 0), 0);
        assert_eq!(MARKS.excess(load(Medium::Ssd, 1000, 901), 0), 101);
        assert_eq!(MARKS.excess(load(Medium::Ssd, 0, 10), 0), 10);
    }

    #[test]
    fn a_writer_that_found_no_room_gets_it_below_the_high_watermark_too() {
        assert_eq!(MARKS.excess(load(Medium::Ssd, 1000, 850), 150), 0);
        assert_eq!(MARKS.excess(load(Medium::Ssd, 1000, 850), 151), 50);
        assert_eq!(MARKS.excess(load(Medium::Ssd, 1000, 850), 500), 350);
        assert_eq!(MARKS.excess(load(Medium::Ssd, 1000, 850), 5000), 350);
    }

    #[test]
    fn victims_go_to_the_next_tier_that_has_room() {
        let tiers = [
            load(Medium::Mem, 100, 95),
            load(Medium::Ssd, 1000, 880),
            load(Medium::Hdd, 10_000, 0),
        ];
        assert_eq!(MARKS.demotion(&tiers, 0, 20), Some(1));
        assert_eq!(MARKS.demotion(&tiers, 0, 21), Some(2));
        assert_eq!(MARKS.demotion(&tiers, 2, 1), None);
        let mut broken = tiers;
        broken[1].healthy = false;
        assert_eq!(MARKS.demotion(&broken, 0, 20), Some(2));
    }

    #[test]
    fn promotions_stop_at_the_low_watermark() {
        let tiers = [load(Medium::Mem, 100, 60), load(Medium::Ssd, 1000, 500)];
        let candidates = [(id(1), 1, 12), (id(2), 1, 12), (id(3), 1, 8), (id(4), 0, 1)];
        assert_eq!(
            MARKS.promotions(&tiers, &candidates),
            [(id(1), 0), (id(3), 0)]
        );
        assert!(
            MARKS.promotions(&tiers, &[(id(1), 1, 13)]).is_empty(),
            "larger than its share of the tier"
        );
    }
}
