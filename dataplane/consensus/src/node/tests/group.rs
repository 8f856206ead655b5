//! Members that come and go, and snapshots for those left behind.

use super::*;
use crate::snapshot::Manifest;

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
