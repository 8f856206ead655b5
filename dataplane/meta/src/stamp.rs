//! A point in time as rows keep it.

use serde::{Deserialize, Serialize};

/// Nanoseconds since the Unix epoch, written as seconds and nanoseconds: most under stores know
/// whole seconds, which then take five bytes instead of ten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(i64, u32)", into = "(i64, u32)")]
pub(crate) struct Stamp(pub(crate) i64);

const SECOND: i64 = 1_000_000_000;

impl From<(i64, u32)> for Stamp {
    fn from((seconds, nanos): (i64, u32)) -> Stamp {
        Stamp(
            seconds
                .saturating_mul(SECOND)
                .saturating_add(i64::from(nanos)),
        )
    }
}

impl From<Stamp> for (i64, u32) {
    fn from(stamp: Stamp) -> (i64, u32) {
        (
            stamp.0.div_euclid(SECOND),
            stamp.0.rem_euclid(SECOND) as u32,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back() {
        for ns in [
            0,
            1,
            -1,
            SECOND,
            -SECOND,
            1_700_000_000_123_456_789,
            i64::MAX,
        ] {
            let bytes = postcard::to_allocvec(&Stamp(ns)).unwrap();
            assert_eq!(postcard::from_bytes::<Stamp>(&bytes).unwrap(), Stamp(ns));
        }
        let whole = postcard::to_allocvec(&Stamp(1_700_000_000 * SECOND)).unwrap();
        assert_eq!(whole.len(), 6);
    }
}
