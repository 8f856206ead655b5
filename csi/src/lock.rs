//! One operation per volume at a time.

use crate::{error::Error, volume::VolumeId};
use parking_lot::Mutex;
use std::{collections::HashSet, sync::Arc};

/// The volumes that are being worked on.
#[derive(Clone, Debug, Default)]
pub struct Locks(Arc<Mutex<HashSet<VolumeId>>>);

/// Ends with the operation.
#[derive(Debug)]
pub struct Guard {
    locks: Locks,
    id: VolumeId,
}

impl Locks {
    /// Takes a volume, or says that somebody else has it: the kubelet asks again by itself.
    pub fn take(&self, id: &VolumeId) -> Result<Guard, Error> {
        if !self.0.lock().insert(id.clone()) {
            return Err(Error::Busy(id.clone()));
        }
        Ok(Guard {
            locks: self.clone(),
            id: id.clone(),
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.locks.0.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::tests::id;

    #[test]
    fn a_volume_is_had_by_one() {
        let locks = Locks::default();
        let first = locks.take(&id("a")).unwrap();
        assert!(matches!(locks.take(&id("a")), Err(Error::Busy(_))));
        let _other = locks.take(&id("b")).unwrap();
        drop(first);
        locks.take(&id("a")).unwrap();
    }
}
