//! Sizes and shares of processors as Kubernetes writes them.

use crate::schema;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};

/// A number of bytes as text: `10Gi`, `1.5Ti`, `200M`. Keeps the text that the user wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Quantity {
    text: String,
    bytes: u64,
}

const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
];

impl Quantity {
    /// How many bytes it is, rounded down.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The largest unit that keeps three digits, for people: `138Gi`, `1.21Ti`, `0`.
    pub(crate) fn rounded(bytes: u64) -> String {
        let (unit, scale) = UNITS[7..]
            .iter()
            .rev()
            .find(|(_, scale)| bytes >= *scale)
            .copied()
            .unwrap_or(UNITS[0]);
        let whole = bytes / scale;
        let hundredths = u128::from(bytes % scale) * 100 / u128::from(scale);
        match whole {
            _ if scale == 1 || whole >= 100 => format!("{whole}{unit}"),
            10..100 => format!("{whole}.{}{unit}", hundredths / 10),
            _ => format!("{whole}.{hundredths:02}{unit}"),
        }
    }
}

impl FromStr for Quantity {
    type Err = String;
    fn from_str(text: &str) -> Result<Quantity, String> {
        let bad = || format!("bad size '{text}': write it like 512Mi, 10Gi or 1.5Ti");
        let unit = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(unit);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let scale = UNITS.iter().find(|(name, _)| *name == unit);
        let scale = u128::from(scale.ok_or_else(bad)?.1);
        if !whole.starts_with(|c: char| matches!(c, '1'..='9')) || fraction.len() > 9 {
            return Err(bad());
        }
        let whole: u128 = whole.parse().map_err(|_| bad())?;
        let part: u128 = fraction.parse().map_err(|_| bad())?;
        let part = part * scale / 10u128.pow(fraction.len() as u32);
        let bytes = whole.checked_mul(scale).and_then(|b| b.checked_add(part));
        let bytes = bytes.and_then(|bytes| i64::try_from(bytes).ok());
        Ok(Quantity {
            text: text.to_owned(),
            bytes: bytes.ok_or_else(bad)?.cast_unsigned(),
        })
    }
}

impl TryFrom<String> for Quantity {
    type Error = String;
    fn try_from(text: String) -> Result<Quantity, String> {
        text.parse()
    }
}

impl From<Quantity> for String {
    fn from(quantity: Quantity) -> String {
        quantity.text
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema::text(
            28,
            r"self.matches('^[1-9][0-9]*([.][0-9]{1,9})?(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$') && quantity(self).compareTo(quantity('8Ei')) < 0",
            "a size in bytes, such as 512Mi, 10Gi or 1.5Ti: 1 or more, below 8Ei",
        )
    }
}

/// Cores, as in a pod: `2`, `1.5`, `500m`.
pub(crate) fn cores(_: &mut SchemaGenerator) -> Schema {
    schema::text(
        16,
        r"self.matches('^([1-9][0-9]*m|[0-9]+([.][0-9]{1,3})?)$') && quantity(self).compareTo(quantity('0')) > 0",
        "a number of cores, such as 2, 1.5 or 500m",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_kubernetes_reads_them() {
        for (text, bytes) in [
            ("1", 1),
            ("10Gi", 10 << 30),
            ("1.5Ti", 3 << 39),
            ("200M", 200_000_000),
            ("1.5k", 1500),
            ("1.0000001Ki", 1024),
            ("7.999999999Ei", 9_223_372_035_701_854_303),
        ] {
            let quantity: Quantity = text.parse().unwrap();
            assert_eq!(
                (quantity.bytes(), quantity.to_string()),
                (bytes, text.into())
            );
        }
        for text in [
            "",
            "0",
            "0.5Gi",
            "-1",
            "10GiB",
            "10 Gi",
            "Gi",
            "1e3",
            "500m",
            "1..5",
            "1.Gi",
            "8Ei",
            "99999999999999999999",
            "١Gi",
        ] {
            let error = text.parse::<Quantity>().unwrap_err();
            assert!(error.contains("10Gi"), "{error}");
        }
    }

    #[test]
    fn sizes_for_people_have_three_digits_and_never_round_up() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.00Ki"),
            ((1 << 30) - 1, "1023Mi"),
            (10 << 30, "10.0Gi"),
            ((138 << 30) + (1 << 29), "138Gi"),
            (u64::MAX, "15.9Ei"),
        ] {
            assert_eq!(Quantity::rounded(bytes), text);
        }
    }
}
