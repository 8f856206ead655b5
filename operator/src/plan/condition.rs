//! Conditions: what they say, and when they count as changed.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// It works.
pub const READY: &str = "Ready";
/// An edit is being carried out.
pub const PROGRESSING: &str = "Progressing";
/// It works, but something is broken.
pub const DEGRADED: &str = "Degraded";
/// The last run brought every file.
pub const COMPLETE: &str = "Complete";
/// It is to go, but is in use.
pub const DELETION_BLOCKED: &str = "DeletionBlocked";

/// Reasons of a beginning or an end: not how things should be, and nothing that anybody has to look at.
const PASSING: [&str; 10] = [
    "MastersStarting",
    "WorkersStarting",
    "Mounting",
    "VolumePending",
    "VolumeReplaced",
    "Waiting",
    "Running",
    "Starting",
    "Deleting",
    "NotReady",
];

/// The longest message that a condition can have.
const MESSAGE_MOST: usize = 4096;

/// One condition, before it is known since when it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its type.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// In CamelCase, for programs.
    pub reason: &'static str,
    /// For people: what is the matter, and what to do.
    pub message: String,
}

impl Finding {
    /// It holds, for this reason.
    pub fn yes(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Finding {
        Finding {
            kind,
            holds: true,
            reason,
            message: message.into(),
        }
    }

    /// It does not, for this reason.
    pub fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Finding {
        Finding {
            holds: false,
            ..Finding::yes(kind, reason, message)
        }
    }

    /// Whether it is how things should be.
    pub fn is_good(&self) -> bool {
        // What a run that is not complete lacks, `Degraded` tells.
        self.holds == (self.kind == READY) || matches!(self.kind, PROGRESSING | COMPLETE)
    }

    /// Whether a person has to look at it.
    pub fn is_warning(&self) -> bool {
        !self.is_good() && !PASSING.contains(&self.reason)
    }
}

/// The conditions after `findings`: those found no longer are gone, and the time of a transition is `now` only where
/// the status turned.
pub fn merge(
    before: &[Condition],
    findings: &[Finding],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let merged = |finding: &Finding| {
        let status = if finding.holds { "True" } else { "False" };
        let same = before
            .iter()
            .find(|c| c.type_ == finding.kind && c.status == status);
        // The API server keeps whole seconds.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Condition {
            last_transition_time: same.map_or(Time(now), |c| c.last_transition_time.clone()),
            message: shortened(&finding.message),
            observed_generation: generation,
            reason: finding.reason.to_owned(),
            status: status.to_owned(),
            type_: finding.kind.to_owned(),
        }
    };
    findings.iter().map(merged).collect()
}

fn shortened(message: &str) -> String {
    let mut end = message.len().min(MESSAGE_MOST);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

/// Those findings that say another thing than the conditions before: each is an event. What never was told and
/// is as it should be, is none.
pub fn transitions<'a>(before: &[Condition], findings: &'a [Finding]) -> Vec<&'a Finding> {
    let changed = |finding: &&Finding| {
        let status = if finding.holds { "True" } else { "False" };
        match before.iter().find(|c| c.type_ == finding.kind) {
            Some(c) => c.status != status || (finding.reason != c.reason && !finding.is_good()),
            None => finding.kind == READY && finding.holds || !finding.is_good(),
        }
    };
    findings.iter().filter(changed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_time_moves_only_when_the_status_turns() {
        let first = merge(&[], &[Finding::no(READY, "Starting", "a")], Some(1), at(10));
        let second = merge(
            &first,
            &[Finding::no(READY, "NoLeader", "b")],
            Some(2),
            at(20),
        );
        assert_eq!(second[0].last_transition_time, Time(at(10)));
        assert_eq!(second[0].reason, "NoLeader");
        assert_eq!(second[0].observed_generation, Some(2));
        let third = merge(
            &second,
            &[Finding::yes(READY, "Serving", "c")],
            Some(2),
            at(30),
        );
        assert_eq!(third[0].last_transition_time, Time(at(30)));
        assert_eq!(merge(&third, &[], Some(2), at(40)), []);
    }

    #[test]
    fn messages_are_bounded_at_characters() {
        let long = "ä".repeat(4000);
        let merged = merge(&[], &[Finding::no(READY, "X", long)], None, at(0));
        assert_eq!(merged[0].message.len(), 4096);
    }

    #[test]
    fn beginnings_are_no_warnings() {
        let warns = |finding: Finding| finding.is_warning();
        for reason in ["MastersStarting", "WorkersStarting", "Mounting", "Waiting"] {
            assert!(!warns(Finding::no(READY, reason, "")), "{reason}");
        }
        assert!(!warns(Finding::yes(READY, "Serving", "")));
        assert!(!warns(Finding::yes(PROGRESSING, "Running", "")));
        assert!(!warns(Finding::yes(COMPLETE, "Succeeded", "")));
        assert!(!warns(Finding::no(COMPLETE, "Running", "")));
        assert!(warns(Finding::no(READY, "NoWorkers", "")));
        assert!(warns(Finding::yes(DEGRADED, "FilesFailed", "")));
    }

    #[test]
    fn events_are_for_transitions() {
        let starting = [Finding::no(READY, "Starting", "a")];
        let serving = [
            Finding::yes(READY, "Serving", "b"),
            Finding::no(DEGRADED, "Healthy", ""),
        ];
        let down = [
            Finding::yes(READY, "Serving", "b"),
            Finding::yes(DEGRADED, "WorkersDown", "c"),
        ];
        let reasons = |before: &[Finding], after: &[Finding]| -> Vec<&'static str> {
            let before = merge(&[], before, None, at(0));
            let told = transitions(&before, after);
            told.into_iter().map(|finding| finding.reason).collect()
        };
        assert_eq!(reasons(&[], &starting), ["Starting"]);
        assert_eq!(reasons(&starting, &starting), [""; 0]);
        assert_eq!(reasons(&starting, &serving), ["Serving"]);
        assert_eq!(reasons(&serving, &down), ["WorkersDown"]);
        assert_eq!(reasons(&down, &serving), ["Healthy"]);
    }
}
