//! What the status of a WarmupPolicy says.

use crate::plan::{
    condition::{COMPLETE, DEGRADED, Finding, PROGRESSING, READY},
    name::{Key, root},
    warmup::{Observed, Run, fresh, generation, known, seen, signed, whole},
};
use forebay_crds::{ByteProgress, FailedFile, FileProgress, RunStatus};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt;

/// The run that is going on, else the last one.
pub(super) fn current(observed: &Observed<'_>) -> Option<RunStatus> {
    if let Some((run, at)) = fresh(observed) {
        return Some(RunStatus::begin(run.generation, Time(whole(at))));
    }
    let before = observed.policy.status.as_ref().and_then(|s| s.run.clone());
    let Some(warmup) = known(observed) else {
        return before;
    };
    let generation = Run::parse(&warmup.run).map_or(0, |run| run.generation);
    let mut run = RunStatus::begin(generation, Time(whole(warmup.started)));
    let progress = &warmup.progress;
    run.completion_time = warmup.ended.map(|ended| Time(whole(ended)));
    run.listed = progress.listed;
    run.files = FileProgress {
        total: progress.files_total,
        done: progress.files_done.min(progress.files_total),
        failed: progress.files_failed,
    };
    run.bytes = ByteProgress {
        total: progress.bytes_total,
        done: progress.bytes_done.min(progress.bytes_total),
    };
    let eta = warmup.eta.filter(|_| warmup.ended.is_none());
    let end = eta.and_then(|eta| seen(observed).checked_add(signed(eta)).ok());
    run.estimated_completion_time = end.map(|end| Time(whole(end)));
    let dataset = Key::new(
        observed.policy.namespace().unwrap_or_default(),
        &observed.policy.spec.dataset_ref.name,
    );
    let below = format!("{}/", root(&dataset));
    run.set_failed(progress.failures.iter().map(|failure| {
        let path = String::from_utf8_lossy(&failure.path);
        FailedFile {
            path: path.strip_prefix(&below).unwrap_or(&path).to_owned(),
            reason: failure.reason.clone(),
        }
    }));
    Some(run)
}

/// Whether it has brought every file.
pub(super) fn is_success(run: &RunStatus) -> bool {
    run.completion_time.is_some()
        && run.listed
        && run.files.failed == 0
        && run.files.done == run.files.total
}

/// What they find: `blocked` keeps a run from being started, `run` is the last one, `starting` says that the masters are
/// asked for another, `next` when the schedule has one.
pub(super) fn findings(
    observed: &Observed<'_>,
    blocked: Option<(&'static str, String)>,
    run: Option<&RunStatus>,
    starting: bool,
    next: Option<Timestamp>,
) -> Vec<Finding> {
    let scheduled = observed.policy.spec.schedule.is_some();
    // Of an earlier generation it says nothing about what is wanted now; a schedule only promises the next run.
    let run = run.filter(|run| scheduled || run.generation == generation(observed));
    let running = run.filter(|run| run.completion_time.is_none());
    let when = next.map(|next| format!("the next run is at {}", whole(next)));
    let waits = blocked.as_ref().map(|(_, message)| message.clone());
    let waits = waits.or(when).unwrap_or_default();
    let counts = |run: &RunStatus| {
        let more = if run.listed { "" } else { "more than " };
        format!(
            "{} of {more}{} files are in place",
            run.files.done, run.files.total
        )
    };
    let failed = |run: &RunStatus| {
        let first = run.failed().first();
        let first = first.map(|file| format!(": {}: {}", file.path, file.reason));
        format!(
            "{} files could not be brought{}; status.run.failed has the first of them",
            run.files.failed,
            first.unwrap_or_default()
        )
    };
    let is_blocked = blocked.is_some();
    let ready = match blocked {
        Some((reason, message)) => Finding::no(READY, reason, message),
        None if scheduled => Finding::yes(READY, "Scheduled", waits.clone()),
        None => Finding::yes(READY, "Accepted", "the masters carry it out"),
    };
    let progressing = match running {
        Some(run) => Finding::yes(PROGRESSING, "Running", counts(run)),
        None if starting => Finding::yes(PROGRESSING, "Starting", "the masters are asked to start"),
        None if is_blocked => Finding::no(PROGRESSING, "Waiting", waits.clone()),
        None => Finding::no(PROGRESSING, "Settled", ""),
    };
    let complete = match run {
        Some(run) if run.completion_time.is_none() => Finding::no(COMPLETE, "Running", counts(run)),
        Some(run) if is_success(run) => Finding::yes(COMPLETE, "Succeeded", counts(run)),
        Some(run) if run.files.failed > 0 => Finding::no(COMPLETE, "FilesFailed", failed(run)),
        Some(run) => Finding::no(
            COMPLETE,
            "Incomplete",
            format!("the run has ended, and only {}", counts(run)),
        ),
        None => Finding::no(COMPLETE, "Waiting", waits),
    };
    let degraded = match run {
        Some(run) if run.files.failed > 0 => Finding::yes(DEGRADED, "FilesFailed", failed(run)),
        _ if is_blocked => Finding::no(DEGRADED, "NotReady", ""),
        _ => Finding::no(DEGRADED, "Healthy", ""),
    };
    vec![ready, progressing, complete, degraded]
}
