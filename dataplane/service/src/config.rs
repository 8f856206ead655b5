//! Configuration: defaults, then a TOML file, then environment variables; unknown keys refused.

use figment::{
    Figment, Metadata, Profile, Provider,
    error::Kind,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, fmt::Write, path::Path};

/// What begins the name of every environment variable that is read.
const PREFIX: &str = "FOREBAY_";

/// Variables with our prefix that are not configuration: those of [`crate::telemetry`], and those of
/// the project's own tests and benchmark, whose children inherit them.
const NOT_KEYS: [&str; 4] = [
    "FOREBAY_LOG",
    "FOREBAY_LOG_FORMAT",
    "FOREBAY_BIN",
    "FOREBAY_BENCH_DIR",
];

/// Names of the two layers, as errors carry them.
const FILE: &str = "file";
const ENVIRONMENT: &str = "environment";

/// A configuration that cannot be used; the text names file, key and remedy on one line.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Reads a configuration: the type's own serde defaults, then `file`, then environment variables
/// `FOREBAY_KEY` (nested keys joined by `__`).
///
/// `T` says `#[serde(deny_unknown_fields)]` at every level: that is what refuses unknown keys.
pub fn load<T: DeserializeOwned>(file: Option<&Path>) -> Result<T, ConfigError> {
    // A variable that is not UTF-8 cannot be one of our keys.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    load_from(file, variables)
}

fn load_from<T: DeserializeOwned>(
    file: Option<&Path>,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let variables: BTreeMap<String, String> = variables.filter(is_key).collect();
    let mut figment = Figment::new();
    if let Some(file) = file {
        figment = figment.merge(Layer {
            name: FILE,
            values: read(file)?,
        });
    }
    for (name, text) in &variables {
        let key = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
        let value = text.parse::<Value>().unwrap_or_else(|never| match never {});
        let values = figment::util::nest(&key, value)
            .into_dict()
            .unwrap_or_default();
        figment = figment.merge(Layer {
            name: ENVIRONMENT,
            values,
        });
    }
    // Only the first error is shown: one line, and the next run names the next.
    figment.extract().map_err(|errors| {
        let first = errors
            .into_iter()
            .next()
            .expect("an error holds at least itself");
        ConfigError(describe(first, file, &variables))
    })
}

/// Whether a variable is a configuration key: ours by prefix, and neither a setting of the logs
/// nor one that Kubernetes puts into every pod beside a Service of that name.
fn is_key((name, value): &(String, String)) -> bool {
    let service_link = name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || ["tcp://", "udp://", "sctp://"]
            .iter()
            .any(|scheme| value.starts_with(scheme))
        || (name.contains("_PORT_")
            && ["_PROTO", "_PORT", "_ADDR"]
                .iter()
                .any(|end| name.ends_with(end)));
    name.len() > PREFIX.len()
        && name.starts_with(PREFIX)
        && !NOT_KEYS.contains(&name.as_str())
        && !service_link
}

fn read(file: &Path) -> Result<Dict, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let shown = file.display();
        ConfigError(match error.kind() {
            std::io::ErrorKind::NotFound => {
                format!("configuration file {shown} does not exist: give the path of a TOML file")
            }
            std::io::ErrorKind::InvalidData => {
                format!("configuration file {shown} is not UTF-8 text: give a TOML file")
            }
            _ => format!("cannot read configuration file {shown}: {error}"),
        })
    })?;
    Toml::from_str::<Dict>(&text).map_err(|error| {
        let error = error.to_string();
        // The library draws the place over several lines: the first says where, the last what.
        let place = error.lines().next().unwrap_or_default();
        let what = error.lines().next_back().unwrap_or_default();
        ConfigError(format!(
            "configuration file {}: {}: {what}",
            file.display(),
            place.strip_prefix("TOML parse error at ").unwrap_or(place),
        ))
    })
}

/// Values of one origin.
struct Layer {
    name: &'static str,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// One line: where, which key, what is wrong, what to do.
fn describe(
    error: figment::Error,
    file: Option<&Path>,
    variables: &BTreeMap<String, String>,
) -> String {
    let mut path = error.path;
    let origin = error.metadata.map(|metadata| metadata.name);
    let (what, remedy) = match error.kind {
        Kind::UnknownField(field, known) => {
            if path.last() != Some(&field) {
                path.push(field);
            }
            (
                "unknown key".to_owned(),
                choices("remove it, or use one of", known),
            )
        }
        Kind::UnknownVariant(found, known) => (
            format!("unknown value '{found}'"),
            choices("use one of", known),
        ),
        Kind::MissingField(field) => {
            path.push(field.into_owned());
            let variable = format!("{PREFIX}{}", path.join("__").to_ascii_uppercase());
            (
                "missing".to_owned(),
                format!(": set it in the file or as {variable}"),
            )
        }
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            (format!("found {found}"), format!(": use {expected}"))
        }
        Kind::InvalidLength(found, expected) => {
            (format!("has {found} items"), format!(": use {expected}"))
        }
        Kind::DuplicateField(field) => (format!("'{field}' is given twice"), ": keep one".into()),
        other => (other.to_string(), String::new()),
    };
    let mut text = match (origin.as_deref(), file) {
        (Some(ENVIRONMENT), _) => match variable_of(&path, variables) {
            Some(variable) => format!("environment variable {variable}: "),
            None => "environment: ".to_owned(),
        },
        (_, Some(file)) => format!("configuration file {}: ", file.display()),
        (_, None) => "configuration: ".to_owned(),
    };
    if !path.is_empty() {
        let _ = write!(text, "key '{}': ", path.join("."));
    }
    text.push_str(&what);
    text.push_str(&remedy);
    text.replace('\n', " ")
}

fn choices(introduction: &str, known: &[&str]) -> String {
    match known {
        [] => String::new(),
        known => format!(": {introduction} {}", known.join(", ")),
    }
}

/// The variable that set the value at `path`: itself, or an inline table or list around it.
fn variable_of(path: &[String], variables: &BTreeMap<String, String>) -> Option<String> {
    (1..=path.len())
        .rev()
        .map(|len| format!("{PREFIX}{}", path[..len].join("__").to_ascii_uppercase()))
        .find(|name| variables.contains_key(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ByteSize;
    use serde::Deserialize;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        port: u16,
        name: String,
        cache: Cache,
        tiers: Vec<Tier>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Cache {
        budget: ByteSize,
        policy: Policy,
    }

    impl Default for Cache {
        fn default() -> Cache {
            Cache {
                budget: ByteSize(7),
                policy: Policy::Lru,
            }
        }
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Policy {
        Lru,
        Lfu,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Tier {
        dir: String,
        size: ByteSize,
    }

    fn with(text: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("forebay.toml");
        std::fs::write(&file, text).unwrap();
        let variables = variables
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        load_from(Some(&file), variables)
            .map_err(|error| error.0.replace(&file.display().to_string(), "F"))
    }

    #[test]
    fn the_environment_overrides_the_file_and_the_file_the_defaults() {
        let text = "port = 1\nname = 'a'\n[cache]\npolicy = 'lfu'\n";
        let settings = with(text, &[]).unwrap();
        assert_eq!((settings.port, settings.name.as_str()), (1, "a"));
        assert_eq!(
            settings.cache,
            Cache {
                budget: ByteSize(7),
                policy: Policy::Lfu
            }
        );
        let variables = [
            ("FOREBAY_PORT", "2"),
            ("FOREBAY_CACHE__BUDGET", "1Ki"),
            ("FOREBAY_TIERS", "[{dir=\"/a\",size=\"1MiB\"}]"),
        ];
        let settings = with(text, &variables).unwrap();
        assert_eq!((settings.port, settings.name.as_str()), (2, "a"));
        assert_eq!(
            settings.cache,
            Cache {
                budget: ByteSize(1024),
                policy: Policy::Lfu
            }
        );
        assert_eq!(
            settings.tiers,
            [Tier {
                dir: "/a".into(),
                size: ByteSize(1 << 20)
            }]
        );
    }

    #[test]
    fn variables_that_are_not_keys_are_left_alone() {
        let variables = [
            ("FOREBAY_LOG", "debug"),
            ("FOREBAY_LOG_FORMAT", "json"),
            ("FOREBAY_MASTER_SERVICE_HOST", "10.0.0.1"),
            ("FOREBAY_MASTER_SERVICE_PORT_GRPC", "80"),
            ("FOREBAY_MASTER_PORT", "tcp://10.0.0.1:80"),
            ("FOREBAY_MASTER_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("FOREBAY_MASTER_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("HOME", "/root"),
        ];
        assert_eq!(with("", &variables), Ok(Settings::default()));
    }

    #[test]
    fn errors_are_one_line_that_names_place_key_value_and_remedy() {
        let no: &[(&str, &str)] = &[];
        for (text, variables, expected) in [
            (
                "prot = 1",
                no,
                "configuration file F: key 'prot': unknown key: remove it, or use one of \
                 port, name, cache, tiers",
            ),
            (
                "[cache]\nbudgte = 1",
                no,
                "configuration file F: key 'cache.budgte': unknown key: remove it, or use one of \
                 budget, policy",
            ),
            (
                "port = 'x'",
                no,
                "configuration file F: key 'port': found string \"x\": use u16",
            ),
            (
                "[cache]\nbudget = '10 parsecs'",
                no,
                "configuration file F: key 'cache.budget': bad size '10 parsecs': use bytes or a \
                 unit, as in 512MiB or 10GiB",
            ),
            (
                "[cache]\npolicy = 'best'",
                no,
                "configuration file F: key 'cache.policy': unknown value 'best': use one of \
                 lru, lfu",
            ),
            (
                "[[tiers]]\nsize = 1",
                no,
                "configuration file F: key 'tiers.0.dir': missing: set it in the file or as \
                 FOREBAY_TIERS__0__DIR",
            ),
            (
                "",
                &[("FOREBAY_CACHE__BUDGET", "lots")],
                "environment variable FOREBAY_CACHE__BUDGET: key 'cache.budget': bad size 'lots': \
                 use bytes or a unit, as in 512MiB or 10GiB",
            ),
            (
                "",
                &[("FOREBAY_PROT", "1")],
                "environment variable FOREBAY_PROT: key 'prot': unknown key: remove it, or use \
                 one of port, name, cache, tiers",
            ),
            (
                "",
                &[("FOREBAY_TIERS", "[{dir=\"/a\",size=\"huge\"}]")],
                "environment variable FOREBAY_TIERS: key 'tiers.0.size': bad size 'huge': use \
                 bytes or a unit, as in 512MiB or 10GiB",
            ),
        ] {
            assert_eq!(
                with(text, variables).unwrap_err(),
                expected,
                "{text} {variables:?}"
            );
        }
        let broken = with("port = = 1", no).unwrap_err();
        assert!(
            broken.starts_with("configuration file F: line 1, column 8: "),
            "{broken}"
        );
        assert!(!broken.contains('\n'), "{broken}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load_from::<Settings>(Some(Path::new("/no/such.toml")), std::iter::empty());
        assert_eq!(
            error.unwrap_err().0,
            "configuration file /no/such.toml does not exist: give the path of a TOML file"
        );
    }
}
