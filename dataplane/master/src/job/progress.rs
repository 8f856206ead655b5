//! How far a load job is.

use forebay_proto::v1;
use forebay_types::Code;

/// Failures that are told one by one; the rest is only counted.
const TOLD_MAX: usize = 1_000;

/// The numbers of a job, and the failures that were not told yet.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    now: v1::JobProgress,
    told: usize,
}

impl Progress {
    /// A file was found.
    pub(crate) fn found(&mut self, size: u64) {
        self.now.files_total += 1;
        self.now.bytes_total += size;
    }

    /// Everything was found.
    pub(crate) fn listed(&mut self) {
        self.now.listed = true;
    }

    /// A file is cached now.
    pub(crate) fn done(&mut self, size: u64, cached_before: bool) {
        self.now.files_done += 1;
        self.now.bytes_done += size;
        self.now.files_cached_before += u64::from(cached_before);
    }

    /// A file, or a directory with all that may be in it, could not be loaded. The path is made
    /// only if it is told.
    pub(crate) fn failed(&mut self, path: impl FnOnce() -> Vec<u8>, code: Code, reason: &str) {
        self.now.files_failed += 1;
        if self.told < TOLD_MAX {
            self.told += 1;
            let reason = format!("{code}: {reason}");
            self.now.failures.push(v1::Failure {
                path: path().into(),
                reason,
            });
        }
    }

    /// The message to send now; the failures in it are gone from here.
    pub(crate) fn take(&mut self) -> v1::JobProgress {
        let failures = std::mem::take(&mut self.now.failures);
        v1::JobProgress {
            failures,
            ..self.now.clone()
        }
    }

    /// The last message.
    pub(crate) fn finish(mut self) -> v1::JobProgress {
        self.now.finished = true;
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_for_ever_and_told_once_up_to_a_limit() {
        let mut progress = Progress::default();
        for _ in 0..TOLD_MAX + 5 {
            progress.failed(|| b"/a".to_vec(), Code::Stale, "changed");
        }
        let message = progress.take();
        assert_eq!(message.failures.len(), TOLD_MAX);
        assert_eq!(message.failures[0].reason, "Stale: changed");
        progress.done(7, true);
        let last = progress.finish();
        assert_eq!(last.failures, []);
        assert_eq!(last.files_failed, TOLD_MAX as u64 + 5);
        assert_eq!(
            (last.files_done, last.bytes_done, last.files_cached_before),
            (1, 7, 1)
        );
        assert!(last.finished);
    }
}
