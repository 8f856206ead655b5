//! What is known of each mount: what the metadata has of it, and what workers say. Pure.

use forebay_meta::Usage;
use forebay_proto::v1;
use forebay_types::MountId;

/// What the live workers said of a mount, taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    cached: u64,
    home: u64,
    /// The most that one of them has.
    most: u64,
    opens: u64,
    opens_whole: u64,
}

impl Told {
    /// Takes in what a worker said.
    pub(crate) fn hear(&mut self, counters: &v1::MountCounters) {
        // They come over the network: sums stay in range whatever is in them.
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.cached, counters.cached_bytes);
        add(&mut self.home, counters.home_bytes);
        add(&mut self.opens, counters.opens);
        add(&mut self.opens_whole, counters.opens_whole);
        self.most = self.most.max(counters.cached_bytes);
    }

    /// The same with what the metadata has.
    pub(crate) fn with(self, mount: MountId, usage: Usage) -> v1::MountUsage {
        // A worker never has a byte twice, and no two are the first home of one. What is in the tiers of
        // contents that were replaced meanwhile may be more than there is now.
        let unique = self.home.max(self.most);
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(workers: &[(u64, u64)]) -> Told {
        let mut told = Told::default();
        for (cached_bytes, home_bytes) in workers {
            told.hear(&v1::MountCounters {
                cached_bytes: *cached_bytes,
                home_bytes: *home_bytes,
                opens: 3,
                opens_whole: 2,
                ..v1::MountCounters::default()
            });
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
}
