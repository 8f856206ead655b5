//! Lengths of time on the command line: 500ms, 10s, 5m, 6h, 14d.

use crate::failure::Failure;
use jiff::{Span, SpanRelativeTo};
use std::time::Duration;

/// Reads one; a day has 24 hours.
pub(crate) fn parse(text: &str) -> Result<Duration, Failure> {
    let read = || {
        let span: Span = text.parse().ok()?;
        let length = span.to_duration(SpanRelativeTo::days_are_24_hours());
        Duration::try_from(length.ok()?).ok()
    };
    read()
        .ok_or_else(|| Failure::usage(format!("bad time '{text}': use 500ms, 90s, 15m, 6h or 14d")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_read() {
        assert_eq!(parse("14d").unwrap(), Duration::from_hours(14 * 24));
        assert_eq!(parse("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse("5m").unwrap(), Duration::from_mins(5));
        for text in ["", "d", "14", "1y", "-1s", "99999999999999999999d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
