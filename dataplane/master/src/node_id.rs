//! How a master is numbered within raft: its own number, and which of its disks.
//!
//! A master that lost its disk has forgotten what it promised the others, so it must not come back as
//! the node that it was. It joins as another node of the same master.

/// Bits of a node's number that are the master's.
const BITS: u32 = 8;

/// Most masters that can be told apart.
pub(crate) const MOST: u64 = (1 << BITS) - 1;

/// The node that founds a group as master `master`.
pub(crate) fn founder(master: u64) -> u64 {
    master
}

/// A node of master `master` that joins a group; `chance` makes it differ from all before it.
pub(crate) fn joiner(master: u64, chance: u32) -> u64 {
    u64::from(chance.max(1)) << BITS | master
}

/// Whether it founded its group.
pub(crate) fn founded(node: u64) -> bool {
    node <= MOST
}

/// Whose node it is.
pub(crate) fn master_of(node: u64) -> u64 {
    node & MOST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_that_joins_is_another_node_of_the_same_master() {
        let (before, after) = (founder(3), joiner(3, 0));
        assert!(founded(before) && !founded(after));
        assert_eq!((master_of(before), master_of(after)), (3, 3));
        assert_ne!(joiner(3, 7), joiner(3, 8));
    }
}
