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
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Bytes);

impl Sealed {
    /// As a hexadecimal number.
    pub fn to_hex(&self) -> String {
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let shown = digits.map(|digit| char::from_digit(digit.into(), 16));
        shown
            .map(|digit| digit.expect("a digit is below 16"))
            .collect()
    }

    /// Back from [`Sealed::to_hex`].
    pub fn from_hex(text: &str) -> Option<Sealed> {
        let digits = text.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = digits.map(byte).collect();
        bytes.map(|bytes| Sealed(bytes.into()))
    }
}

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
