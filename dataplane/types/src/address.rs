//! Where a daemon listens.

use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, str::FromStr};

/// `unix:/path/of/socket` or `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// A Unix socket of this machine.
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
}

impl Address {
    /// Whether it stands for all interfaces: good to listen on, but nobody can connect to it from
    /// another node.
    pub fn is_wildcard(&self) -> bool {
        let Address::Tcp(text) = self else {
            return false;
        };
        let host = text.rsplit_once(':').map_or("", |(host, _)| host);
        matches!(host, "0.0.0.0" | "[::]")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(host) => f.write_str(host),
        }
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = String;
    fn try_from(text: String) -> Result<Address, String> {
        text.parse()
    }
}

impl FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.starts_with('/') {
                return Ok(Address::Unix(path.into()));
            }
        } else if let Some((host, port)) = text.rsplit_once(':')
            && !host.is_empty()
            && port.parse::<u16>().is_ok()
        {
            return Ok(Address::Tcp(text.to_owned()));
        }
        Err(format!(
            "bad address '{text}': use host:port or unix:/absolute/path"
        ))
    }
}

/// Where the masters of a cluster serve: at least one address, none twice. As text, and in
/// configuration files that do not use a list, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Spelled", into = "Vec<Address>")]
pub struct Addresses(Vec<Address>);

/// How addresses are written in configuration files.
#[derive(Deserialize)]
#[serde(untagged)]
enum Spelled {
    One(String),
    List(Vec<String>),
}

impl Addresses {
    /// Checks that there is one, and none twice.
    pub fn new(addresses: Vec<Address>) -> Result<Addresses, String> {
        if addresses.is_empty() {
            return Err("no address: give host:port or unix:/absolute/path".to_owned());
        }
        for (n, address) in addresses.iter().enumerate() {
            if addresses[..n].contains(address) {
                return Err(format!("address {address} comes twice: give each once"));
            }
        }
        Ok(Addresses(addresses))
    }

    /// In the order given.
    pub fn as_slice(&self) -> &[Address] {
        &self.0
    }
}

impl From<&Address> for Addresses {
    fn from(address: &Address) -> Addresses {
        Addresses(vec![address.clone()])
    }
}

impl From<Address> for Addresses {
    fn from(address: Address) -> Addresses {
        Addresses(vec![address])
    }
}

impl From<&Addresses> for Addresses {
    fn from(addresses: &Addresses) -> Addresses {
        addresses.clone()
    }
}

impl From<Addresses> for Vec<Address> {
    fn from(addresses: Addresses) -> Vec<Address> {
        addresses.0
    }
}

impl TryFrom<Spelled> for Addresses {
    type Error = String;
    fn try_from(spelled: Spelled) -> Result<Addresses, String> {
        match spelled {
            Spelled::One(text) => text.parse(),
            Spelled::List(texts) => {
                Addresses::new(texts.iter().map(|t| t.parse()).collect::<Result<_, _>>()?)
            }
        }
    }
}

impl FromStr for Addresses {
    type Err = String;
    fn from_str(text: &str) -> Result<Addresses, String> {
        Addresses::new(
            text.split(',')
                .map(|address| address.trim().parse())
                .collect::<Result<_, _>>()?,
        )
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, address) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_addresses_are_a_list_or_one_text() {
        let three: Addresses = "h:1, h:2,unix:/s".parse().unwrap();
        assert_eq!(three.as_slice().len(), 3);
        assert_eq!(three.to_string(), "h:1,h:2,unix:/s");
        assert_eq!(
            "h:1".parse::<Addresses>(),
            Ok(Addresses::from("h:1".parse::<Address>().unwrap()))
        );
        for (bad, why) in [
            ("", "bad address"),
            ("h:1,", "bad address"),
            ("h:1,h:1", "twice"),
        ] {
            let error = bad.parse::<Addresses>().unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn reads_and_prints() {
        for text in [
            "127.0.0.1:80",
            "master-0.demo:9000",
            "[::1]:1",
            "unix:/run/x.sock",
        ] {
            assert_eq!(
                text.parse::<Address>().map(|a| a.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in ["", "host", ":80", "host:70000", "unix:relative"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn knows_the_wildcards() {
        let wildcard = |text: &str| text.parse::<Address>().unwrap().is_wildcard();
        assert!(wildcard("0.0.0.0:1") && wildcard("[::]:1"));
        assert!(!wildcard("10.0.0.0:1") && !wildcard("[::1]:1") && !wildcard("unix:/0.0.0.0:1"));
    }
}
