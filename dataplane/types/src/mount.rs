//! The mount table's vocabulary.

use crate::Sealed;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

/// One under store mounted at a path of the tree. Holds no secret in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct MountSpec {
    /// Absolute path in the cluster's tree, normalised: `/`, `/models/llama`.
    pub path: String,
    /// `s3://bucket/prefix`, `gs://…`, `az://…`, `file:///dir`, or [`MountSpec::SCRATCH`].
    pub uri: String,
    /// Options of the under store (endpoint, region, path_style, anonymous …).
    pub options: BTreeMap<String, String>,
    /// When the metadata is compared with the under store again.
    pub sync: SyncPolicy,
    /// The credentials of the under store, for whoever has the cluster's key. Absent: those of the
    /// environment of the process that talks to the store.
    pub credentials: Option<Sealed>,
}

/// How it is written in configurations, journals and tables. Format 1 of these knew no credentials, and data directories
/// of every format open for ever: they are among the options, under a name that no option can have.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    path: String,
    uri: String,
    #[serde(default)]
    options: BTreeMap<String, String>,
    #[serde(default)]
    sync: SyncPolicy,
}

/// Names the sealed credentials among the options of [`Stored`].
const CREDENTIALS: &str = "\0credentials";

impl From<MountSpec> for Stored {
    fn from(spec: MountSpec) -> Stored {
        let mut options = spec.options;
        if let Some(sealed) = spec.credentials {
            options.insert(CREDENTIALS.to_owned(), sealed.to_hex());
        }
        Stored {
            path: spec.path,
            uri: spec.uri,
            options,
            sync: spec.sync,
        }
    }
}

impl TryFrom<Stored> for MountSpec {
    type Error = String;
    fn try_from(mut stored: Stored) -> Result<MountSpec, String> {
        let sealed = stored.options.remove(CREDENTIALS);
        let sealed = sealed
            .map(|text| Sealed::from_hex(&text).ok_or("credentials are no hexadecimal number"));
        Ok(MountSpec {
            path: stored.path,
            uri: stored.uri,
            options: stored.options,
            sync: stored.sync,
            credentials: sealed.transpose()?,
        })
    }
}

impl MountSpec {
    /// The URI of a mount without an under store.
    pub const SCRATCH: &str = "scratch:";

    /// Whether there is no under store behind it: names and attributes are Forebay's own, and
    /// clients change them.
    pub fn is_scratch(&self) -> bool {
        self.uri == MountSpec::SCRATCH
    }

    /// Whether an under store that was opened for one serves the other: it is the same, entered in the same way.
    pub fn same_store(&self, other: &MountSpec) -> bool {
        self.uri == other.uri
            && self.options == other.options
            && self.credentials == other.credentials
    }
}

/// When cached metadata is compared with the under store again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SyncPolicy {
    /// Only on request (`forebay fs sync`).
    Never,
    /// On the first touch after this long.
    Interval(Duration),
    /// Before every answer.
    Always,
}

impl Default for SyncPolicy {
    fn default() -> SyncPolicy {
        SyncPolicy::Interval(Duration::from_mins(1))
    }
}

impl fmt::Display for SyncPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyncPolicy::Never => f.write_str("never"),
            SyncPolicy::Always => f.write_str("always"),
            SyncPolicy::Interval(d) if d.subsec_millis() == 0 => write!(f, "{}s", d.as_secs()),
            SyncPolicy::Interval(d) => write!(f, "{}ms", d.as_millis()),
        }
    }
}

impl From<SyncPolicy> for String {
    fn from(policy: SyncPolicy) -> String {
        policy.to_string()
    }
}

impl TryFrom<String> for SyncPolicy {
    type Error = String;
    fn try_from(text: String) -> Result<SyncPolicy, String> {
        text.parse()
    }
}

impl FromStr for SyncPolicy {
    type Err = String;
    fn from_str(text: &str) -> Result<SyncPolicy, String> {
        let bad = || {
            format!(
                "bad sync policy '{text}': use never, always, or an interval such as 500ms, 30s, 5m, 1h"
            )
        };
        match text {
            "never" => return Ok(SyncPolicy::Never),
            "always" => return Ok(SyncPolicy::Always),
            _ => {}
        }
        let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = text[..unit].parse().map_err(|_| bad())?;
        let millis = match &text[unit..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(bad()),
        };
        match number.checked_mul(millis) {
            None | Some(0) => Err(bad()),
            Some(ms) => Ok(SyncPolicy::Interval(Duration::from_millis(ms))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_another_one_with_other_credentials() {
        let spec = MountSpec {
            path: "/a".to_owned(),
            uri: "s3://b".to_owned(),
            options: BTreeMap::new(),
            sync: SyncPolicy::Never,
            credentials: Some(Sealed("one".into())),
        };
        let synced = MountSpec {
            sync: SyncPolicy::Always,
            ..spec.clone()
        };
        assert!(spec.same_store(&synced));
        let entered = MountSpec {
            credentials: Some(Sealed("two".into())),
            ..spec.clone()
        };
        assert!(!spec.same_store(&entered));
    }

    #[test]
    fn credentials_are_stored_and_read_back() {
        let spec = MountSpec {
            path: "/a".to_owned(),
            uri: "s3://b".to_owned(),
            options: [("region".to_owned(), "x".to_owned())].into(),
            sync: SyncPolicy::Never,
            credentials: Some(Sealed(vec![0, 10, 255].into())),
        };
        let stored = Stored::from(spec.clone());
        assert_eq!(stored.options[CREDENTIALS], "000aff");
        assert_eq!(MountSpec::try_from(stored), Ok(spec.clone()));
        let plain = MountSpec {
            credentials: None,
            ..spec
        };
        assert_eq!(Stored::from(plain).options.len(), 1);
    }

    #[test]
    fn sync_policies_read_back() {
        for text in ["never", "always", "30s", "500ms", "3600s"] {
            assert_eq!(
                text.parse::<SyncPolicy>().map(|p| p.to_string()),
                Ok(text.to_owned())
            );
        }
        assert_eq!(
            "5m".parse(),
            Ok(SyncPolicy::Interval(Duration::from_mins(5)))
        );
        for text in [
            "",
            "5",
            "0s",
            "1d",
            "s",
            "-1s",
            "99999999999999999999h",
            "18446744073709551615h",
        ] {
            assert!(text.parse::<SyncPolicy>().is_err(), "{text}");
        }
    }
}
