//! Leaving nothing behind when a person presses Ctrl-C.
//!
//! Destructors do not run when a signal ends a process. What must not outlive it (processes,
//! mounts, directories) is entered here, and a thread that waits for SIGINT and SIGTERM takes it
//! away before it lets the process end.

use crate::process::detach;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};
use tokio::signal::unix::{SignalKind, signal};

/// Signals reach a whole process, so the list belongs to the process.
static ENTRIES: Mutex<Vec<(u64, Leftover)>> = Mutex::new(Vec::new());

#[derive(Debug)]
enum Leftover {
    // Ended and unmounted in the order of this list, removed last.
    Process(u32),
    Mount(PathBuf),
    Directory(PathBuf),
    Command(Command),
}

/// An entry; struck out when this is dropped.
#[derive(Debug)]
pub struct Entered(u64);

impl Entered {
    fn new(leftover: Leftover) -> Entered {
        let mut entries = ENTRIES.lock();
        let id = entries.last().map_or(0, |(id, _)| id + 1);
        entries.push((id, leftover));
        Entered(id)
    }

    /// A command to be run.
    pub fn command(command: Command) -> Entered {
        Entered::new(Leftover::Command(command))
    }

    /// A process to be killed.
    pub fn process(pid: u32) -> Entered {
        Entered::new(Leftover::Process(pid))
    }

    /// A mount to be taken away.
    pub fn mount(path: &Path) -> Entered {
        Entered::new(Leftover::Mount(path.to_owned()))
    }

    /// A directory to be removed with everything in it.
    pub fn directory(path: &Path) -> Entered {
        Entered::new(Leftover::Directory(path.to_owned()))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        ENTRIES.lock().retain(|(id, _)| *id != self.0);
    }
}

/// From now on SIGINT and SIGTERM clean up, then end the process with status 130.
pub fn clean_up_on_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let signals = (
                    signal(SignalKind::interrupt()),
                    signal(SignalKind::terminate()),
                );
                if let (Ok(mut interrupt), Ok(mut terminate)) = signals {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    clean_up();
                    std::process::exit(130);
                }
            });
        })?;
    Ok(())
}

fn clean_up() {
    eprintln!("\ninterrupted: taking everything down");
    // Held until the end: nobody enters anything new.
    let mut entries = ENTRIES.lock();
    for (_, leftover) in entries.iter_mut() {
        if let Leftover::Command(command) = leftover {
            let _ = command.status();
        }
    }
    for (_, leftover) in entries.iter() {
        if let Leftover::Process(pid) = leftover
            && let Some(pid) = Pid::from_raw(*pid as i32)
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    for (_, leftover) in entries.iter() {
        if let Leftover::Mount(path) = leftover {
            detach(path);
        }
    }
    for (_, leftover) in entries.iter() {
        if let Leftover::Directory(path) = leftover {
            let _ = fs::remove_dir_all(path);
        }
    }
}
