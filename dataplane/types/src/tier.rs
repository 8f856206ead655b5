//! Cache tiers.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a tier is made of, fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Medium {
    /// tmpfs.
    Mem,
    /// Flash.
    Ssd,
    /// Spinning disk.
    Hdd,
}

impl Medium {
    /// Its name in configuration, tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Medium::Mem => "MEM",
            Medium::Ssd => "SSD",
            Medium::Hdd => "HDD",
        }
    }
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Medium {
    type Err = String;
    fn from_str(text: &str) -> Result<Medium, String> {
        match text {
            "MEM" => Ok(Medium::Mem),
            "SSD" => Ok(Medium::Ssd),
            "HDD" => Ok(Medium::Hdd),
            other => Err(format!(
                "unknown tier medium '{other}': use MEM, SSD or HDD"
            )),
        }
    }
}
