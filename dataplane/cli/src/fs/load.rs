//! `forebay fs load`: a bar on a terminal, plain lines elsewhere.

use crate::{
    args::LoadArgs,
    cluster::{Target, shown},
    failure::Failure,
    output,
    signal::StopSignals,
};
use forebay_client::call::error_of;
use forebay_proto::{
    convert::code_of,
    v1::{JobProgress, LoadRequest},
};
use globset::Glob;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};
use tokio::time::sleep;
use tonic::{Status, Streaming};

/// Plain lines come at most this often.
const LINES_EVERY: Duration = Duration::from_secs(2);
/// Failures told on the terminal; all are counted.
const FAILURES_TOLD: u64 = 20;

/// A job whose master goes away is begun again on the next leader, so often in a row without any
/// progress …
const RESTARTS: u32 = 3;
/// … and after such a pause.
const RESTART_AFTER: Duration = Duration::from_millis(300);

/// Loads a path and follows the job. Interrupted, it cancels the job; run again, it goes on
/// where it stopped, since what is cached is not fetched again.
pub(crate) async fn run(target: &Target, args: &LoadArgs, json: bool) -> Result<(), Failure> {
    for glob in &args.include {
        Glob::new(glob)
            .map_err(|error| Failure::usage(format!("bad glob '{glob}': {}", error.kind())))?;
    }
    let mut stop = StopSignals::install()?;
    let started = Instant::now();
    let mut progress = begin(target, args).await?;
    let mut view = View::new(json);
    let mut last = JobProgress::default();
    let mut restarts = 0;
    loop {
        let message = tokio::select! {
            message = progress.message() => message,
            () = stop.wait() => {
                view.finish();
                return Err(Failure::run(format!(
                    "interrupted after {} files, {}: the same command goes on from there",
                    last.files_done, output::size(last.bytes_done)
                )));
            }
        };
        match message {
            Ok(Some(update)) => {
                view.show(&update, started.elapsed());
                restarts = 0;
                let finished = update.finished;
                last = update;
                if finished {
                    break;
                }
            }
            // The job ends with the reign of its master. Another finds cached what this one loaded.
            ended if restarts < RESTARTS && is_transient(&ended) => {
                restarts += 1;
                sleep(RESTART_AFTER).await;
                progress = begin(target, args).await?;
            }
            Ok(None) => break,
            Err(status) => {
                return Err(error_of(&target.master.address(), "load", &status).into());
            }
        }
    }
    view.finish();
    summary(&last, started.elapsed(), json);
    if !last.finished {
        return Err(Failure::run(
            "the master ended the job early: run the command again",
        ));
    }
    if last.files_failed > 0 {
        return Err(Failure::run(format!(
            "{} files could not be loaded",
            last.files_failed
        )));
    }
    Ok(())
}

async fn begin(target: &Target, args: &LoadArgs) -> Result<Streaming<JobProgress>, Failure> {
    let begin = || {
        let mut admin = target.master.admin();
        let request = LoadRequest {
            path: target.path.clone(),
            include: args.include.clone(),
            metadata_only: args.metadata_only,
        };
        async move { admin.load(request).await }
    };
    Ok(target.master.retrying("load", begin).await?.into_inner())
}

/// Whether the stream of a job ended because its master did.
fn is_transient(ended: &Result<Option<JobProgress>, Status>) -> bool {
    match ended {
        Ok(_) => true,
        Err(status) => code_of(status).is_transient(),
    }
}

fn summary(done: &JobProgress, took: Duration, json: bool) {
    let seconds = took.as_secs_f64().max(1e-3);
    let fetched = done.files_done - done.files_cached_before.min(done.files_done);
    if json {
        let line = serde_json::json!({
            "finished": done.finished, "files": done.files_done, "bytes": done.bytes_done,
            "files_cached_before": done.files_cached_before, "files_failed": done.files_failed,
            "seconds": seconds,
        });
        println!("{line}");
    } else {
        println!(
            "{} files, {} in {seconds:.1} s ({:.0} files/s, {}/s); {} fetched, {} cached before, {} failed",
            done.files_done,
            output::size(done.bytes_done),
            done.files_done as f64 / seconds,
            output::size((done.bytes_done as f64 / seconds) as u64),
            fetched,
            done.files_cached_before,
            done.files_failed,
        );
    }
}

/// How progress is shown.
struct View {
    bar: Option<ProgressBar>,
    json: bool,
    last_line: Instant,
    failures: u64,
}

impl View {
    fn new(json: bool) -> View {
        let bar = (!json && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(8));
            bar.set_style(
                ProgressStyle::with_template(
                    "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} ETA {eta}",
                )
                .expect("the template is a constant that a test has run")
                .progress_chars("=> "),
            );
            bar
        });
        View {
            bar,
            json,
            last_line: Instant::now(),
            failures: 0,
        }
    }

    fn show(&mut self, update: &JobProgress, took: Duration) {
        for failure in &update.failures {
            self.failures += 1;
            if self.failures > FAILURES_TOLD && !self.json {
                continue;
            }
            let line = if self.json {
                serde_json::json!({ "failed": shown(&failure.path), "reason": failure.reason })
                    .to_string()
            } else {
                format!("failed: {}: {}", shown(&failure.path), failure.reason)
            };
            match &self.bar {
                Some(bar) => bar.println(line),
                None if self.json => println!("{line}"),
                None => eprintln!("{line}"),
            }
        }
        // The total still grows while the tree is listed.
        let more = if update.listed { "" } else { "+" };
        if let Some(bar) = &self.bar {
            bar.set_length(update.bytes_total);
            bar.set_position(update.bytes_done);
            bar.set_message(format!(
                "{}/{}{more} files",
                update.files_done, update.files_total
            ));
        } else if !self.json && self.last_line.elapsed() >= LINES_EVERY {
            self.last_line = Instant::now();
            eprintln!(
                "{}/{}{more} files, {}/{}{more}, {}/s",
                update.files_done,
                update.files_total,
                output::size(update.bytes_done),
                output::size(update.bytes_total),
                output::size((update.bytes_done as f64 / took.as_secs_f64().max(1e-3)) as u64),
            );
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_template_is_valid() {
        let view = ProgressStyle::with_template(
            "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} ETA {eta}",
        );
        assert!(view.is_ok());
    }
}
