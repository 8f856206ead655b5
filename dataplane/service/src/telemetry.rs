//! Logs to standard error.

/// Sets up logging once per process: `FOREBAY_LOG` filters (default `info`), `FOREBAY_LOG_FORMAT=json`
/// switches the format.
pub fn init() {
    todo!()
}
