//! Configuration: defaults, then a TOML file, then environment variables; unknown keys refused.

use serde::de::DeserializeOwned;
use std::path::Path;

/// A configuration that cannot be used; the text names file, key and remedy on one line.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Reads a configuration: the type's own serde defaults, then `file`, then environment variables
/// `FOREBAY_KEY` (nested keys joined by `__`).
pub fn load<T: DeserializeOwned>(_file: Option<&Path>) -> Result<T, ConfigError> {
    todo!()
}
