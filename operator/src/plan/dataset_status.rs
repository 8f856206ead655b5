//! The figures of a Dataset's status, summed over its mounts.

use crate::plan::{
    mount,
    name::{Key, root},
};
use forebay_crds::{
    CacheStatus, Dataset, DatasetStatus, DatasetSummary, OpensStatus, UnderStoreStatus,
};
use forebay_proto::v1::MountUsage;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use std::collections::BTreeMap;

/// A comparison with the store that found nothing is told only so long after the last one that was.
const SYNC_TOLD: SignedDuration = SignedDuration::from_hours(1);

/// The figures by what is known of mounts, by path; where nothing is, they stay as they were told last.
pub fn figures(dataset: &Dataset, usage: Option<&BTreeMap<String, MountUsage>>) -> DatasetStatus {
    let root = root(&Key::of(dataset));
    let paths = dataset.spec.mounts.iter();
    let paths = paths.map(|m| usage?.get(&mount::path(&root, &m.path)));
    let found: Vec<Option<&MountUsage>> = paths.collect();
    let known: Vec<&MountUsage> = found.iter().copied().flatten().collect();
    if known.is_empty() {
        let before = dataset.status.clone().unwrap_or_default();
        return DatasetStatus {
            observed_generation: None,
            conditions: Vec::new(),
            ..before
        };
    }
    let sum = |of: fn(&MountUsage) -> u64| {
        let figures = known.iter().map(|usage| of(usage));
        figures.fold(0, u64::saturating_add)
    };
    let last = known.iter().map(|usage| usage.last_sync_ns).max();
    let last = last.filter(|ns| *ns > 0).map(|ns| ns / 1_000_000_000);
    let last = last.and_then(|second| Timestamp::from_second(second).ok());
    let mut store = UnderStoreStatus {
        files: sum(|u| u.files),
        bytes: sum(|u| u.bytes),
        complete: found.iter().all(|u| u.is_some_and(|u| u.unlisted == 0)),
        last_sync_time: last.map(Time),
    };
    if let Some(before) = dataset.status.as_ref().and_then(|s| s.under_store.as_ref()) {
        store.last_sync_time = told_seldom(before, &store);
    }
    let unique = sum(|u| u.unique_bytes);
    let cache = CacheStatus::new(
        unique,
        sum(|u| u.cached_bytes).saturating_sub(unique),
        &store,
    );
    let opens = sum(|u| u.opens);
    let mut status = DatasetStatus {
        cache: Some(cache),
        opens: Some(OpensStatus::new(opens, sum(|u| u.opens_whole).min(opens))),
        under_store: Some(store),
        ..DatasetStatus::default()
    };
    status.summary = Some(DatasetSummary::of(&status));
    status
}

/// When the last comparison is said to have ended: each time is a write.
fn told_seldom(before: &UnderStoreStatus, now: &UnderStoreStatus) -> Option<Time> {
    let same = UnderStoreStatus {
        last_sync_time: before.last_sync_time.clone(),
        ..now.clone()
    };
    match (&before.last_sync_time, &now.last_sync_time) {
        (Some(Time(told)), Some(Time(ended)))
            if same == *before && ended.duration_since(*told) < SYNC_TOLD =>
        {
            before.last_sync_time.clone()
        }
        _ => now.last_sync_time.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn dataset() -> Dataset {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "namespace": "ns"},
            "spec": {"clusterRef": {"name": "c"}, "mounts": [
                {"uri": "s3://a", "path": "/"}, {"uri": "s3://b", "path": "/in"},
            ]},
        }))
        .unwrap()
    }

    fn usage(unlisted: u64) -> MountUsage {
        MountUsage {
            mount: 1,
            files: 10,
            bytes: 1 << 30,
            unlisted,
            last_sync_ns: 1_700_000_000_900_000_000,
            cached_bytes: 3 << 30,
            unique_bytes: 1 << 30,
            opens: 4,
            opens_whole: 3,
            holders: Vec::new(),
        }
    }

    #[test]
    fn figures_are_sums_and_never_more_than_all() {
        let paths = ["/ns/d", "/ns/d/in", "/ns/other"];
        let all: BTreeMap<String, MountUsage> =
            paths.map(|path| (path.to_owned(), usage(0))).into();
        let status = figures(&dataset(), Some(&all));
        let store = status.under_store.clone().unwrap();
        assert_eq!(
            (store.files, store.bytes, store.complete),
            (20, 2 << 30, true)
        );
        assert_eq!(store.last_sync_time.unwrap().0.as_second(), 1_700_000_000);
        let cache = status.cache.unwrap();
        assert_eq!(
            (cache.unique_bytes, cache.replica_bytes),
            (2 << 30, 4 << 30)
        );
        assert_eq!(cache.percent().unwrap().get(), 100);
        let summary = status.summary.unwrap();
        assert_eq!(summary.hits.as_deref(), Some("75%"));
        // Stale content in the cache does not make it more than all.
        let mut more = all.clone();
        more.insert(
            "/ns/d".to_owned(),
            MountUsage {
                unique_bytes: 9 << 30,
                ..usage(0)
            },
        );
        let summary = figures(&dataset(), Some(&more)).summary.unwrap();
        assert_eq!(summary.cached.as_deref(), Some("100%"));
    }

    #[test]
    fn what_was_not_listed_is_not_complete() {
        let some = |usage: &[(&str, MountUsage)]| {
            let usage = usage
                .iter()
                .map(|(path, u)| ((*path).to_owned(), u.clone()))
                .collect();
            figures(&dataset(), Some(&usage))
                .under_store
                .unwrap()
                .complete
        };
        assert!(some(&[("/ns/d", usage(0)), ("/ns/d/in", usage(0))]));
        assert!(!some(&[("/ns/d", usage(0)), ("/ns/d/in", usage(1))]));
        assert!(!some(&[("/ns/d", usage(0))]));
    }

    #[test]
    fn they_stay_while_nobody_knows_better() {
        let mut dataset = dataset();
        assert_eq!(
            figures(&dataset, Some(&BTreeMap::new())),
            DatasetStatus::default()
        );
        let all: BTreeMap<_, _> = [("/ns/d".to_owned(), usage(0))].into();
        let told = figures(&dataset, Some(&all));
        dataset.status = Some(told.clone());
        assert_eq!(figures(&dataset, None), told);
        assert_eq!(figures(&dataset, Some(&BTreeMap::new())), told);
    }

    #[test]
    fn a_comparison_that_found_nothing_is_told_seldom() {
        let at = |second: i64, files| {
            let mut usage = usage(0);
            usage.last_sync_ns = second * 1_000_000_000;
            usage.files = files;
            let usage = [("/ns/d".to_owned(), usage)];
            BTreeMap::from(usage)
        };
        let told = |dataset: &Dataset, second, files| {
            let status = figures(dataset, Some(&at(second, files)));
            let time = status.under_store.as_ref().unwrap().last_sync_time.clone();
            (status, time.unwrap().0.as_second())
        };
        let mut dataset = dataset();
        let (first, time) = told(&dataset, 1000, 3);
        assert_eq!(time, 1000);
        dataset.status = Some(first);
        assert_eq!(told(&dataset, 4599, 3).1, 1000, "nothing new");
        assert_eq!(told(&dataset, 4600, 3).1, 4600);
        assert_eq!(told(&dataset, 1299, 4).1, 1299, "a file more");
    }
}
