//! Settings of a store.

use crate::Error;
use forebay_types::Medium;
use std::path::PathBuf;

/// A tier of the store.
#[derive(Clone, Debug)]
pub struct TierConfig {
    /// What it is made of.
    pub medium: Medium,
    /// Where; made if missing.
    pub dir: PathBuf,
    /// Most bytes to hold.
    pub quota: u64,
}

/// Settings of a store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The tiers, in any order; at least one.
    pub tiers: Vec<TierConfig>,
    /// Which eviction policy.
    pub policy: PolicyKind,
    /// Eviction begins when a tier holds more than this fraction of its quota …
    pub high_watermark: f64,
    /// … and ends below this one.
    pub low_watermark: f64,
}

/// The eviction policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// Least recently used.
    Lru,
    /// Least frequently used, with aging.
    Lfu,
    /// S3-FIFO (Yang et al., SOSP 2023).
    S3Fifo,
}

impl StoreConfig {
    /// Whether it can be; the text of the error says what to do.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.tiers.is_empty() {
            return Err(Error::Config("no tier: name at least one".to_owned()));
        }
        for (n, tier) in self.tiers.iter().enumerate() {
            if tier.quota == 0 {
                return Err(Error::Config(format!(
                    "tier {} has a size of 0: give it room for a page at least",
                    tier.dir.display()
                )));
            }
            if self.tiers[..n].iter().any(|other| other.dir == tier.dir) {
                return Err(Error::Config(format!(
                    "two tiers use {}: give each its own directory",
                    tier.dir.display()
                )));
            }
        }
        let (low, high) = (self.low_watermark, self.high_watermark);
        if !(low > 0.0 && low < high && high <= 1.0) {
            return Err(Error::Config(format!(
                "watermarks low {low}, high {high}: need 0 < low < high <= 1"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_be() {
        let tier = TierConfig {
            medium: Medium::Ssd,
            dir: "/a".into(),
            quota: 1,
        };
        let good = StoreConfig {
            tiers: vec![tier.clone()],
            policy: PolicyKind::Lru,
            high_watermark: 0.9,
            low_watermark: 0.8,
        };
        assert!(good.check().is_ok());
        let mut none = good.clone();
        none.tiers.clear();
        let mut twice = good.clone();
        twice.tiers.push(tier);
        let mut empty = good.clone();
        empty.tiers[0].quota = 0;
        let mut upside_down = good.clone();
        upside_down.low_watermark = 0.95;
        let mut not_a_number = good;
        not_a_number.high_watermark = f64::NAN;
        for bad in [none, twice, empty, upside_down, not_a_number] {
            assert!(matches!(bad.check(), Err(Error::Config(_))), "{bad:?}");
        }
    }
}
