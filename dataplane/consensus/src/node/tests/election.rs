//! Two that would lead at the same moment.

use super::*;

/// What a node says, with its writes done at once.
fn say(node: &mut Node, kv: &MemKv) -> Vec<Message> {
    let mut said = Vec::new();
    loop {
        let outputs = node.outputs().unwrap();
        if outputs.is_empty() {
            return said;
        }
        for output in outputs {
            match output {
                Output::Persist { number, batch } => {
                    kv.write(&batch, Durability::Synced).unwrap();
                    node.persisted(number);
                }
                Output::Send(message) => said.push(*message),
                _ => {}
            }
        }
    }
}

/// Nodes 2 and 3 of three both ask for votes before either hears of the other; the first is dead.
fn after_both_have_asked(told: fn(&mut Node)) -> [Node; 2] {
    let kvs = [Arc::new(MemKv::new()), Arc::new(MemKv::new())];
    let mut nodes = [2, 3].map(|id| {
        let kv = &kvs[id as usize - 2];
        node(kv, id, &[1, 2, 3], 0).unwrap()
    });
    told(&mut nodes[0]);
    for (node, kv) in nodes.iter_mut().zip(&kvs) {
        say(node, kv);
        node.raw.campaign().unwrap();
        assert_eq!(node.raw.raft.state, StateRole::PreCandidate);
    }
    // One round after the other, all that was said at once.
    for _ in 0..8 {
        let [first, second] = &mut nodes;
        let said = [say(first, &kvs[0]), say(second, &kvs[1])].concat();
        for message in said {
            if let Some(node) = nodes.iter_mut().find(|node| node.id == message.to) {
                node.receive(message).unwrap();
            }
        }
    }
    nodes
}

#[test]
fn of_two_that_ask_for_votes_at_once_the_higher_leads_the_next_term() {
    let [second, third] = after_both_have_asked(|_| {});
    assert_eq!(third.raw.raft.state, StateRole::Leader);
    assert_eq!((third.raw.raft.term, second.raw.raft.term), (1, 1));
    assert_eq!(second.raw.raft.leader_id, 3);
}

#[test]
fn of_two_that_ask_for_votes_at_once_the_better_journal_leads() {
    let [second, third] = after_both_have_asked(|second| {
        let mut append = heartbeat(0);
        append.to = 2;
        append.set_msg_type(MessageType::MsgAppend);
        append.entries = vec![Entry {
            index: 1,
            term: append.term,
            ..Entry::default()
        }];
        second.receive(append).unwrap();
    });
    assert_eq!(second.raw.raft.state, StateRole::Leader);
    assert_eq!(third.raw.raft.leader_id, 2);
}
