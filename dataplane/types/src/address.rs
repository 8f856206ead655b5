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

#[cfg(test)]
mod tests {
    use super::*;

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
