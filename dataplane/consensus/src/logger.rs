//! The raft library logs through slog; this hands its lines to tracing.

use slog::{Drain, KV, Level, Logger, Never, OwnedKVList, Record, Serializer, o};
use std::fmt::{Arguments, Write};

/// A logger for one node. The library's information lines (elections, every message of one) are
/// debug lines of ours.
pub(crate) fn to_tracing() -> Logger {
    Logger::root(ToTracing, o!())
}

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let line = || {
            let mut line = Line(record.msg().to_string());
            // Writing into a String cannot fail.
            let _ = record.kv().serialize(record, &mut line);
            let _ = values.serialize(record, &mut line);
            line.0
        };
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", "{}", line()),
            Level::Warning => tracing::warn!(target: "raft", "{}", line()),
            Level::Info | Level::Debug => tracing::debug!(target: "raft", "{}", line()),
            Level::Trace => tracing::trace!(target: "raft", "{}", line()),
        }
        Ok(())
    }
}

/// `message, key: value, …`
struct Line(String);

impl Serializer for Line {
    fn emit_arguments(&mut self, key: slog::Key, value: &Arguments<'_>) -> slog::Result {
        write!(self.0, ", {key}: {value}")?;
        Ok(())
    }
}
