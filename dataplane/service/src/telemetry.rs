//! Logs to standard error.

use std::io::{self, IsTerminal};
use tracing_subscriber::{EnvFilter, fmt};

/// Libraries whose information lines say nothing to an operator of Forebay. A filter that names
/// one of them overrides this.
const QUIET: &str = "fuser=error,h2=warn,hyper=warn,hyper_util=warn,tower=warn,tonic=warn,reqwest=warn,\
                     rustls=warn,object_store=warn,s3s=warn,kube_client=warn";

/// Sets up logging once per process: `FOREBAY_LOG` filters (default `info`), `FOREBAY_LOG_FORMAT=json`
/// switches the format. A second call changes nothing.
pub fn init() {
    let wanted = std::env::var("FOREBAY_LOG").unwrap_or_else(|_| "info".to_owned());
    let (filter, complaint) = filter(&wanted);
    let json = std::env::var("FOREBAY_LOG_FORMAT").is_ok_and(|format| format == "json");
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    // Fails only if something else in the process, a test harness, has set up logging.
    let _ = if json {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
    if let Some(complaint) = complaint {
        tracing::warn!("{complaint}");
    }
}

/// The filter that `wanted` means; if it means none, the default and the reason.
fn filter(wanted: &str) -> (EnvFilter, Option<String>) {
    match EnvFilter::try_new(format!("{QUIET},{wanted}")) {
        Ok(filter) => (filter, None),
        Err(error) => (
            EnvFilter::new(format!("{QUIET},info")),
            Some(format!(
                "ignoring FOREBAY_LOG='{wanted}': {error}: use a level (error, warn, info, debug, \
                 trace) or target=level pairs"
            )),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_unless_named() {
        let (default, _) = filter("debug");
        assert!(default.to_string().contains("hyper=warn"), "{default}");
        let (named, complaint) = filter("info,hyper=trace");
        assert!(
            complaint.is_none() && named.to_string().contains("hyper=trace"),
            "{named}"
        );
        assert!(!named.to_string().contains("hyper=warn"), "{named}");
    }

    #[test]
    fn a_bad_filter_is_reported_and_the_default_used() {
        let (default, complaint) = filter("forebay=loud");
        assert!(default.to_string().contains("info"), "{default}");
        assert!(complaint.unwrap().contains("FOREBAY_LOG='forebay=loud'"));
    }
}
