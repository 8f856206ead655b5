//! From a mount's URI and options to an under store.
//!
//! [`OPTIONS`] is the one declaration of the options: names, defaults, meaning. Credentials are
//! no options: they come from the environment, the usual files or the machine's identity.

use crate::{
    Error, Result, UnderStore,
    local::LocalStore,
    object, s3,
    uri::{Location, Scheme},
};
use forebay_types::Code;
use std::{collections::BTreeMap, env, fs, str::FromStr, sync::Arc, time::Duration};

/// One option of an under store.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Its name.
    pub key: &'static str,
    /// The schemes that know it.
    pub schemes: &'static [Scheme],
    /// The value that counts if none is given; empty: none.
    pub default: &'static str,
    /// What it does, for the reference page.
    pub meaning: &'static str,
}

const REMOTE: &[Scheme] = &[Scheme::S3, Scheme::Gs, Scheme::Az];
const S3: &[Scheme] = &[Scheme::S3];

/// Every option.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        key: "endpoint",
        schemes: REMOTE,
        default: "",
        meaning: "URL of the service, http:// or https://, without bucket; default: the cloud's own, for s3 also AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and endpoint_url of the profile",
    },
    OptionSpec {
        key: "region",
        schemes: S3,
        default: "",
        meaning: "region of the bucket; default: AWS_REGION, AWS_DEFAULT_REGION, region of the profile, us-east-1",
    },
    OptionSpec {
        key: "path_style",
        schemes: S3,
        default: "",
        meaning: "true: http://host/bucket/key, false: http://bucket.host/key; default: true with an endpoint or a bucket name with dots",
    },
    OptionSpec {
        key: "anonymous",
        schemes: REMOTE,
        default: "false",
        meaning: "true: send unsigned requests, for public buckets",
    },
    OptionSpec {
        key: "profile",
        schemes: S3,
        default: "",
        meaning: "section of the AWS files; default: AWS_PROFILE, else 'default'",
    },
    OptionSpec {
        key: "account",
        schemes: &[Scheme::Az],
        default: "",
        meaning: "storage account; default: AZURE_STORAGE_ACCOUNT_NAME",
    },
    OptionSpec {
        key: "connect_timeout",
        schemes: REMOTE,
        default: "5s",
        meaning: "longest wait for a connection, TLS included",
    },
    OptionSpec {
        key: "request_timeout",
        schemes: REMOTE,
        default: "15s",
        meaning: "longest wait for the head of an answer (gs, az: for each piece of it, too)",
    },
    OptionSpec {
        key: "idle_timeout",
        schemes: S3,
        default: "10s",
        meaning: "longest silence in the middle of a body before it is asked for again",
    },
    OptionSpec {
        key: "connections",
        schemes: S3,
        default: "128",
        meaning: "most requests at a time, per process and mount",
    },
    OptionSpec {
        key: "list_parallel",
        schemes: S3,
        default: "16",
        meaning: "most requests at a time for one large listing; 1: no splitting",
    },
    OptionSpec {
        key: "retries",
        schemes: REMOTE,
        default: "6",
        meaning: "most repetitions of one request after transient failures",
    },
    OptionSpec {
        key: "retry_budget",
        schemes: S3,
        default: "100",
        meaning: "repetitions that the mount may spend in a row; ten successes earn one back",
    },
];

/// The options, typed.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) path_style: Option<bool>,
    pub(crate) anonymous: bool,
    pub(crate) profile: Option<String>,
    pub(crate) account: Option<String>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) connections: usize,
    pub(crate) list_parallel: usize,
    pub(crate) retries: u32,
    pub(crate) retry_budget: u32,
}

/// Opens the under store at `uri`. Sends nothing yet: see [`UnderStore::probe`].
pub fn open(uri: &str, options: &BTreeMap<String, String>) -> Result<Arc<dyn UnderStore>> {
    let location = Location::parse(uri)?;
    let options = Options::parse(location.scheme, options)?;
    Ok(match location.scheme {
        Scheme::File => Arc::new(LocalStore::new(location.prefix)),
        Scheme::S3 => {
            provider();
            Arc::new(s3::open(&location, &options, &Environment::process())?)
        }
        Scheme::Gs | Scheme::Az => {
            provider();
            Arc::new(object::open(&location, &options)?)
        }
    })
}

/// rustls needs to know its cryptography once per process; a daemon may have told it before.
pub(crate) fn provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// From a name to a text.
pub(crate) type Lookup = Box<dyn Fn(&str) -> Option<String>>;

/// What the process's surroundings say, as a value: tests bring their own.
pub(crate) struct Environment {
    pub(crate) variable: Lookup,
    pub(crate) file: Lookup,
}

impl Environment {
    fn process() -> Environment {
        Environment {
            variable: Box::new(|name| env::var(name).ok().filter(|value| !value.is_empty())),
            file: Box::new(|path| fs::read_to_string(path).ok()),
        }
    }

    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name)
    }

    pub(crate) fn file(&self, path: &str) -> Option<String> {
        (self.file)(path)
    }
}

fn invalid(message: String) -> Error {
    Error::new(Code::InvalidArgument, message)
}

impl Options {
    pub(crate) fn parse(scheme: Scheme, given: &BTreeMap<String, String>) -> Result<Options> {
        for key in given.keys() {
            let known = OPTIONS.iter().find(|o| o.key == key);
            if !known.is_some_and(|o| o.schemes.contains(&scheme)) {
                let known: Vec<_> = OPTIONS
                    .iter()
                    .filter(|o| o.schemes.contains(&scheme))
                    .map(|o| o.key)
                    .collect();
                let known = if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(", ")
                };
                return Err(invalid(format!(
                    "unknown option '{}' of a {} mount: known are {known}",
                    key.escape_debug(),
                    scheme.as_str()
                )));
            }
        }
        let text = |key: &str| {
            let default = || OPTIONS.iter().find(|o| o.key == key).map(|o| o.default);
            let value = given
                .get(key)
                .map(String::as_str)
                .or_else(default)
                .unwrap_or_default();
            Some(value).filter(|value| !value.is_empty())
        };
        let owned = |key: &str| text(key).map(str::to_owned);
        Ok(Options {
            endpoint: owned("endpoint"),
            region: owned("region"),
            path_style: boolean("path_style", text("path_style"))?,
            anonymous: boolean("anonymous", text("anonymous"))?.unwrap_or(false),
            profile: owned("profile"),
            account: owned("account"),
            connect_timeout: duration("connect_timeout", text("connect_timeout"))?,
            request_timeout: duration("request_timeout", text("request_timeout"))?,
            idle_timeout: duration("idle_timeout", text("idle_timeout"))?,
            connections: number("connections", text("connections"), 1, 10_000)?,
            list_parallel: number("list_parallel", text("list_parallel"), 1, 256)?,
            retries: number("retries", text("retries"), 0, 100)?,
            retry_budget: number("retry_budget", text("retry_budget"), 0, 1_000_000)?,
        })
    }
}

fn boolean(key: &str, text: Option<&str>) -> Result<Option<bool>> {
    match text {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(other) => Err(invalid(format!(
            "bad value '{}' of {key}: use true or false",
            other.escape_debug()
        ))),
    }
}

fn number<N: Copy + FromStr + PartialOrd + std::fmt::Display>(
    key: &str,
    text: Option<&str>,
    least: N,
    most: N,
) -> Result<N> {
    let text = text.unwrap_or_default();
    match text.parse() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(invalid(format!(
            "bad value '{}' of {key}: use a number from {least} to {most}",
            text.escape_debug()
        ))),
    }
}

fn duration(key: &str, text: Option<&str>) -> Result<Duration> {
    let text = text.unwrap_or_default();
    let unit = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let scale = match &text[unit..] {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let millis = scale.and_then(|s: u64| s.checked_mul(text[..unit].parse().ok()?));
    match millis {
        Some(millis @ 1..=86_400_000) => Ok(Duration::from_millis(millis)),
        _ => Err(invalid(format!(
            "bad value '{}' of {key}: use a time such as 500ms, 10s, 2m",
            text.escape_debug()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn every_default_is_valid() {
        for scheme in Scheme::ALL {
            let parsed = Options::parse(scheme, &options(&[])).unwrap();
            assert_eq!(parsed.connect_timeout, Duration::from_secs(5));
            assert!(!parsed.anonymous);
        }
    }

    #[test]
    fn wrong_options_name_the_value_and_the_remedy() {
        for (pairs, says) in [
            (&[("regoin", "x")], "known are endpoint, region"),
            (
                &[("account", "x")],
                "unknown option 'account' of a s3 mount",
            ),
            (&[("path_style", "yes")], "use true or false"),
            (&[("connections", "0")], "from 1 to 10000"),
            (&[("connections", "many")], "'many'"),
            (&[("idle_timeout", "5")], "500ms"),
            (&[("idle_timeout", "0s")], "'0s'"),
            (&[("idle_timeout", "99999999999999999999s")], "500ms"),
        ] {
            let error = Options::parse(Scheme::S3, &options(pairs)).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            assert!(error.message.contains(says), "{error}");
        }
        let error = open("file:///tmp", &options(&[("region", "x")]))
            .err()
            .unwrap();
        assert!(error.message.contains("known are none"), "{error}");
    }
}
