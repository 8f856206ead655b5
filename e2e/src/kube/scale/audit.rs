//! What the operator asks of the API server: its audit log, of no other account.

use anyhow::Context;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

/// The audit log, read from where it was left.
pub(super) struct Audit {
    path: PathBuf,
    position: u64,
}

/// How often something was asked, by what was asked for.
#[derive(Debug, Default)]
pub(super) struct Requests(BTreeMap<(String, String), u64>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    #[serde(default)]
    object_ref: Object,
}

#[derive(Default, Deserialize)]
struct Object {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
}

impl Audit {
    pub(super) fn new(path: PathBuf) -> Audit {
        Audit { path, position: 0 }
    }

    /// What was asked since the last time.
    pub(super) fn next(&mut self) -> anyhow::Result<Requests> {
        let mut file = File::open(&self.path).context("the audit log")?;
        file.seek(SeekFrom::Start(self.position))?;
        let mut file = BufReader::new(file);
        let (mut requests, mut text) = (Requests::default(), String::new());
        // The last line may be half written.
        while file.read_line(&mut text)? > 0 && text.ends_with('\n') {
            self.position += text.len() as u64;
            requests.add(&serde_json::from_str(&text).context("a line of the audit log")?);
            text.clear();
        }
        Ok(requests)
    }

    /// Waits until nothing was written for so long; what was asked meanwhile, and when the last write was seen.
    pub(super) fn until_quiet(
        &mut self,
        quiet: Duration,
        limit: Duration,
    ) -> anyhow::Result<(Requests, Instant)> {
        let begun = Instant::now();
        let (mut all, mut last) = (Requests::default(), begun);
        while last.elapsed() < quiet && begun.elapsed() < limit {
            sleep(Duration::from_secs(1));
            let requests = self.next()?;
            if requests.writes() > 0 {
                last = Instant::now();
            }
            all.join(requests);
        }
        Ok((all, last))
    }
}

impl Requests {
    fn add(&mut self, line: &Line) {
        // A watch is told when it begins and when it ends.
        if line.verb == "watch" && line.stage == "ResponseComplete" {
            return;
        }
        let Object {
            resource,
            subresource,
        } = &line.object_ref;
        let slash = if subresource.is_empty() { "" } else { "/" };
        let what = format!("{resource}{slash}{subresource}");
        *self.0.entry((line.verb.clone(), what)).or_default() += 1;
    }

    pub(super) fn join(&mut self, other: Requests) {
        for (what, count) in other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// How many there were of which this is true, by verb and resource.
    pub(super) fn count(&self, of: impl Fn(&str, &str) -> bool) -> u64 {
        let these = self.0.iter().filter(|((verb, what), _)| of(verb, what));
        these.map(|(_, count)| count).sum()
    }

    /// All.
    pub(super) fn all(&self) -> u64 {
        self.count(|_, _| true)
    }

    /// Those that change something; renewing the Lease is none.
    pub(super) fn writes(&self) -> u64 {
        self.count(|verb, what| !["get", "list", "watch"].contains(&verb) && what != "leases")
    }

    /// Each kind and how often, the most frequent first.
    pub(super) fn told(&self) -> String {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let each = all
            .iter()
            .map(|((verb, what), n)| format!("{verb} {what} {n}"));
        each.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_counts_once_and_the_lease_is_no_write() {
        let mut requests = Requests::default();
        for line in [
            r#"{"stage":"ResponseStarted","verb":"watch","objectRef":{"resource":"pods"}}"#,
            r#"{"stage":"ResponseComplete","verb":"watch","objectRef":{"resource":"pods"}}"#,
            r#"{"stage":"ResponseComplete","verb":"update","objectRef":{"resource":"leases"}}"#,
            r#"{"stage":"ResponseComplete","verb":"patch","objectRef":{"resource":"datasets","subresource":"status"}}"#,
            r#"{"stage":"ResponseComplete","verb":"get"}"#,
        ] {
            requests.add(&serde_json::from_str(line).unwrap());
        }
        assert_eq!((requests.all(), requests.writes()), (4, 1));
        assert_eq!(requests.count(|_, what| what == "datasets/status"), 1);
    }
}
