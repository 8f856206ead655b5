//! Mounts of a Dataset against the mount table of its cluster.

use forebay_client::Error as CallError;
use forebay_crds::{MOUNT_OPTIONS, Mount};
use forebay_types::{Code, Credentials, SyncPolicy};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::{collections::BTreeMap, time::Duration};

/// A call that takes longer says that the store does not answer.
const SILENT_AFTER: SignedDuration = SignedDuration::from_secs(6);
/// The wait after the first failure; twice as long after each …
const RETRY_FIRST: Duration = Duration::from_secs(2);
/// … up to this. A store may be mended without anybody telling the operator.
const RETRY_MOST: Duration = Duration::from_secs(30);

/// The mount table of a cluster, by path.
pub type Table = BTreeMap<String, Row>;

/// A row of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The under store.
    pub uri: String,
    /// Its options.
    pub options: BTreeMap<String, String>,
    /// When metadata is compared.
    pub sync: SyncPolicy,
    /// Its credentials.
    pub held: Held,
}

/// Credentials in the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// None.
    Nothing,
    /// These.
    Open(Credentials),
    /// Some that the cluster's key does not open.
    Closed,
}

/// What is to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Path in the cluster's tree.
    pub path: String,
    /// The under store.
    pub uri: String,
    /// Its options, by the names that masters know.
    pub options: BTreeMap<String, String>,
    /// When metadata is compared.
    pub sync: SyncPolicy,
    /// Its credentials, in the clear.
    pub credentials: Option<Credentials>,
}

impl Wanted {
    /// A mount of a Dataset whose directory is `root`.
    pub fn new(root: &str, mount: &Mount, credentials: Option<Credentials>) -> Wanted {
        let key = |name: &String| {
            let known = MOUNT_OPTIONS.iter().find(|option| option.name == name);
            known.map_or(name.clone(), |option| option.key.to_owned())
        };
        let options = mount.options.iter();
        Wanted {
            path: path(root, &mount.path),
            uri: mount.uri.clone(),
            options: options.map(|(k, v)| (key(k), v.clone())).collect(),
            sync: sync(&mount.sync),
            credentials,
        }
    }

    /// The row that it becomes.
    pub fn row(&self) -> Row {
        Row {
            uri: self.uri.clone(),
            options: self.options.clone(),
            sync: self.sync,
            held: self.credentials.clone().map_or(Held::Nothing, Held::Open),
        }
    }
}

/// Where a mount of a Dataset lies.
pub fn path(root: &str, path: &str) -> String {
    format!("{root}{}", path.trim_end_matches('/'))
}

fn sync(policy: &forebay_crds::SyncPolicy) -> SyncPolicy {
    match policy {
        forebay_crds::SyncPolicy::Never => SyncPolicy::Never,
        forebay_crds::SyncPolicy::Always => SyncPolicy::Always,
        forebay_crds::SyncPolicy::Interval(time) => SyncPolicy::Interval(time.length()),
    }
}

/// The last call about a path.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What was asked for; `None`: to unmount.
    pub wanted: Option<Wanted>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What keeps the store of a mount from answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// In CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// What came of a call.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Nothing yet.
    Running {
        /// Since when.
        since: Timestamp,
        /// Failures of the same before.
        failures: u32,
    },
    /// It is done, and the table shows it.
    Done,
    /// It failed.
    Failed {
        /// When.
        at: Timestamp,
        /// How often in a row.
        failures: u32,
        /// Why.
        error: CallError,
    },
}

/// Where a wanted mount stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As it should be.
    Mounted,
    /// A call is to be made or under way.
    Pending,
    /// The last call failed, or takes too long.
    Failed {
        /// In CamelCase.
        reason: &'static str,
        /// The master's words.
        message: String,
    },
}

/// What to do about a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where it stands.
    pub standing: Standing,
    /// Whether the path shows the wanted store, be it with older settings.
    pub readable: bool,
    /// The call to make now.
    pub call: Option<Call>,
    /// When to look again, if nothing happens before.
    pub again: Option<Duration>,
}

/// A call to the masters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Mount this.
    Mount(Wanted),
    /// Take away what is mounted there.
    Unmount(String),
}

/// Judges a wanted mount.
pub fn judge(wanted: &Wanted, table: &Table, attempt: Option<&Attempt>, now: Timestamp) -> Verdict {
    let row = table.get(&wanted.path);
    let mut verdict = Verdict {
        standing: Standing::Mounted,
        readable: row.is_some_and(|row| row.uri == wanted.uri),
        call: None,
        again: None,
    };
    let same = attempt.filter(|a| a.wanted.as_ref() == Some(wanted));
    if row.is_some_and(|row| *row == wanted.row()) {
        return verdict;
    }
    match same.map(|attempt| &attempt.outcome) {
        Some(Outcome::Running { since, .. }) => {
            let silent = *since + SILENT_AFTER;
            verdict.standing = if now < silent {
                verdict.again = Some(until(silent, now));
                Standing::Pending
            } else {
                Standing::Failed {
                    reason: "StoreUnreachable",
                    message: format!(
                        "{} does not answer: check the endpoint and the network",
                        wanted.uri
                    ),
                }
            };
            return verdict;
        }
        Some(Outcome::Failed {
            at,
            failures,
            error,
        }) => {
            verdict.standing = Standing::Failed {
                reason: reason(error.code),
                message: error.message.clone(),
            };
            let retry = *at + SignedDuration::try_from(wait(*failures)).unwrap_or_default();
            if now < retry {
                verdict.again = Some(until(retry, now));
                return verdict;
            }
        }
        Some(Outcome::Done) | None => verdict.standing = Standing::Pending,
    }
    // Masters refuse to show another store at a path that is in use.
    verdict.call = Some(match row {
        Some(row) if row.uri != wanted.uri && !is_running(attempt) => {
            Call::Unmount(wanted.path.clone())
        }
        _ => Call::Mount(wanted.clone()),
    });
    // One call about a path at a time: this one ends, and wakes us.
    verdict.call.take_if(|_| is_running(attempt));
    verdict
}

/// Paths below `root` that hold something which is wanted no longer, the deepest first.
pub fn unwanted(root: &str, table: &Table, wanted: &[Wanted]) -> Vec<String> {
    let below = format!("{root}/");
    // Others share the beginning of the name, and may stand between them.
    let near = table.range(root.to_owned()..).map(|(path, _)| path);
    let ours = near
        .take_while(|path| path.starts_with(root))
        .filter(|path| *path == root || path.starts_with(&below));
    let mut gone: Vec<String> = ours
        .filter(|path| !wanted.iter().any(|w| w.path == **path))
        .cloned()
        .collect();
    gone.reverse();
    gone
}

/// Whether a call is under way.
pub fn is_running(attempt: Option<&Attempt>) -> bool {
    attempt.is_some_and(|a| matches!(a.outcome, Outcome::Running { .. }))
}

/// How long to wait after so many failures.
pub fn wait(failures: u32) -> Duration {
    let factor = 1_u32 << failures.saturating_sub(1).min(8);
    (RETRY_FIRST * factor).min(RETRY_MOST)
}

fn until(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}

/// The reason that conditions give for a failed call.
pub fn reason(code: Code) -> &'static str {
    match code {
        Code::PermissionDenied => "AccessDenied",
        Code::NotFound | Code::NotDirectory => "StoreNotFound",
        Code::InvalidArgument | Code::Unsupported => "InvalidMount",
        Code::NotLeader => "MastersUnavailable",
        Code::Timeout | Code::Unavailable => "StoreUnreachable",
        Code::AlreadyExists => "PathInUse",
        _ => "MountFailed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn secret(key: &str) -> Credentials {
        Credentials::new([("KEY".to_owned(), key.to_owned())].into())
    }

    fn wanted() -> Wanted {
        let mount =
            r#"{"path": "/m", "uri": "s3://b/p", "options": {"pathStyle": "true"}, "sync": "5m"}"#;
        let mount: Mount = serde_json::from_str(mount).unwrap();
        Wanted::new("/ns/d", &mount, Some(secret("a")))
    }

    fn attempt(wanted: &Wanted, outcome: Outcome) -> Attempt {
        Attempt {
            wanted: Some(wanted.clone()),
            outcome,
        }
    }

    #[test]
    fn a_mount_is_what_the_masters_would_store() {
        let wanted = wanted();
        assert_eq!(wanted.path, "/ns/d/m");
        assert_eq!(
            wanted.options,
            [("path_style".to_owned(), "true".to_owned())].into()
        );
        assert_eq!(wanted.sync, SyncPolicy::Interval(Duration::from_mins(5)));
        assert_eq!(path("/ns/d", "/"), "/ns/d");
    }

    #[test]
    fn whatever_differs_is_mounted_again() {
        let wanted = wanted();
        let same = wanted.row();
        let other = |change: fn(&mut Row)| {
            let mut row = same.clone();
            change(&mut row);
            row
        };
        let mount = Some(Call::Mount(wanted.clone()));
        let unmount = Some(Call::Unmount("/ns/d/m".to_owned()));
        let cases = [
            (Some(same.clone()), true, None),
            (None, false, mount.clone()),
            (
                Some(other(|r| r.held = Held::Open(secret("b")))),
                true,
                mount.clone(),
            ),
            (Some(other(|r| r.held = Held::Closed)), true, mount.clone()),
            (
                Some(other(|r| r.sync = SyncPolicy::Never)),
                true,
                mount.clone(),
            ),
            (Some(other(|r| r.options.clear())), true, mount),
            (Some(other(|r| r.uri = "s3://c".into())), false, unmount),
        ];
        for (row, readable, call) in cases {
            let table: Table = row.into_iter().map(|r| (wanted.path.clone(), r)).collect();
            let verdict = judge(&wanted, &table, None, at(0));
            assert_eq!((verdict.readable, verdict.call), (readable, call));
        }
    }

    #[test]
    fn a_call_is_made_once_and_again_after_a_while() {
        let wanted = wanted();
        let of = |outcome, now| {
            judge(
                &wanted,
                &Table::new(),
                Some(&attempt(&wanted, outcome)),
                at(now),
            )
        };
        let running = |since| Outcome::Running {
            since: at(since),
            failures: 0,
        };
        let pending = of(running(100), 101);
        assert_eq!(
            (&pending.standing, &pending.call),
            (&Standing::Pending, &None)
        );
        assert_eq!(pending.again, Some(Duration::from_secs(5)));
        let silent = of(running(100), 106);
        assert!(
            matches!(
                silent.standing,
                Standing::Failed {
                    reason: "StoreUnreachable",
                    ..
                }
            ) && silent.call.is_none()
        );
        let failed = |failures, now| {
            let error = CallError::new(Code::PermissionDenied, "mount at m:1: no");
            of(
                Outcome::Failed {
                    at: at(100),
                    failures,
                    error,
                },
                now,
            )
        };
        let denied = failed(2, 101);
        assert!(matches!(&denied.standing,
            Standing::Failed { reason: "AccessDenied", message } if message.ends_with("no")));
        assert_eq!(
            (denied.call, denied.again),
            (None, Some(Duration::from_secs(3)))
        );
        assert!(failed(2, 104).call.is_some());
        assert!(failed(99, 129).call.is_none() && failed(99, 130).call.is_some());
        // Somebody took it away.
        assert!(of(Outcome::Done, 61).call.is_some());
    }

    #[test]
    fn another_wish_does_not_wait_for_the_back_off_but_for_the_call() {
        let wanted = wanted();
        let before = Wanted {
            credentials: Some(secret("wrong")),
            ..wanted.clone()
        };
        let error = CallError::new(Code::PermissionDenied, "no");
        let failed = Outcome::Failed {
            at: at(100),
            failures: 9,
            error,
        };
        let of = |outcome| {
            let attempt = attempt(&before, outcome);
            judge(&wanted, &Table::new(), Some(&attempt), at(100))
        };
        assert!(of(failed).call.is_some());
        let running = Outcome::Running {
            since: at(99),
            failures: 0,
        };
        assert_eq!(of(running).call, None);
    }

    #[test]
    fn what_nobody_wants_goes_deepest_first() {
        let wanted = wanted();
        let row = wanted.row();
        let paths = [
            "/ns/d",
            "/ns/d/a",
            "/ns/d/a/b",
            "/ns/d/m",
            "/ns/dd",
            "/other",
        ];
        let table = paths.map(|path| (path.to_owned(), row.clone())).into();
        assert_eq!(
            unwanted("/ns/d", &table, &[wanted]),
            ["/ns/d/a/b", "/ns/d/a", "/ns/d"]
        );
        assert_eq!(unwanted("/ns/d", &table, &[]).len(), 4);
    }
}
