//! A share of a whole that never says more than is true.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt};

/// A share of a whole, 0 to 100. It is rounded down: 100 means all of it, and nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl Percent {
    /// `part` of `whole`. A part that is larger than its whole (the two were counted at different
    /// moments) is all of it; of nothing there is no share.
    pub fn of(part: u64, whole: u64) -> Option<Percent> {
        let percent = (u128::from(part) * 100).checked_div(u128::from(whole))?;
        Some(Percent(percent.min(100) as u8))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = String;
    fn try_from(number: u8) -> Result<Percent, String> {
        if number > 100 {
            return Err(format!("bad percentage {number}: use 0 to 100"));
        }
        Ok(Percent(number))
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> u8 {
        percent.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl JsonSchema for Percent {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": 0, "maximum": 100})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_100_and_nothing_less_is() {
        let of = |part, whole| Percent::of(part, whole).map(Percent::get);
        assert_eq!(of(0, 0), None);
        assert_eq!(of(5, 0), None);
        assert_eq!(of(0, 7), Some(0));
        assert_eq!(of(1, 3), Some(33));
        assert_eq!(of(999_999, 1_000_000), Some(99));
        assert_eq!(of(u64::MAX - 1, u64::MAX), Some(99));
        assert_eq!(of(u64::MAX, u64::MAX), Some(100));
        assert_eq!(of(u64::MAX, 1), Some(100));
    }

    #[test]
    fn more_than_100_is_not_read() {
        assert!(serde_json::from_str::<Percent>("100").is_ok());
        assert!(serde_json::from_str::<Percent>("101").is_err());
    }
}
