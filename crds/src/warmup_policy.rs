//! WarmupPolicy: bringing data into the cache before it is read.

use crate::{Duration, Percent, Quantity};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bringing data into the cache before it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "forebay.io",
    version = "v1alpha1",
    kind = "WarmupPolicy",
    plural = "warmuppolicies",
    namespaced,
    status = "WarmupPolicyStatus",
    derive = "PartialEq",
    shortname = "warmup",
    category = "forebay",
    doc = "Brings files of a Dataset into the cache before they are read: once, or by a schedule.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name: at most 63 characters"),
    printcolumn(
        name = "Dataset",
        type_ = "string",
        json_path = ".spec.datasetRef.name",
        description = "The Dataset whose files it brings."
    ),
    printcolumn(
        name = "Complete",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Complete\")].status",
        description = "Whether the last run brought every file."
    ),
    printcolumn(
        name = "Progress",
        type_ = "string",
        json_path = ".status.summary.progress",
        description = "Bytes in place, of all of this run."
    ),
    printcolumn(
        name = "Files",
        type_ = "string",
        json_path = ".status.summary.files",
        description = "Files in place, of all of this run."
    ),
    printcolumn(
        name = "Failed",
        type_ = "integer",
        json_path = ".status.run.files.failed",
        description = "Files that could not be brought."
    ),
    printcolumn(
        name = "ETA",
        type_ = "string",
        json_path = ".status.summary.eta",
        description = "How long the run will still take."
    ),
    printcolumn(
        name = "Last success",
        type_ = "date",
        json_path = ".status.lastSuccessTime",
        description = "When a run last ended with every file in place."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Complete\")].reason",
        description = "Why it is complete or not.",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct WarmupPolicySpec {
    /// The Dataset whose files are brought. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf").message("datasetRef cannot be changed: create another WarmupPolicy"))]
    pub dataset_ref: DatasetRef,
    /// Which files: globs of paths in the Dataset, such as `train/**` or `*.parquet`; `**` is any number of directories.
    /// Default: every file.
    #[serde(default = "everything")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 1024)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(glob, !glob.startsWith('/'))").message("globs begin at the top of the Dataset, without a /: train/**"),
    )]
    pub include: Vec<String>,
    /// Only files that were modified within this time before the run, such as `14d` or `12h`. Default: however old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer_than: Option<Duration>,
    /// When it runs. Default: once, as soon as the policy is there, and again whenever its spec is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Where the files go: `{everyNode: {}}` or `{replicas: 2}`. Default: one copy in the cluster.
    // Without a default in the schema: it would be stored, and stand beside an everyNode that comes later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Whether the files stay in the cache, however full it is, until the policy is changed or deleted.
    /// Default: false.
    #[serde(default)]
    pub pin: bool,
    /// What it may take up. Default: no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<WarmupLimits>,
}

fn everything() -> Vec<String> {
    vec!["**".to_owned()]
}

/// A Dataset of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct DatasetRef {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// Runs at certain times. If the previous run is still going on, one is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// Minute, hour, day of the month, month, day of the week, as in cron: `0 3 * * *` is every night at three,
    /// `*/30 8-18 * * MON-FRI` every half hour of a working day.
    #[schemars(length(max = 100))]
    #[x_kube(validation = Rule::new(format!("self.matches('{}')", cron()))
        .message("five fields: minute, hour, day of the month, month, day of the week, such as \"0 3 * * *\""))]
    pub cron: String,
    /// Time zone of `cron` by its IANA name, such as `Europe/Berlin`. Default: UTC.
    #[serde(default = "utc")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$') && self != 'Local'")
        .message("a time zone by its IANA name, such as Europe/Berlin or UTC"))]
    pub time_zone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// The pattern of five fields of cron.
fn cron() -> String {
    let field = |value: &str| {
        let item = format!("([*]|({value})(-({value}))?)(/[1-9][0-9]?)?");
        format!("{item}(,{item})*")
    };
    let fields = [
        "[0-5]?[0-9]",
        "[01]?[0-9]|2[0-3]",
        "0?[1-9]|[12][0-9]|3[01]",
        "0?[1-9]|1[0-2]|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC",
        "[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT",
    ];
    format!("^{}$", fields.map(field).join(" "))
}

/// Where files go: on every node, or on so many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.everyNode) != has(self.replicas)").message("give either everyNode: {} or replicas"))]
pub struct Placement {
    /// `{}`: a copy on every node that has a worker, also on those that come later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_node: Option<EveryNode>,
    /// So many copies on different nodes, 1 to 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub replicas: Option<u32>,
}

/// Nothing to say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct EveryNode {}

/// What a run may take up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct WarmupLimits {
    /// Most bytes a second from the under stores, all workers together, such as `200Mi`. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Quantity>,
}

/// What was observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WarmupPolicyStatus {
    /// The `metadata.generation` that the rest of the status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the policy can be carried out. `Progressing`: a run is going on. `Complete`: the last run ended with
    /// every file in place. `Degraded`: some could not be brought.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The run that is going on, else the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunStatus>,
    /// When a run last ended with every file in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_time: Option<Time>,
    /// When the schedule has the next run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_time: Option<Time>,
    /// The same for people, as `kubectl get` shows it; not for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<WarmupPolicySummary>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunStatus {
    /// The `metadata.generation` of the policy that it carries out.
    pub generation: i64,
    /// When it began.
    pub start_time: Time,
    /// When it ended. Absent: it is going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Whether all files of the run are known. Until then `total` grows.
    pub listed: bool,
    /// Its files.
    pub files: FileProgress,
    /// Their bytes.
    pub bytes: ByteProgress,
    /// When it will probably end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_completion_time: Option<Time>,
    /// The first files that could not be brought, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    failed: Vec<FailedFile>,
}

impl RunStatus {
    /// Most failed files that are named.
    pub const MOST_FAILED: usize = 20;

    /// A run at its begin.
    pub fn begin(generation: i64, start_time: Time) -> RunStatus {
        RunStatus {
            generation,
            start_time,
            completion_time: None,
            listed: false,
            files: FileProgress::default(),
            bytes: ByteProgress::default(),
            estimated_completion_time: None,
            failed: Vec::new(),
        }
    }

    /// Names the files that could not be brought, as far as there is room.
    pub fn set_failed(&mut self, files: impl IntoIterator<Item = FailedFile>) {
        self.failed = files.into_iter().take(RunStatus::MOST_FAILED).collect();
    }

    /// The first files that could not be brought.
    pub fn failed(&self) -> &[FailedFile] {
        &self.failed
    }

    /// How much of it is in place; 100 only when every file is. None as long as not all are known.
    pub fn percent(&self) -> Option<Percent> {
        if !self.listed {
            return None;
        }
        // Empty files count, too: bytes alone would be all in place before the last of them is.
        let bytes = Percent::of(self.bytes.done, self.bytes.total);
        let files = Percent::of(self.files.done, self.files.total);
        match (bytes, files) {
            (Some(bytes), Some(files)) if files.get() < 100 => {
                Percent::try_from(bytes.get().min(99)).ok()
            }
            (bytes, files) => bytes.or(files),
        }
    }
}

/// Files of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct FileProgress {
    /// How many there are.
    pub total: u64,
    /// How many of them are whole wherever the placement wants them, as the workers there say.
    pub done: u64,
    /// How many of them could not be brought.
    pub failed: u64,
}

/// Bytes of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ByteProgress {
    /// Size of all files, each counted once.
    pub total: u64,
    /// Size of those that are done, and what is there of the others.
    pub done: u64,
}

/// A file that could not be brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct FailedFile {
    /// Its path in the Dataset.
    pub path: String,
    /// Why, and what to do.
    pub reason: String,
}

/// A status for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct WarmupPolicySummary {
    /// Bytes in place, of all: `57%`; bytes, such as `12.4Gi`, as long as not all files are known.
    pub progress: String,
    /// Files in place, of all: `1140/2000`; `1140/>2000` as long as not all are known.
    pub files: String,
    /// How long the run will still take: `3m`. Absent: it has ended, or nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<String>,
}

impl WarmupPolicySummary {
    /// The summary of `run` at the time `now`.
    pub fn of(run: &RunStatus, now: &Time) -> WarmupPolicySummary {
        let more = if run.listed { "" } else { ">" };
        let end = run.estimated_completion_time.as_ref();
        let end = end.filter(|_| run.completion_time.is_none());
        WarmupPolicySummary {
            progress: match run.percent() {
                Some(percent) => percent.to_string(),
                None => Quantity::rounded(run.bytes.done),
            },
            files: format!("{}/{more}{}", run.files.done, run.files.total),
            eta: end.map(|end| coarse(end.0.as_second() - now.0.as_second())),
        }
    }
}

/// A time with one unit, as `kubectl get` writes ages.
fn coarse(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7_200 => format!("{}m", s / 60),
        s @ 7_200..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> Time {
        serde_json::from_value(time.into()).unwrap()
    }

    fn run(listed: bool, files: (u64, u64), bytes: (u64, u64)) -> RunStatus {
        RunStatus {
            listed,
            files: FileProgress {
                done: files.0,
                total: files.1,
                failed: 0,
            },
            bytes: ByteProgress {
                done: bytes.0,
                total: bytes.1,
            },
            ..RunStatus::begin(1, at("2026-11-21T03:00:00Z"))
        }
    }

    #[test]
    fn complete_means_every_file() {
        let percent = |run: RunStatus| run.percent().map(Percent::get);
        assert_eq!(percent(run(false, (2, 2), (8, 8))), None);
        assert_eq!(percent(run(true, (1, 2), (4, 8))), Some(50));
        assert_eq!(percent(run(true, (1, 2), (8, 8))), Some(99));
        assert_eq!(percent(run(true, (2, 2), (9, 8))), Some(100));
        assert_eq!(percent(run(true, (1, 2), (0, 0))), Some(50));
        assert_eq!(percent(run(true, (0, 0), (0, 0))), None);
    }

    #[test]
    fn the_summary_tells_how_far_it_is() {
        let mut going = run(true, (1140, 2000), (57, 100));
        going.estimated_completion_time = Some(at("2026-11-21T03:10:30Z"));
        let now = at("2026-11-21T03:05:00Z");
        let summary = WarmupPolicySummary::of(&going, &now);
        assert_eq!(
            (summary.progress.as_str(), summary.files.as_str()),
            ("57%", "1140/2000")
        );
        assert_eq!(summary.eta.as_deref(), Some("5m"));
        going.completion_time = Some(now.clone());
        assert_eq!(WarmupPolicySummary::of(&going, &now).eta, None);
        let listing = WarmupPolicySummary::of(&run(false, (1, 5), (2048, 9000)), &now);
        assert_eq!(
            (listing.progress.as_str(), listing.files.as_str()),
            ("2.00Ki", "1/>5")
        );
        assert_eq!(
            ["-5", "119", "120", "7200", "172800"].map(|s| coarse(s.parse().unwrap())),
            ["0s", "119s", "2m", "2h", "2d"]
        );
    }

    #[test]
    fn failed_files_are_bounded() {
        let mut run = run(true, (0, 1), (0, 1));
        let file = |n: u32| FailedFile {
            path: format!("f{n}"),
            reason: "not found".to_owned(),
        };
        run.set_failed((0..1000).map(file));
        assert_eq!(run.failed().len(), RunStatus::MOST_FAILED);
    }
}
