//! The node on its own: what it says to what it is told.

use super::{reads::READ_TICKS, *};
use crate::{Bootstrap, ChangeError, conf::Change, wire::Wire};
use forebay_kv::{Durability, Kv, MemKv};
use raft::eraftpb::EntryType;
use std::sync::Arc;

mod election;
mod group;

fn node(kv: &Arc<MemKv>, id: u64, voters: &[u64], applied: u64) -> Result<Node, Fatal> {
    let bootstrap = Bootstrap::found(voters.iter().copied());
    let (log, _) = Log::open(Arc::<MemKv>::clone(kv), &bootstrap)?;
    let bounds = Bounds {
        tail_bytes: 1 << 20,
        max_bytes: 1 << 30,
    };
    Node::new(id, log, applied, bounds)
}

fn describe(outputs: &[Output]) -> Vec<String> {
    outputs
        .iter()
        .map(|output| match output {
            Output::Persist { number, .. } => format!("persist {number}"),
            Output::Send(message) => format!("{:?} to {}", message.get_msg_type(), message.to),
            Output::Apply(entries) => {
                let range = (
                    entries.first().unwrap().index,
                    entries.last().unwrap().index,
                );
                format!("apply {}..={}", range.0, range.1)
            }
            Output::Read { token, index } => format!("read {token} at {index}"),
            Output::Configure(conf) => format!("configure {}", conf.index),
            Output::Checkpoint => "checkpoint".to_owned(),
            Output::Pull(from, manifest) => format!("pull {} from {from}", manifest.id),
            Output::Install(manifest) => format!("install {}", manifest.index),
            Output::Discard(_) => "discard".to_owned(),
            Output::Report(p) => format!("report leader {} commit {}", p.leader, p.committed),
        })
        .collect()
}

fn step(node: &mut Node) -> Vec<String> {
    describe(&node.outputs().unwrap())
}

/// A lone leader that has written and applied its first entry.
fn leader_of_one() -> Node {
    let mut node = node(&Arc::new(MemKv::new()), 1, &[1], 0).unwrap();
    assert_eq!(step(&mut node), ["persist 1", "report leader 1 commit 0"]);
    node.persisted(1);
    assert_eq!(step(&mut node), ["report leader 1 commit 1", "apply 1..=1"]);
    node.applied(1);
    node
}

#[test]
fn one_voter_leads_at_once_and_commits_a_run_of_proposals_with_one_write() {
    let mut node = leader_of_one();
    let commands = (0..100).map(|i| vec![i + 1]).collect();
    assert_eq!(node.propose(commands), Ok(Accepted { first: 2, term: 1 }));
    assert_eq!(step(&mut node), ["persist 3"]);
    // The disk is busy; the next ones are taken in meanwhile.
    assert_eq!(
        node.propose(vec![vec![7]]),
        Ok(Accepted {
            first: 102,
            term: 1
        })
    );
    assert_eq!(step(&mut node), ["persist 4"]);
    node.persisted(3);
    assert_eq!(
        step(&mut node),
        ["report leader 1 commit 101", "apply 2..=101"]
    );
    node.persisted(4);
    assert_eq!(
        step(&mut node),
        ["report leader 1 commit 102", "apply 102..=102"]
    );
    node.applied(102);
    assert!(step(&mut node).is_empty());
}

#[test]
fn a_lone_leader_says_from_where_reads_are_fresh() {
    let mut node = leader_of_one();
    node.propose(vec![vec![1]]).unwrap();
    node.outputs().unwrap();
    assert_eq!(node.reported.alone_from, Some(1));
}

#[test]
fn the_journal_is_cut_only_up_to_what_is_applied() {
    let mut node = leader_of_one();
    node.propose(vec![vec![1]; 5]).unwrap();
    assert_eq!(step(&mut node), ["persist 3"]);
    node.persisted(3);
    node.outputs().unwrap();
    assert!(node.cut(6).is_some());
    assert_eq!(node.raw.store().cut_index(), 1);
    node.applied(4);
    assert!(node.cut(3).is_some());
    assert_eq!(node.raw.store().cut_index(), 3);
}

#[test]
fn entries_for_a_slow_apply_are_handed_out_in_bounded_memory() {
    let kv = Arc::new(MemKv::new());
    let mut node = node(&kv, 1, &[1], 0).unwrap();
    // Writes at once, and says what was handed out for apply.
    let write = |node: &mut Node| {
        let mut handed_out = Vec::new();
        for output in node.outputs().unwrap() {
            match output {
                Output::Persist { number, batch, .. } => {
                    kv.write(&batch, Durability::Synced).unwrap();
                    node.persisted(number);
                }
                Output::Apply(entries) => handed_out.extend(entries),
                _ => {}
            }
        }
        handed_out
    };
    write(&mut node);
    node.propose(vec![vec![1; 1 << 20]; 40]).unwrap();
    let mut applied = 0;
    let mut rounds = 0;
    loop {
        let handed_out = write(&mut node);
        let bytes: usize = handed_out.iter().map(entry_bytes).sum();
        assert!(bytes < 18 << 20, "{bytes}");
        let Some(last) = handed_out.last() else { break };
        assert_eq!(handed_out[0].index, applied + 1);
        applied = last.index;
        rounds += 1;
        // Nothing more before apply has caught up, unless there was room left.
        assert!(bytes < 16 << 20 || write(&mut node).is_empty());
        node.applied(applied);
    }
    assert_eq!(applied, 41);
    assert!(rounds >= 3, "{rounds}");
}

#[test]
fn a_follower_answers_only_when_its_journal_is_on_disk() {
    let mut node = node(&Arc::new(MemKv::new()), 2, &[1, 2, 3], 0).unwrap();
    assert!(step(&mut node).is_empty());
    assert_eq!(node.propose(vec![vec![1]]), Err(None));
    let mut append = Message {
        from: 1,
        to: 2,
        term: 1,
        ..Message::default()
    };
    append.set_msg_type(MessageType::MsgAppend);
    append.entries = vec![Entry {
        index: 1,
        term: 1,
        ..Entry::default()
    }];
    node.receive(append.clone()).unwrap();
    assert_eq!(step(&mut node), ["persist 1", "report leader 1 commit 0"]);
    assert_eq!(node.propose(vec![vec![1]]), Err(Some(1)));
    // The leader asks again before the write is done: no answer yet either.
    node.receive(append).unwrap();
    assert!(step(&mut node).is_empty());
    node.persisted(1);
    let sent = step(&mut node);
    assert_eq!(sent, ["MsgAppendResponse to 1", "MsgAppendResponse to 1"]);
}

/// A heartbeat of node 1, which leads term 1 of a group of three, to node 2.
fn heartbeat(commit: u64) -> Message {
    let mut heartbeat = Message {
        from: 1,
        to: 2,
        term: 1,
        commit,
        ..Message::default()
    };
    heartbeat.set_msg_type(MessageType::MsgHeartbeat);
    heartbeat
}

#[test]
fn a_follower_asks_the_leader_for_reads_until_it_answers() {
    let mut node = node(&Arc::new(MemKv::new()), 2, &[1, 2, 3], 0).unwrap();
    node.read_index(7);
    assert!(step(&mut node).is_empty(), "nobody to ask");
    node.receive(heartbeat(0)).unwrap();
    step(&mut node);
    node.persisted(1);
    let asked = node.outputs().unwrap();
    let Some(Output::Send(question)) = asked
        .iter()
        .find(|o| matches!(o, Output::Send(m) if m.get_msg_type() == MessageType::MsgReadIndex))
    else {
        panic!("{:?}", describe(&asked));
    };
    for _ in 1..READ_TICKS {
        node.tick();
        assert!(step(&mut node).is_empty());
    }
    node.tick();
    assert_eq!(step(&mut node), ["MsgReadIndex to 1"]);

    let mut answer = Message {
        from: 1,
        to: 2,
        term: 1,
        index: 5,
        entries: question.entries.clone(),
        ..Message::default()
    };
    answer.set_msg_type(MessageType::MsgReadIndexResp);
    let mut foreign = answer.clone();
    foreign.entries[0].data[7] = 3;
    node.receive(foreign).unwrap();
    assert!(step(&mut node).is_empty(), "an answer for another node");
    node.receive(answer).unwrap();
    assert_eq!(step(&mut node), ["read 7 at 5"]);
    for _ in 0..READ_TICKS {
        node.tick();
    }
    assert!(step(&mut node).is_empty());
}

#[test]
fn a_node_whose_apply_is_slow_still_answers_and_writes() {
    let kv = Arc::new(MemKv::new());
    let mut node = node(&kv, 2, &[1, 2, 3], 0).unwrap();
    let mut index = 0;
    let mut handed_out = 0;
    for round in 0..30 {
        let mut append = heartbeat(index);
        append.set_msg_type(MessageType::MsgAppend);
        (append.index, append.log_term) = (index, u64::from(index > 0));
        index += 1;
        append.entries = vec![Entry {
            index,
            term: 1,
            data: vec![1; 1 << 20],
            ..Entry::default()
        }];
        append.commit = index;
        node.receive(append).unwrap();
        node.receive(heartbeat(0)).unwrap();
        let mut sent = Vec::new();
        let mut take = |outputs: Vec<Output>| {
            let mut written = 0;
            for output in outputs {
                match output {
                    Output::Persist { number, batch, .. } => {
                        kv.write(&batch, Durability::Synced).unwrap();
                        written = number;
                    }
                    Output::Send(message) => sent.push(message.get_msg_type()),
                    Output::Apply(entries) => handed_out += entries.len(),
                    _ => {}
                }
            }
            written
        };
        let written = take(node.outputs().unwrap());
        node.persisted(written);
        take(node.outputs().unwrap());
        assert!(sent.contains(&MessageType::MsgAppendResponse), "{round}");
        assert!(sent.contains(&MessageType::MsgHeartbeatResponse), "{round}");
    }
    assert!((16..18).contains(&handed_out), "{handed_out}");
    assert_eq!(node.reported.committed, 30);
    // It catches up in order.
    for applied in 1..=30 {
        node.applied(applied);
        let outputs = node.outputs().unwrap();
        for output in &outputs {
            if let Output::Apply(entries) = output {
                assert_eq!(entries[0].index, handed_out as u64 + 1);
                handed_out += entries.len();
            }
        }
    }
    assert_eq!(handed_out, 30);
}

#[test]
fn a_leader_that_knows_of_entries_this_node_lost_stops_it() {
    let mut node = node(&Arc::new(MemKv::new()), 2, &[1, 2, 3], 0).unwrap();
    let fatal = node.receive(heartbeat(9)).unwrap_err();
    assert!(
        fatal.message.contains("confirmed entries up to 9"),
        "{fatal}"
    );
}

#[test]
fn a_state_that_does_not_fit_the_journal_is_refused() {
    let kv = Arc::new(MemKv::new());
    let mut first = node(&kv, 1, &[1], 0).unwrap();
    for output in first.outputs().unwrap() {
        if let Output::Persist { batch, .. } = output {
            kv.write(&batch, Durability::Synced).unwrap();
        }
    }
    assert!(node(&kv, 1, &[1], 1).is_ok());
    let ahead = node(&kv, 1, &[1], 2).err().unwrap();
    assert!(
        ahead
            .message
            .contains("applied up to 2, but the journal holds 1..=1"),
        "{ahead}"
    );
    let stranger = node(&kv, 4, &[4], 0).err().unwrap();
    assert!(
        stranger
            .message
            .contains("node 4 is not among the members [1]"),
        "{stranger}"
    );
}
