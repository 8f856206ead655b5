//! What a fault of our own looks like to the user: one line, and the process ends.

use std::{
    io::Write,
    panic::{self, PanicHookInfo},
    process,
};

/// From now on a panic on any thread prints `internal error: … (file:line); please report` and
/// ends the process with exit code 1: a daemon that lost a thread must not look alive.
pub fn install() {
    panic::set_hook(Box::new(|info| {
        // Standard error may be closed; there is nobody left to tell then.
        let _ = writeln!(std::io::stderr(), "{}", line(info));
        process::exit(1);
    }));
}

fn line(info: &PanicHookInfo<'_>) -> String {
    let what = info
        .payload_as_str()
        .unwrap_or("no description")
        .replace('\n', " ");
    match info.location() {
        Some(at) => format!(
            "internal error: {what} ({}:{}); please report",
            at.file(),
            at.line()
        ),
        None => format!("internal error: {what}; please report"),
    }
}
