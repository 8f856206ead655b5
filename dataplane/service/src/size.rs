//! Sizes in configuration: whole bytes, written with a unit.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A number of bytes; reads `1048576`, `256MiB`, `10Gi`, `2 GB`; prints with a binary unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub struct ByteSize(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Number(u64),
    Text(String),
}

impl TryFrom<Text> for ByteSize {
    type Error = String;
    fn try_from(text: Text) -> Result<ByteSize, String> {
        match text {
            Text::Number(bytes) => Ok(ByteSize(bytes)),
            Text::Text(text) => text.parse(),
        }
    }
}

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<ByteSize, String> {
        // Kubernetes writes `10Gi`; the library wants `10GiB`.
        let full = match text.strip_suffix('i') {
            Some(_) => format!("{text}B"),
            None => text.to_owned(),
        };
        full.parse::<bytesize::ByteSize>()
            .map(|size| ByteSize(size.as_u64()))
            .map_err(|_| format!("bad size '{text}': use bytes or a unit, as in 512MiB or 10GiB"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&bytesize::ByteSize::b(self.0).display().iec().to_string())
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> String {
        size.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("256MiB", 256 << 20),
            ("10Gi", 10 << 30),
            ("2 GB", 2_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "x", "10 parsecs", "-1"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
