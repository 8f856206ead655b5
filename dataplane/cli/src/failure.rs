//! How a command ends when it does not succeed.

use std::{fmt, process::ExitCode};

/// One line for the user, and whose fault it is.
#[derive(Debug)]
pub(crate) struct Failure {
    line: String,
    usage: bool,
}

impl Failure {
    /// The request was wrong: exit code 2.
    pub(crate) fn usage(line: impl Into<String>) -> Failure {
        Failure {
            line: line.into(),
            usage: true,
        }
    }

    /// The request could not be carried out: exit code 1.
    pub(crate) fn run(line: impl Into<String>) -> Failure {
        Failure {
            line: line.into(),
            usage: false,
        }
    }

    /// 2 or 1.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(if self.usage { 2 } else { 1 })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever a library put into its message.
        f.write_str(&self.line.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl From<forebay_client::Error> for Failure {
    fn from(error: forebay_client::Error) -> Failure {
        Failure::run(error.to_string())
    }
}

impl From<forebay_service::config::ConfigError> for Failure {
    fn from(error: forebay_service::config::ConfigError) -> Failure {
        Failure::usage(error.to_string())
    }
}

impl From<forebay_fuse::mount::MountError> for Failure {
    fn from(error: forebay_fuse::mount::MountError) -> Failure {
        Failure::usage(error.to_string())
    }
}

/// Errors of the daemons' starts. A configuration error anywhere in the chain is the user's.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        let usage = error.chain().any(|cause| {
            cause.is::<forebay_service::config::ConfigError>()
                || cause.is::<forebay_fuse::mount::MountError>()
        });
        let line = forebay_types::error::chain(error.as_ref());
        Failure { line, usage }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::run(error.to_string())
    }
}
