//! Credentials of an under store. Neither form shows them when it is printed.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Credentials in the clear, named like environment variables: `AWS_ACCESS_KEY_ID` and so on.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials(BTreeMap<String, String>);

impl Credentials {
    /// These.
    pub fn new(named: BTreeMap<String, String>) -> Credentials {
        Credentials(named)
    }

    /// The one of that name; an empty one is none.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Credentials that only the owner of a key can open (crate `seal`): fit to be stored and sent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed(pub Bytes);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let named = [("KEY", "hidden"), ("EMPTY", "")];
        let named = named.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let credentials = Credentials::new(named.into());
        assert_eq!(
            (credentials.get("KEY"), credentials.get("EMPTY")),
            (Some("hidden"), None)
        );
        let shown = format!("{credentials:?} {:?}", Sealed("hidden".into()));
        assert!(
            shown.contains("KEY") && !shown.contains("hidden"),
            "{shown}"
        );
    }
}
