//! Doubly linked lists of files over one vector of nodes: the queues of the policies.

use forebay_types::FileId;

/// No node.
const NIL: u32 = u32::MAX;

/// A file in a queue.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: FileId,
    /// Bytes.
    pub(super) weight: u64,
    prev: u32,
    next: u32,
    /// For the policy's own use.
    pub(super) hits: u8,
    pub(super) queue: u8,
}

/// The nodes of all queues of a policy; freed ones are used again.
#[derive(Default)]
pub(super) struct Arena {
    nodes: Vec<Node>,
    free: Vec<u32>,
}

impl Arena {
    pub(super) fn add(&mut self, id: FileId, weight: u64) -> u32 {
        let node = Node {
            id,
            weight,
            prev: NIL,
            next: NIL,
            hits: 0,
            queue: 0,
        };
        if let Some(at) = self.free.pop() {
            self.nodes[at as usize] = node;
            return at;
        }
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }

    /// Gives back a node that is in no queue.
    pub(super) fn free(&mut self, at: u32) {
        self.free.push(at);
    }

    pub(super) fn at(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    pub(super) fn at_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }
}

/// A queue: new files at the front, victims at the back.
pub(super) struct List {
    front: u32,
    back: u32,
    /// Sum of the weights.
    pub(super) bytes: u64,
}

impl Default for List {
    fn default() -> List {
        List {
            front: NIL,
            back: NIL,
            bytes: 0,
        }
    }
}

impl List {
    pub(super) fn back(&self) -> Option<u32> {
        (self.back != NIL).then_some(self.back)
    }

    pub(super) fn push_front(&mut self, arena: &mut Arena, at: u32) {
        let old = std::mem::replace(&mut self.front, at);
        let node = arena.at_mut(at);
        (node.prev, node.next) = (NIL, old);
        self.bytes += node.weight;
        if old == NIL {
            self.back = at;
        } else {
            arena.at_mut(old).prev = at;
        }
    }

    pub(super) fn push_back(&mut self, arena: &mut Arena, at: u32) {
        let old = std::mem::replace(&mut self.back, at);
        let node = arena.at_mut(at);
        (node.prev, node.next) = (old, NIL);
        self.bytes += node.weight;
        if old == NIL {
            self.front = at;
        } else {
            arena.at_mut(old).next = at;
        }
    }

    /// Takes a node of this queue out.
    pub(super) fn remove(&mut self, arena: &mut Arena, at: u32) {
        let Node {
            prev, next, weight, ..
        } = *arena.at(at);
        self.bytes -= weight;
        if prev == NIL {
            self.front = next;
        } else {
            arena.at_mut(prev).next = next;
        }
        if next == NIL {
            self.back = prev;
        } else {
            arena.at_mut(next).prev = prev;
        }
    }

    /// Changes the weight of a node of this queue.
    pub(super) fn weigh(&mut self, arena: &mut Arena, at: u32, weight: u64) {
        let old = std::mem::replace(&mut arena.at_mut(at).weight, weight);
        self.bytes = self.bytes - old + weight;
    }

    /// Inode numbers, front to back, each followed by its hits if it has some.
    #[cfg(test)]
    pub(super) fn dump(&self, arena: &Arena) -> String {
        let mut words = Vec::new();
        let mut at = self.front;
        while at != NIL {
            let node = arena.at(at);
            words.push(match node.hits {
                0 => node.id.ino.to_string(),
                hits => format!("{}+{hits}", node.id.ino),
            });
            at = node.next;
        }
        words.join(" ")
    }
}
