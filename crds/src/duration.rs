//! Times as Forebay writes them.

use crate::schema;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};

/// A span of time: a whole number and one unit, as in `500ms`, `30s`, `5m`, `12h`, `14d`. Keeps the text that
/// the user wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration {
    text: String,
    length: std::time::Duration,
}

const EXAMPLES: &str = "500ms, 30s, 5m, 12h or 14d";
/// At most eleven digits: what is longer than 3,000 years in milliseconds is a mistake.
const PATTERN: &str = "[1-9][0-9]{0,10}(ms|s|m|h|d)";

impl Duration {
    /// How long it is.
    pub fn length(&self) -> std::time::Duration {
        self.length
    }
}

impl FromStr for Duration {
    type Err = String;
    fn from_str(text: &str) -> Result<Duration, String> {
        let bad = || format!("bad time '{text}': write it like {EXAMPLES}");
        let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(unit);
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        if number.is_empty() || number.starts_with('0') || number.len() > 11 {
            return Err(bad());
        }
        let number: u64 = number.parse().map_err(|_| bad())?;
        Ok(Duration {
            text: text.to_owned(),
            length: std::time::Duration::from_millis(number * millis),
        })
    }
}

impl TryFrom<String> for Duration {
    type Error = String;
    fn try_from(text: String) -> Result<Duration, String> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> String {
        duration.text
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema::text(
            13,
            &format!("self.matches('^{PATTERN}$')"),
            &format!("a time such as {EXAMPLES}"),
        )
    }
}

/// When cached metadata is compared with the under store again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SyncPolicy {
    /// Only on request (`forebay fs sync`).
    Never,
    /// Before every answer.
    Always,
    /// On the first touch after this long.
    Interval(Duration),
}

impl TryFrom<String> for SyncPolicy {
    type Error = String;
    fn try_from(text: String) -> Result<SyncPolicy, String> {
        Ok(match text.as_str() {
            "never" => SyncPolicy::Never,
            "always" => SyncPolicy::Always,
            _ => SyncPolicy::Interval(text.parse()?),
        })
    }
}

impl From<SyncPolicy> for String {
    fn from(policy: SyncPolicy) -> String {
        match policy {
            SyncPolicy::Never => "never".to_owned(),
            SyncPolicy::Always => "always".to_owned(),
            SyncPolicy::Interval(duration) => duration.text,
        }
    }
}

impl JsonSchema for SyncPolicy {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "SyncPolicy".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema::text(
            13,
            &format!("self.matches('^(never|always|{PATTERN})$')"),
            &format!("never, always, or a time such as {EXAMPLES}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_number_and_a_unit() {
        for (text, seconds) in [("30s", 30), ("5m", 300), ("1h", 3600), ("14d", 1_209_600)] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.length().as_secs(), seconds);
            assert_eq!(String::from(duration), text);
        }
        assert_eq!(
            "99999999999d"
                .parse::<Duration>()
                .unwrap()
                .length()
                .as_secs()
                % 86_400,
            0
        );
        for text in [
            "",
            "5",
            "0s",
            "s",
            "-1s",
            "1w",
            "1h30m",
            "1.5h",
            "100000000000ms",
        ] {
            let error = text.parse::<Duration>().unwrap_err();
            assert!(error.contains("14d"), "{error}");
        }
    }

    #[test]
    fn sync_policies_read_back() {
        for text in ["never", "always", "60s"] {
            let policy = SyncPolicy::try_from(text.to_owned()).unwrap();
            assert_eq!(String::from(policy), text);
        }
        assert!(SyncPolicy::try_from("sometimes".to_owned()).is_err());
    }
}
