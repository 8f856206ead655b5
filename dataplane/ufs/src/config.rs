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
use forebay_seal::{SealError, SealKey};
use forebay_types::{Code, Credentials, MountSpec};
use std::{collections::BTreeMap, env, fs, path::Path, str::FromStr, sync::Arc, time::Duration};

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

/// Opens under stores as mounts name them.
#[derive(Debug, Default)]
pub struct UnderStores {
    key: Option<SealKey>,
}

impl UnderStores {
    /// With the file of the key that opens the mounts' credentials.
    pub fn new(seal_key: Option<&Path>) -> Result<UnderStores, SealError> {
        let key = seal_key.map(SealKey::read).transpose()?;
        Ok(UnderStores { key })
    }

    /// Opens the under store of a mount. Sends nothing yet: see [`UnderStore::probe`].
    pub fn open(&self, spec: &MountSpec) -> Result<Arc<dyn UnderStore>> {
        let Some(sealed) = &spec.credentials else {
            return open(&spec.uri, &spec.options);
        };
        let denied = |text| Error::new(Code::PermissionDenied, text);
        let key = self.key.as_ref().ok_or_else(|| {
            let text = "its credentials are sealed, and this process has no key: set seal_key";
            denied(text.to_owned())
        })?;
        let credentials = key.open(&spec.path, sealed);
        let credentials = credentials.map_err(|error| denied(error.to_string()))?;
        open_with(&spec.uri, &spec.options, Some(&credentials))
    }
}

/// Opens the under store at `uri` with the credentials that the process has. Sends nothing yet: see
/// [`UnderStore::probe`].
pub fn open(uri: &str, options: &BTreeMap<String, String>) -> Result<Arc<dyn UnderStore>> {
    open_with(uri, options, None)
}

fn open_with(
    uri: &str,
    options: &BTreeMap<String, String>,
    credentials: Option<&Credentials>,
) -> Result<Arc<dyn UnderStore>> {
    let location = Location::parse(uri)?;
    let options = Options::parse(location.scheme, options)?;
    Ok(match location.scheme {
        Scheme::File => Arc::new(LocalStore::new(location.prefix)),
        Scheme::S3 => {
            provider();
            let given = credentials.map(Environment::given).transpose()?;
            let environment = given.unwrap_or_else(Environment::process);
            Arc::new(s3::open(&location, &options, &environment)?)
        }
        Scheme::Gs | Scheme::Az => {
            provider();
            Arc::new(object::open(&location, &options, credentials)?)
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

    /// Nothing but these keys of S3: what a process happens to have is not for whoever named others, and a
    /// Secret without keys does not stand for the identity of the machine.
    fn given(credentials: &Credentials) -> Result<Environment> {
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            credentials.get(name).ok_or_else(|| missing(name))?;
        }
        let credentials = credentials.clone();
        Ok(Environment {
            variable: Box::new(move |name| match name {
                "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" | "AWS_SESSION_TOKEN" => {
                    credentials.get(name).map(str::to_owned)
                }
                _ => None,
            }),
            file: Box::new(|_| None),
        })
    }

    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name)
    }

    pub(crate) fn file(&self, path: &str) -> Option<String> {
        (self.file)(path)
    }
}

/// A credential that a mount's Secret lacks.
pub(crate) fn missing(name: &str) -> Error {
    let text = format!("the credentials of the mount lack {name}: add it to their Secret");
    Error::new(Code::PermissionDenied, text)
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
    fn sealed_credentials_need_the_key_and_must_be_whole() {
        use forebay_types::SyncPolicy;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        fs::write(&file, forebay_seal::generate().unwrap()).unwrap();
        let key = SealKey::read(&file).unwrap();
        let spec = |uri: &str, names: &[&str]| {
            let named = names
                .iter()
                .map(|name| ((*name).to_owned(), "x".to_owned()));
            let credentials = Credentials::new(named.collect());
            MountSpec {
                path: "/a".to_owned(),
                uri: uri.to_owned(),
                options: BTreeMap::new(),
                sync: SyncPolicy::Never,
                credentials: Some(key.seal("/a", &credentials).unwrap()),
            }
        };
        let with_key = UnderStores::new(Some(&file)).unwrap();
        let said = |stores: &UnderStores, spec| stores.open(&spec).err().map(|error| error.message);
        let s3 = || spec("s3://b", &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]);
        assert_eq!(said(&with_key, s3()), None);
        let no_key = said(&UnderStores::default(), s3()).unwrap();
        assert!(no_key.contains("set seal_key"), "{no_key}");
        for (uri, has, lacks) in [
            ("s3://b", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            ("az://c", "AWS_ACCESS_KEY_ID", "AZURE_STORAGE_ACCOUNT_KEY"),
            ("gs://b", "AWS_ACCESS_KEY_ID", "GOOGLE_SERVICE_ACCOUNT_KEY"),
        ] {
            let text = said(&with_key, spec(uri, &[has])).unwrap();
            assert!(text.contains(&format!("lack {lacks}")), "{text}");
        }
        let moved = MountSpec {
            path: "/b".to_owned(),
            ..s3()
        };
        assert!(said(&with_key, moved).unwrap().contains("another mount"));
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
