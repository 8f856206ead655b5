//! When Datasets came and when they were ready, as a watch tells it.

use crate::{interrupt::Entered, kube::Kubectl};
use anyhow::{Context, bail};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

/// A watch of all Datasets.
pub(super) struct Arrivals {
    /// The last of them: the API server ends a watch that cannot keep up.
    watch: Arc<Mutex<Option<Running>>>,
    lines: Receiver<(Instant, String)>,
    seen: BTreeMap<String, Seen>,
}

struct Running {
    kubectl: Child,
    _entered: Entered,
}

#[derive(Clone, Copy)]
struct Seen {
    first: Instant,
    ready: Option<Instant>,
}

impl Arrivals {
    /// Begins to watch.
    pub(super) fn watch(kubectl: &Kubectl) -> anyhow::Result<Arrivals> {
        let watch = Arc::new(Mutex::new(None));
        let mut said = begin(kubectl, &mut watch.lock())?;
        let (tell, lines) = channel();
        let (kubectl, last) = (kubectl.clone(), Arc::clone(&watch));
        // Moments are those at which lines come, whenever somebody looks at them.
        thread::spawn(move || {
            loop {
                for line in BufReader::new(said).lines().map_while(Result::ok) {
                    if tell.send((Instant::now(), line)).is_err() {
                        return;
                    }
                }
                let mut last = last.lock();
                // None: nobody wants to know.
                let Some(ended) = last.as_mut() else { return };
                let _ = ended.kubectl.wait();
                said = match begin(&kubectl, &mut last) {
                    Ok(said) => said,
                    Err(_) => return,
                };
            }
        });
        Ok(Arrivals {
            watch,
            lines,
            seen: BTreeMap::new(),
        })
    }

    /// Waits until so many are ready.
    pub(super) fn all_ready(&mut self, count: usize, limit: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        let mut ready = self.ready();
        while ready < count {
            let left = end.saturating_duration_since(Instant::now());
            let Ok((at, line)) = self.lines.recv_timeout(left) else {
                bail!("{ready} of {count} Datasets were ready within {limit:?}");
            };
            let (name, holds) = line.rsplit_once(' ').unwrap_or((&line, ""));
            let new = Seen {
                first: at,
                ready: None,
            };
            let seen = self.seen.entry(name.to_owned()).or_insert(new);
            if holds == "True" && seen.ready.is_none() {
                seen.ready = Some(at);
                ready += 1;
            }
        }
        Ok(())
    }

    fn ready(&self) -> usize {
        self.seen
            .values()
            .filter(|seen| seen.ready.is_some())
            .count()
    }

    /// How long each took from when it was first seen, in order; and when the last one was ready.
    pub(super) fn times(&self) -> (Vec<Duration>, Option<Instant>) {
        let ready = self
            .seen
            .values()
            .filter_map(|seen| Some((seen.first, seen.ready?)));
        let mut times: Vec<Duration> = ready.clone().map(|(first, ready)| ready - first).collect();
        times.sort();
        (times, ready.map(|(_, ready)| ready).max())
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        if let Some(mut running) = self.watch.lock().take() {
            let _ = running.kubectl.kill();
            let _ = running.kubectl.wait();
        }
    }
}

fn begin(kubectl: &Kubectl, running: &mut Option<Running>) -> anyhow::Result<ChildStdout> {
    let line = "jsonpath={.metadata.namespace}/{.metadata.name} \
        {.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}";
    let mut kubectl = kubectl
        .command(&["get", "datasets", "-A", "--watch", "-o", line])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start kubectl")?;
    let said = kubectl.stdout.take().context("no output");
    *running = Some(Running {
        _entered: Entered::process(kubectl.id()),
        kubectl,
    });
    said
}
