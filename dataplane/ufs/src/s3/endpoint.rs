//! Where a bucket is reached: host, port, and how the bucket is written.

use crate::{Error, Result};
use forebay_types::Code;
use std::fmt;

/// The host that serves one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) https: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What a path begins with: `/` or `/bucket/`, after the endpoint's own path.
    pub(crate) base: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}",
            if self.https { "https" } else { "http" },
            self.authority()
        )
    }
}

impl Endpoint {
    /// Of `bucket` at `url` (default: AWS's own of `region`), with the bucket in the path or in
    /// the host name.
    pub(crate) fn new(
        url: Option<&str>,
        region: &str,
        bucket: &str,
        path_style: Option<bool>,
    ) -> Result<Endpoint> {
        // A dot in a bucket's name would not match the wildcard of AWS's certificate.
        let path_style = path_style.unwrap_or(url.is_some() || bucket.contains('.'));
        let aws = || {
            let suffix = if region.starts_with("cn-") {
                "com.cn"
            } else {
                "com"
            };
            format!("https://s3.{region}.amazonaws.{suffix}")
        };
        let mut endpoint = parse(&url.map_or_else(aws, str::to_owned))?;
        if path_style {
            endpoint.base = format!("{}{bucket}/", endpoint.base);
        } else {
            endpoint.host = format!("{bucket}.{}", endpoint.host);
        }
        Ok(endpoint)
    }

    /// The Host header.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        let default = if self.https { 443 } else { 80 };
        if self.port == default {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

fn parse(url: &str) -> Result<Endpoint> {
    let bad = |why: &str| {
        // What stands before an @ may be a secret.
        let shown = url.split('?').next().unwrap_or_default();
        let shown = shown
            .rsplit_once('@')
            .map_or(shown, |(_, after)| after)
            .escape_debug();
        Error::new(
            Code::InvalidArgument,
            format!("bad endpoint '{shown}': {why}; write https://host:port or http://host:port"),
        )
    };
    let (https, rest) = match url.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        _ => return Err(bad("no http:// or https://")),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err(bad("credentials do not belong there"));
    }
    let default = if https { 443 } else { 80 };
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest
                .split_once(']')
                .ok_or_else(|| bad("the ] is missing"))?;
            host.parse::<std::net::Ipv6Addr>()
                .map_err(|_| bad("no IPv6 address"))?;
            (host, rest.strip_prefix(':'))
        }
        None => authority
            .split_once(':')
            .map_or((authority, None), |(h, p)| (h, Some(p))),
    };
    let port = match port {
        None => default,
        Some(port) => port.parse().map_err(|_| bad("bad port"))?,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    if host.is_empty() || !host.chars().all(plain) {
        return Err(bad("no host name"));
    }
    if !path.chars().all(|c| plain(c) || c == '/') {
        return Err(bad("a query or odd characters in it"));
    }
    let path = path.trim_matches('/');
    let base = if path.is_empty() {
        "/".to_owned()
    } else {
        format!("/{path}/")
    };
    Ok(Endpoint {
        https,
        host: host.to_owned(),
        port,
        base,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: Option<&str>, bucket: &str, path_style: Option<bool>) -> (String, String) {
        let endpoint = Endpoint::new(url, "eu-west-1", bucket, path_style).unwrap();
        (endpoint.to_string(), endpoint.base)
    }

    fn pair(a: &str, b: &str) -> (String, String) {
        (a.to_owned(), b.to_owned())
    }

    #[test]
    fn the_bucket_is_in_the_host_or_in_the_path() {
        assert_eq!(
            of(None, "b", None),
            pair("https://b.s3.eu-west-1.amazonaws.com", "/")
        );
        assert_eq!(
            of(None, "b.c", None),
            pair("https://s3.eu-west-1.amazonaws.com", "/b.c/")
        );
        assert_eq!(
            of(Some("http://[::1]:90/"), "b", None),
            pair("http://[::1]:90", "/b/")
        );
        assert_eq!(
            of(Some("http://h:80/p/"), "b", None),
            pair("http://h", "/p/b/")
        );
        assert_eq!(
            of(Some("https://h"), "b", Some(false)),
            pair("https://b.h", "/")
        );
    }

    #[test]
    fn bad_endpoints_are_refused_without_their_secrets() {
        for url in [
            "host:80",
            "ftp://h",
            "http://",
            "http://h:x",
            "http://h:99999",
            "http://[x]",
            "http://[::1",
            "http://u:hunter2@h",
            "http://h/?hunter2",
            "http://h h",
        ] {
            let error = Endpoint::new(Some(url), "r", "b", None).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{url}");
            assert!(error.message.contains("http://host:port"), "{error}");
            assert!(!error.message.contains("hunter2"), "{error}");
        }
    }
}
