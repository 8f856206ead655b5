//! What is known of each mount: what the metadata has of it, and what workers say. Pure.

use forebay_meta::Usage;
use forebay_proto::v1;
use forebay_types::{MountId, WorkerId};
use std::{cmp::Reverse, collections::BTreeSet};

/// So many of those that hold most of a mount are told.
const HOLDERS: usize = 10;

/// What the live workers said of a mount, taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    cached: u64,
    home: u64,
    /// The most that one of them has.
    most: u64,
    opens: u64,
    opens_whole: u64,
    /// Those that have most, with how much, the fullest first.
    holders: BTreeSet<(Reverse<u64>, WorkerId)>,
}

impl Told {
    /// Takes in what a worker said; once each.
    pub(crate) fn hear(&mut self, worker: WorkerId, counters: &v1::MountCounters) {
        // They come over the network: sums stay in range whatever is in them.
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.cached, counters.cached_bytes);
        add(&mut self.home, counters.home_bytes);
        add(&mut self.opens, counters.opens);
        add(&mut self.opens_whole, counters.opens_whole);
        self.most = self.most.max(counters.cached_bytes);
        if counters.cached_bytes > 0 {
            self.holders
                .insert((Reverse(counters.cached_bytes), worker));
            if self.holders.len() > HOLDERS {
                self.holders.pop_last();
            }
        }
    }

    /// The same with what the metadata has.
    pub(crate) fn with(self, mount: MountId, usage: Usage) -> v1::MountUsage {
        // A worker never has a byte twice, and no two are the first home of one. What is in the tiers of
        // contents that were replaced meanwhile may be more than there is now.
        let unique = self.home.max(self.most);
        let holder = |(Reverse(cached_bytes), worker): (Reverse<u64>, WorkerId)| v1::Holder {
            worker: worker.0,
            cached_bytes,
        };
        let holders = self.holders.into_iter().map(holder);
        v1::MountUsage {
            mount: mount.0,
            files: usage.files,
            bytes: usage.bytes,
            unlisted: usage.unlisted,
            last_sync_ns: usage.last_sync_ns,
            cached_bytes: self.cached,
            unique_bytes: unique.min(self.cached).min(usage.bytes),
            opens: self.opens,
            opens_whole: self.opens_whole,
            holders: holders.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(workers: &[(u64, u64)]) -> Told {
        let mut told = Told::default();
        for (id, (cached_bytes, home_bytes)) in workers.iter().enumerate() {
            let counters = v1::MountCounters {
                cached_bytes: *cached_bytes,
                home_bytes: *home_bytes,
                opens: 3,
                opens_whole: 2,
                ..v1::MountCounters::default()
            };
            told.hear(WorkerId(id as u64), &counters);
        }
        told
    }

    fn unique(workers: &[(u64, u64)], bytes: u64) -> u64 {
        let usage = Usage {
            bytes,
            ..Usage::default()
        };
        told(workers).with(MountId(7), usage).unique_bytes
    }

    #[test]
    fn the_unique_part_is_never_more_than_there_is() {
        assert_eq!(unique(&[], 100), 0);
        assert_eq!(unique(&[(40, 40), (50, 30)], 100), 70, "homes");
        assert_eq!(unique(&[(40, 0), (50, 3)], 100), 50, "the fullest one");
        assert_eq!(unique(&[(80, 80), (80, 20)], 90), 90, "replaced since");
        assert_eq!(unique(&[(4, 40)], 90), 4, "in the midst of a change");
        assert_eq!(unique(&[(u64::MAX, u64::MAX); 2], 90), 90);
    }

    #[test]
    fn opens_are_summed() {
        let usage = told(&[(1, 1), (2, 2)]).with(MountId(7), Usage::default());
        assert_eq!((usage.mount, usage.cached_bytes), (7, 3));
        assert_eq!((usage.opens, usage.opens_whole), (6, 4));
    }

    #[test]
    fn the_fullest_workers_are_told() {
        let holders = |workers: &[(u64, u64)]| -> Vec<(u64, u64)> {
            let usage = told(workers).with(MountId(7), Usage::default());
            let holders = usage.holders.iter();
            holders.map(|h| (h.worker, h.cached_bytes)).collect()
        };
        assert_eq!(holders(&[(0, 0)]), []);
        assert_eq!(holders(&[(5, 0), (0, 0), (7, 0)]), [(2, 7), (0, 5)]);
        let many: Vec<(u64, u64)> = (1..=12).map(|bytes| (bytes, 0)).collect();
        let most = holders(&many);
        assert_eq!((most.len(), most[0], most[9]), (10, (11, 12), (2, 3)));
        assert_eq!(holders(&[(4, 0); 12])[9], (9, 4), "the first of equals");
    }
}
