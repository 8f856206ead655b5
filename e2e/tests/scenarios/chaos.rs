//! Every kind of fault once, under clients: what `make chaos` does for longer.

use forebay_e2e::chaos::{self, Fault, Plan};
use std::collections::BTreeSet;

#[test]
fn every_acknowledged_change_outlives_every_kind_of_fault() {
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan {
        rounds: Fault::ALL.len() as u32,
        seed: 4,
        only: None,
    };
    let say = |what: &str| eprintln!("{what}");
    let report = chaos::run(&dir.path().join("masters"), plan, &say).unwrap();
    assert!(report.complaints.is_empty(), "{:#?}", report.complaints);
    let faults: BTreeSet<Fault> = report.rounds.iter().map(|round| round.fault).collect();
    assert_eq!(faults.len(), Fault::ALL.len());
    assert!(report.acknowledged() > 100, "{}", report.json());
    assert!(report.given_up.is_empty(), "{:#?}", report.given_up);
}
