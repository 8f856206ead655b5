//! The node on its own: what it says to what it is told.

use super::{reads::READ_TICKS, *};
use crate::{Bootstrap, ChangeError, conf::Change, wire::Wire};
use forebay_kv::{Durability, Kv, MemKv};
use raft::eraftpb::EntryType;
use std::sync::Arc;

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

/// Writes and applies all at once, until there is nothing to do; what was said.
fn settle(node: &mut Node, kv: &MemKv) -> Vec<String> {
    let mut said = Vec::new();
    loop {
        let outputs = node.outputs().unwrap();
        if outputs.is_empty() {
            return said;
        }
        said.extend(describe(&outputs));
        for output in outputs {
            match output {
                Output::Persist { number, batch } => {
                    kv.write(&batch, Durability::Synced).unwrap();
                    node.persisted(number);
                }
                Output::Apply(entries) => {
                    node.applied(entries.last().unwrap().index);
                }
                Output::Install(manifest) => {
                    node.applied(manifest.index);
                }
                _ => {}
            }
        }
    }
}

fn from(id: u64, kind: MessageType, node: &Node) -> Message {
    let mut message = Message {
        from: id,
        to: node.id,
        term: node.raw.raft.term.max(1),
        ..Message::default()
    };
    message.set_msg_type(kind);
    message
}

#[test]
fn entries_after_a_change_of_the_group_wait_until_that_is_on_disk() {
    let kv = Arc::new(MemKv::new());
    let mut node = node(&kv, 1, &[1], 0).unwrap();
    settle(&mut node, &kv);
    let change = Change::AddLearner(2, "two".into());
    let accepted = node.change(&change).unwrap().unwrap();
    node.propose(vec![vec![7]]).unwrap();
    let Output::Persist { number, .. } = node.outputs().unwrap().remove(0) else {
        panic!()
    };
    node.persisted(number);
    let said = node.outputs().unwrap();
    assert!(
        describe(&said).contains(&format!("configure {}", accepted.first)),
        "{:?}",
        describe(&said)
    );
    assert!(!said.iter().any(|output| matches!(output, Output::Apply(_))));
    let written = said.iter().find_map(|output| match output {
        Output::Persist { number, .. } => Some(*number),
        _ => None,
    });
    node.persisted(written.unwrap());
    assert_eq!(step(&mut node), ["apply 2..=3"]);
    let busy = node.change(&Change::AddLearner(3, "three".into()));
    assert!(matches!(busy, Err(ChangeError::NotYet(_))), "{busy:?}");
}

#[test]
fn one_change_of_the_group_at_a_time_and_none_before_the_leader_has_committed() {
    let kv = Arc::new(MemKv::new());
    let mut node = node(&kv, 1, &[1], 0).unwrap();
    let change = Change::AddLearner(2, "two".into());
    let early = node.change(&change);
    assert!(matches!(early, Err(ChangeError::NotYet(_))), "{early:?}");
    settle(&mut node, &kv);
    node.change(&change).unwrap().unwrap();
    let busy = node.change(&Change::AddLearner(3, "three".into()));
    assert!(matches!(busy, Err(ChangeError::NotYet(_))), "{busy:?}");
    settle(&mut node, &kv);
    assert_eq!(node.change(&change).unwrap(), None);
    let behind = node.change(&Change::Promote(2));
    assert!(matches!(behind, Err(ChangeError::NotYet(_))), "{behind:?}");
}

#[test]
fn a_node_that_waits_to_join_asks_for_a_snapshot_and_does_not_vote() {
    let kv = Arc::new(MemKv::new());
    let (log, _) = Log::open(Arc::<MemKv>::clone(&kv), &Bootstrap::Join).unwrap();
    let bounds = Bounds {
        tail_bytes: 0,
        max_bytes: 1 << 30,
    };
    let mut node = Node::new(4, log, 0, bounds).unwrap();
    for _ in 0..100 {
        node.tick();
    }
    assert!(settle(&mut node, &kv).is_empty(), "it campaigns");
    for kind in [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote] {
        node.receive(from(1, kind, &node)).unwrap();
        assert!(settle(&mut node, &kv).is_empty(), "it votes");
    }
    node.receive(from(1, MessageType::MsgAppend, &node))
        .unwrap();
    let Output::Send(answer) = node.outputs().unwrap().remove(0) else {
        panic!()
    };
    assert!(answer.reject && answer.request_snapshot > 0);
}

/// A snapshot of the group 1, 2 and 3, offered to node 2 by node 1.
fn offer(node: &Node, id: &str, index: u64) -> Message {
    let manifest = Manifest {
        id: id.to_owned(),
        index,
        term: 1,
        conf: Conf::begin(&Bootstrap::found([1, 2, 3])),
        files: Vec::new(),
    };
    let mut message = from(1, MessageType::MsgSnapshot, node);
    message.snapshot = Some(manifest.to_raft());
    message
}

#[test]
fn raft_hears_of_a_snapshot_when_its_files_are_here() {
    let kv = Arc::new(MemKv::new());
    let mut node = node(&kv, 2, &[1, 2, 3], 0).unwrap();
    node.receive(heartbeat(0)).unwrap();
    settle(&mut node, &kv);
    node.receive(offer(&node, "a", 50)).unwrap();
    assert_eq!(step(&mut node), ["pull a from 1"]);
    // The same one again, and another one.
    node.receive(offer(&node, "a", 50)).unwrap();
    assert!(step(&mut node).is_empty());
    node.receive(offer(&node, "b", 60)).unwrap();
    assert_eq!(step(&mut node), ["pull b from 1"]);
    // Fetching does not keep it from anything.
    node.receive(heartbeat(0)).unwrap();
    assert_eq!(step(&mut node), ["MsgHeartbeatResponse to 1"]);
    node.pulled("a", true);
    assert!(step(&mut node).is_empty(), "nobody waits for that one");

    node.pulled("b", true);
    let Output::Persist { number, batch } = node.outputs().unwrap().remove(0) else {
        panic!()
    };
    // Before that is on disk nothing is promised, and no election begins.
    for _ in 0..50 {
        node.tick();
    }
    assert!(step(&mut node).is_empty());
    kv.write(&batch, Durability::Synced).unwrap();
    node.persisted(number);
    assert_eq!(step(&mut node), ["MsgAppendResponse to 1", "install 60"]);
    // Power is lost here: the journal says what is missing.
    let (log, install) = Log::open(Arc::<MemKv>::clone(&kv), &Bootstrap::Join).unwrap();
    assert_eq!((log.cut_index(), log.last()), (60, 60));
    assert_eq!(install.unwrap().index, 60);

    node.receive(heartbeat(60)).unwrap();
    step(&mut node);
    node.applied(60);
    assert_eq!(step(&mut node), ["discard"]);
}

#[test]
fn a_snapshot_of_what_is_here_already_is_not_fetched() {
    let kv = Arc::new(MemKv::new());
    let mut node = node(&kv, 2, &[1, 2, 3], 0).unwrap();
    let mut append = from(1, MessageType::MsgAppend, &node);
    append.entries = (1..=5)
        .map(|index| Entry {
            index,
            term: 1,
            ..Entry::default()
        })
        .collect();
    node.receive(append).unwrap();
    settle(&mut node, &kv);
    node.receive(offer(&node, "a", 4)).unwrap();
    let said = settle(&mut node, &kv);
    assert!(
        said.contains(&"MsgAppendResponse to 1".to_owned()),
        "{said:?}"
    );
    assert!(
        !said.iter().any(|said| said.starts_with("pull")),
        "{said:?}"
    );
    assert_eq!(node.raw.store().last(), 5);
}

#[test]
fn a_node_that_was_removed_stops_when_it_hears_so() {
    let kv = Arc::new(MemKv::new());
    let mut leader = node(&kv, 1, &[1], 0).unwrap();
    settle(&mut leader, &kv);
    leader.change(&Change::AddLearner(2, "two".into())).unwrap();
    settle(&mut leader, &kv);
    leader.change(&Change::Remove(2)).unwrap();
    let said = settle(&mut leader, &kv);
    assert!(said.contains(&"MsgUnreachable to 2".to_owned()), "{said:?}");
    leader
        .receive(from(2, MessageType::MsgRequestPreVote, &leader))
        .unwrap();
    let Output::Send(notice) = leader.outputs().unwrap().remove(0) else {
        panic!()
    };
    let mut removed = node(&Arc::new(MemKv::new()), 2, &[1, 2], 0).unwrap();
    let fatal = removed.receive(*notice).unwrap_err();
    assert!(fatal.message.contains("node 2 was removed"), "{fatal}");
    let refused = leader.change(&Change::AddLearner(2, "two".into()));
    assert!(matches!(refused, Err(ChangeError::Refused(_))));
}

/// The member that is left may have to learn of the removal with its vote.
#[test]
fn a_node_that_sees_its_own_removal_goes_on_until_a_member_knows() {
    let kv = Arc::new(MemKv::new());
    let mut removed = node(&kv, 1, &[1, 2], 0).unwrap();
    let mut change = Entry {
        index: 1,
        term: 1,
        data: Change::Remove(1).to_raft().to_bytes(),
        ..Entry::default()
    };
    change.set_entry_type(EntryType::EntryConfChangeV2);
    let mut append = from(2, MessageType::MsgAppend, &removed);
    append.term = 1;
    append.commit = 1;
    append.entries = vec![change];
    removed.receive(append).unwrap();
    settle(&mut removed, &kv);
    assert!(removed.conf().was_removed(1));

    let mut again = node(&kv, 1, &[1, 2], 0).unwrap();
    settle(&mut again, &kv);
    for node in [&mut removed, &mut again] {
        let mut candidate = from(2, MessageType::MsgRequestVote, node);
        candidate.term = 2;
        candidate.index = 1;
        candidate.log_term = 1;
        candidate.context = b"CampaignTransfer".to_vec();
        node.receive(candidate).unwrap();
        let said = settle(node, &kv);
        assert!(
            said.contains(&"MsgRequestVoteResponse to 2".to_owned()),
            "{said:?}"
        );
        for _ in 0..ELECTION_TICKS {
            node.tick();
        }
        let said = settle(node, &kv);
        assert!(said.contains(&"MsgUnreachable to 2".to_owned()), "{said:?}");
        let mut notice = from(2, MessageType::MsgUnreachable, node);
        notice.commit = 1;
        assert!(node.receive(notice).is_err());
    }
}

#[test]
fn a_group_keeps_a_tail_and_what_continues_a_checkpoint_until_the_journal_is_too_long() {
    let kv = Arc::new(MemKv::new());
    let mut node = node(&kv, 1, &[1], 0).unwrap();
    node.bounds = Bounds {
        tail_bytes: 1 << 20,
        max_bytes: 20 << 20,
    };
    let fill = |node: &mut Node, count: usize| {
        for _ in 0..count {
            node.propose(vec![vec![1; 1 << 18]; 4]).unwrap();
            settle(node, &kv);
        }
    };
    // Alone it keeps nothing.
    fill(&mut node, 3);
    assert!(node.cut(u64::MAX).is_some());
    assert_eq!(node.journal_bytes() >> 20, 0);
    node.change(&Change::AddLearner(2, "two".into())).unwrap();
    settle(&mut node, &kv);
    fill(&mut node, 4);
    node.cut(u64::MAX);
    assert_eq!(node.journal_bytes() >> 20, 1);
    let last = node.raw.store().last();
    // A checkpoint is served: what follows it stays.
    assert!(node.checkpointed(Some(("a".to_owned(), last, Vec::new()))));
    fill(&mut node, 6);
    node.cut(u64::MAX);
    assert_eq!(node.raw.store().cut_index(), last);
    fill(&mut node, 6);
    node.cut(u64::MAX);
    assert!(node.raw.store().cut_index() > last);
    assert_eq!(node.journal_bytes() >> 20, 1);
    fill(&mut node, 18);
    assert!(!node.is_full());
    fill(&mut node, 2);
    assert!(node.is_full());
}

#[test]
fn a_full_journal_takes_entries_unless_apply_can_make_room() {
    let kv = Arc::new(MemKv::new());
    let mut node = node(&kv, 2, &[1, 2, 3], 0).unwrap();
    node.bounds.max_bytes = 1 << 20;
    let append = |node: &mut Node, index: u64, commit: u64| {
        let mut append = from(1, MessageType::MsgAppend, node);
        (append.index, append.log_term) = (index - 1, u64::from(index > 1));
        append.commit = commit;
        append.entries = vec![Entry {
            index,
            term: 1,
            data: vec![1; 1 << 20],
            ..Entry::default()
        }];
        node.receive(append).unwrap();
        // Writes, and does not apply.
        for output in node.outputs().unwrap() {
            if let Output::Persist { number, .. } = output {
                node.persisted(number);
            }
        }
        node.outputs().unwrap();
        node.raw.store().last()
    };
    // Full, but nothing of it is committed: the next entry may be the one that commits it.
    assert_eq!(append(&mut node, 1, 0), 1);
    assert!(node.is_full());
    assert_eq!(append(&mut node, 2, 1), 2);
    assert_eq!(append(&mut node, 3, 1), 2, "apply is behind");
    node.applied(1);
    assert_eq!(append(&mut node, 3, 1), 3);
}
