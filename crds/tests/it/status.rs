//! What the operator writes fits the schema.

use crate::api_server::admit;
use forebay_crds::{
    ByteProgress, CacheClusterStatus, CacheClusterSummary, CacheStatus, DatasetStatus,
    DatasetSummary, FailedFile, FileProgress, MastersStatus, Medium, ObjectRef, OpensStatus,
    RunStatus, TierStatus, UnderStoreStatus, UsedBy, WarmupPolicyStatus, WarmupPolicySummary,
    WorkerGroupStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{json, to_value};

fn time() -> Time {
    serde_json::from_value(json!("2026-11-21T03:00:00Z")).unwrap()
}

fn conditions() -> Vec<Condition> {
    vec![Condition {
        last_transition_time: time(),
        message: "2 of 3 masters serve: see pod demo-master-2".to_owned(),
        observed_generation: Some(3),
        reason: "MasterUnavailable".to_owned(),
        status: "True".to_owned(),
        type_: "Degraded".to_owned(),
    }]
}

/// Checks a status in an object with a spec that is accepted.
fn fits<S: Serialize + DeserializeOwned>(kind: &str, file: &str, status: &S) {
    let documents = crate::documents::documents(format!("tests/cases/{file}.yaml").as_ref());
    let mut object = documents[0].clone();
    assert_eq!(object["kind"], kind);
    object["status"] = to_value(status).unwrap();
    let stored = admit(&object, None).unwrap_or_else(|wrong| panic!("{kind}: {wrong:?}"));
    let read: S = serde_json::from_value(stored["status"].clone()).unwrap();
    assert_eq!(to_value(read).unwrap(), object["status"], "no defaults");
}

#[test]
fn a_cluster() {
    let mut status = CacheClusterStatus {
        observed_generation: Some(3),
        conditions: conditions(),
        masters: Some(MastersStatus {
            replicas: 3,
            ready: 2,
            leader: Some("demo-master-0".to_owned()),
            term: Some(7),
        }),
        workers: vec![WorkerGroupStatus {
            name: "default".to_owned(),
            replicas: 12,
            ready: 12,
        }],
        tiers: vec![TierStatus {
            medium: Medium::Ssd,
            capacity_bytes: i64::MAX as u64,
            used_bytes: 0,
        }],
        used_by: Some(UsedBy::new(vec![ObjectRef {
            namespace: "team-a".to_owned(),
            name: "imagenet".to_owned(),
        }])),
        summary: None,
    };
    status.summary = Some(CacheClusterSummary::of(&status));
    fits("CacheCluster", "cache_cluster", &status);
    fits(
        "CacheCluster",
        "cache_cluster",
        &CacheClusterStatus::default(),
    );
}

#[test]
fn a_dataset() {
    let store = UnderStoreStatus {
        files: 1_281_167,
        bytes: 147_897_477_120,
        complete: true,
        last_sync_time: Some(time()),
    };
    let mut status = DatasetStatus {
        observed_generation: Some(1),
        conditions: conditions(),
        cache: Some(CacheStatus::new(147_000_000_000, 5, &store)),
        under_store: Some(store),
        opens: Some(OpensStatus::new(1000, 999)),
        summary: None,
    };
    status.summary = Some(DatasetSummary::of(&status));
    fits("Dataset", "dataset", &status);
    fits("Dataset", "dataset", &DatasetStatus::default());
}

#[test]
fn a_warm_up() {
    let mut run = RunStatus::begin(2, time());
    run.listed = true;
    run.files = FileProgress {
        total: 20_000,
        done: 11_400,
        failed: 1,
    };
    run.bytes = ByteProgress {
        total: 2_200_000_000,
        done: 1_254_000_000,
    };
    run.estimated_completion_time = Some(time());
    run.set_failed([FailedFile {
        path: "train/n01440764/n01440764_10026.JPEG".to_owned(),
        reason: "403 Forbidden: check the credentials in Secret minio-credentials".to_owned(),
    }]);
    let status = WarmupPolicyStatus {
        observed_generation: Some(2),
        conditions: conditions(),
        summary: Some(WarmupPolicySummary::of(&run, &time())),
        run: Some(run),
        last_success_time: Some(time()),
        next_run_time: Some(time()),
    };
    fits("WarmupPolicy", "warmup_policy", &status);
    fits(
        "WarmupPolicy",
        "warmup_policy",
        &WarmupPolicyStatus::default(),
    );
}
