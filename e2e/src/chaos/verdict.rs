//! What was listed against what the ledgers say: everything acknowledged is there, and once.

use super::{
    change::{Place, Slot},
    ledger::Ledger,
    tree::Listing,
};
use forebay_types::{FileKind, Ino, Name};
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with the directory that only one client changes.
pub(super) fn own(ledger: &Ledger, listing: &Listing) -> Vec<String> {
    let entries = ledger.own().entries();
    let expected: BTreeMap<Name, _> = entries.map(|(slot, e)| (slot.name(), (slot, e))).collect();
    let mut wrong = Vec::new();
    for (name, (slot, entry)) in &expected {
        let found = listing.get(name);
        if found != Some(entry) {
            let history = ledger.history(Place::Own, &[*slot]);
            wrong.push(format!(
                "{name} must be {entry:?} and is {found:?}; {history}"
            ));
        }
    }
    for (name, found) in listing {
        let slot = slot(name);
        let unsure = slot.is_some_and(|slot| ledger.is_unsure(Place::Own, slot));
        if !expected.contains_key(name) && !unsure {
            let history = slot.map_or(String::new(), |slot| ledger.history(Place::Own, &[slot]));
            wrong.push(format!(
                "{name} must not be there and is {found:?}; {history}"
            ));
        }
    }
    wrong
}

/// What is wrong with the directory that all clients change. Whoever was first cannot be told, but a
/// name has appeared as often as it has disappeared, or once more, and then it is there.
pub(super) fn shared(ledgers: &[&Ledger], listing: &Listing) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    let mut rest: BTreeSet<&Name> = listing.keys().collect();
    for slot in Ledger::shared_slots() {
        let name = slot.name();
        rest.remove(&name);
        if ledgers
            .iter()
            .any(|ledger| ledger.is_unsure(Place::Shared, slot))
        {
            continue;
        }
        let balance: i64 = ledgers.iter().map(|ledger| ledger.balance(slot)).sum();
        let found = listing.get(&name);
        if balance != i64::from(found.is_some()) {
            let histories = (0..).zip(ledgers).map(|(n, ledger): (usize, _)| {
                format!("client {n} {}", ledger.history(Place::Shared, &[slot]))
            });
            wrong.push(format!(
                "shared {name} appeared {balance} times more than it disappeared, and is {found:?}; {}",
                histories.collect::<Vec<_>>().join("; ")
            ));
        }
        let Some(found) = found else { continue };
        let made = ledgers.iter().any(|ledger| ledger.has_shared(found.ino));
        if !made || !seen.insert(found.ino) || found.kind != FileKind::File {
            wrong.push(format!(
                "shared {name} is {found:?}, which nobody made, or which has two names"
            ));
        }
    }
    wrong.extend(
        rest.iter()
            .map(|name| format!("shared {name} was made by nobody")),
    );
    wrong
}

/// Inodes that were made twice.
pub(super) fn made_twice(ledgers: &[&Ledger]) -> Vec<String> {
    let mut made: Vec<Ino> = ledgers.iter().flat_map(|l| l.made()).copied().collect();
    made.sort_unstable();
    let twice = made.windows(2).filter(|two| two[0] == two[1]);
    twice
        .map(|two| format!("inode {} was made twice", two[0]))
        .collect()
}

fn slot(name: &Name) -> Option<Slot> {
    let number = std::str::from_utf8(name.as_bytes())
        .ok()?
        .strip_prefix('n')?;
    number.parse().ok().map(Slot)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{change::Change, directory::Entry, ledger::Outcome},
        *,
    };
    use forebay_types::Code;

    fn file(ino: u64) -> Entry {
        Entry {
            ino: Ino(ino),
            kind: FileKind::File,
        }
    }

    fn listing(entries: &[(u16, u64)]) -> Listing {
        let entry = |(slot, ino): &(u16, u64)| (Slot(*slot).name(), file(*ino));
        entries.iter().map(entry).collect()
    }

    fn made(place: Place, slots: &[(u16, u64)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (slot, ino) in slots {
            let create = Change::Make(FileKind::File, Slot(*slot));
            let done = Outcome::Done(Some(Ino(*ino)));
            ledger.enter(1, place, create, done).unwrap();
        }
        ledger
    }

    #[test]
    fn what_is_lost_changed_or_too_much_is_found() {
        let ledger = made(Place::Own, &[(1, 11), (2, 12)]);
        assert!(own(&ledger, &listing(&[(1, 11), (2, 12)])).is_empty());
        for bad in [
            &[(1, 11)][..],
            &[(1, 11), (2, 13)],
            &[(1, 11), (2, 12), (3, 13)],
        ] {
            assert_eq!(own(&ledger, &listing(bad)).len(), 1, "{bad:?}");
        }
    }

    #[test]
    fn shared_names_are_judged_by_what_all_did() {
        let (one, mut other) = (made(Place::Shared, &[(1, 11)]), Ledger::default());
        let remove = Change::Remove(FileKind::File, Slot(1));
        assert!(shared(&[&one, &other], &listing(&[(1, 11)])).is_empty());
        assert_eq!(shared(&[&one, &other], &listing(&[])).len(), 1);
        assert_eq!(shared(&[&one, &other], &listing(&[(1, 12)])).len(), 1);
        let both = listing(&[(1, 11), (2, 11)]);
        assert_eq!(shared(&[&one, &other], &both).len(), 2);
        other
            .enter(2, Place::Shared, remove, Outcome::Done(None))
            .unwrap();
        assert!(shared(&[&one, &other], &listing(&[])).is_empty());
        // Removed twice, or made twice.
        other
            .enter(2, Place::Shared, remove, Outcome::Done(None))
            .unwrap();
        assert_eq!(shared(&[&one, &other], &listing(&[])).len(), 1);
        // Nothing is known of it any more.
        let lost = Outcome::Unknown(Code::Timeout);
        other.enter(3, Place::Shared, remove, lost).unwrap();
        assert!(shared(&[&one, &other], &listing(&[])).is_empty());
    }

    #[test]
    fn an_inode_is_made_once() {
        let (one, other) = (made(Place::Own, &[(1, 11)]), made(Place::Own, &[(1, 11)]));
        assert_eq!(made_twice(&[&one, &other]).len(), 1);
        assert!(made_twice(&[&one]).is_empty());
    }
}
