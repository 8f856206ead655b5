//! When a WarmupPolicy runs.

use cronexpr::Crontab;
use forebay_crds::Schedule;
use k8s_openapi::jiff::{SignedDuration, Timestamp, tz::TimeZone};

/// How far back the latest time is looked for: the shortest first, so that few times are gone through.
const BACK_HOURS: [i64; 5] = [1, 25, 32 * 24, 400 * 24, 9 * 366 * 24];

/// The times of a schedule.
#[derive(Clone, Debug)]
pub struct Times {
    crontab: Crontab,
}

impl Times {
    /// Of this one; else the reason that conditions give, and what to do.
    pub fn new(schedule: &Schedule) -> Result<Times, (&'static str, String)> {
        let Schedule { cron, time_zone } = schedule;
        if TimeZone::get(time_zone).is_err() {
            let message = format!(
                "spec.schedule.timeZone: there is no time zone {time_zone}: use an IANA name, such as Europe/Berlin or UTC"
            );
            return Err(("InvalidTimeZone", message));
        }
        let crontab = cronexpr::parse_crontab(&format!("{cron} {time_zone}"));
        let crontab = crontab.map_err(|error| {
            // Above are the expression, and a caret below it.
            let error = error.to_string();
            let why = error.lines().last().unwrap_or_default();
            let why = why.trim_start_matches([' ', '^']);
            let message = format!(
                "spec.schedule.cron: \"{cron}\": {why}: five fields, minute, hour, day of the month, month, day of the week, such as \"0 3 * * *\""
            );
            ("InvalidSchedule", message)
        })?;
        let times = Times { crontab };
        if times.next(Timestamp::UNIX_EPOCH).is_none() {
            let message =
                format!("spec.schedule.cron: \"{cron}\" is on no day: change day and month");
            return Err(("InvalidSchedule", message));
        }
        Ok(times)
    }

    /// The first time after `then`.
    pub fn next(&self, then: Timestamp) -> Option<Timestamp> {
        let next = self.crontab.find_next(cronexpr::MakeTimestamp(then)).ok()?;
        Some(next.timestamp())
    }

    /// The last time that is not after `now`.
    pub fn latest(&self, now: Timestamp) -> Option<Timestamp> {
        BACK_HOURS.into_iter().find_map(|hours| {
            let from = now.checked_sub(SignedDuration::from_hours(hours)).ok()?;
            let mut times = std::iter::successors(self.next(from), |then| self.next(*then));
            let mut latest = None;
            for then in times.by_ref().take_while(|then| *then <= now) {
                latest = Some(then);
            }
            latest
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(cron: &str, zone: &str) -> Result<Times, (&'static str, String)> {
        Times::new(&Schedule {
            cron: cron.to_owned(),
            time_zone: zone.to_owned(),
        })
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn times_are_those_of_the_zone() {
        let nightly = times("0 3 * * *", "Europe/Berlin").unwrap();
        let next = |then| nightly.next(at(then)).unwrap().to_string();
        assert_eq!(next("2026-01-10T02:00:00Z"), "2026-01-11T02:00:00Z");
        assert_eq!(next("2026-07-10T00:59:59Z"), "2026-07-10T01:00:00Z");
        let latest = |cron: &str, now| {
            let times = times(cron, "Europe/Berlin").unwrap();
            times.latest(at(now)).map(|then| then.to_string())
        };
        let told = [
            ("0 3 * * *", "2026-01-10T02:00:00Z", "2026-01-10T02:00:00Z"),
            ("0 3 * * *", "2026-01-10T01:59:59Z", "2026-01-09T02:00:00Z"),
            (
                "*/5 * * * *",
                "2026-01-10T01:59:59Z",
                "2026-01-10T01:55:00Z",
            ),
            ("0 0 29 2 *", "2026-01-10T00:00:00Z", "2024-02-28T23:00:00Z"),
            (
                "0 12 * * MON-FRI",
                "2026-01-11T12:00:00Z",
                "2026-01-09T11:00:00Z",
            ),
            ("0 12 * * 7", "2026-01-10T12:00:00Z", "2026-01-04T11:00:00Z"),
        ];
        for (cron, now, expected) in told {
            assert_eq!(latest(cron, now).as_deref(), Some(expected), "{cron}");
        }
    }

    #[test]
    fn an_hour_that_a_day_lacks_or_has_twice() {
        let times = times("30 2 * * *", "Europe/Berlin").unwrap();
        let after = |then: &str, n: usize| -> Vec<String> {
            let times = std::iter::successors(times.next(at(then)), |t| times.next(*t));
            times.take(n).map(|t| t.to_string()).collect()
        };
        // The clocks go forward on 29 March, and back on 25 October.
        assert_eq!(
            after("2026-03-28T02:00:00Z", 1),
            ["2026-03-30T00:30:00Z"],
            "there is no half past two on that day"
        );
        assert_eq!(
            after("2026-10-24T02:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]
        );
    }

    #[test]
    fn what_is_no_time_says_what_to_do() {
        let refused = |cron: &str, zone: &str| times(cron, zone).unwrap_err();
        let (reason, message) = refused("0 3 * * *", "Europe/Atlantis");
        assert_eq!(reason, "InvalidTimeZone");
        assert!(message.contains("no time zone Europe/Atlantis: use an IANA name"));
        let (reason, message) = refused("0 9-3 * * *", "UTC");
        assert_eq!(reason, "InvalidSchedule");
        assert!(
            message.contains("ascending order") && !message.contains('\n'),
            "{message}"
        );
        assert_eq!(refused("0 0 30 2 *", "UTC").0, "InvalidSchedule");
        for cron in [
            "*/15,59 0-6,22-23/2 1,15 JAN-MAR,12 MON-FRI",
            "5/10 * * * 0-7",
        ] {
            assert!(
                times(cron, "America/Argentina/Buenos_Aires").is_ok(),
                "{cron}"
            );
        }
    }
}
