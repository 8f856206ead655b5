//! Identities. Each is a newtype so that one cannot be taken for another.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

id!(
    /// An inode number: unique in the cluster, never used again, used unchanged by FUSE.
    Ino,
    u64
);
id!(
    /// The version of a file's content. A pair (inode, content version) names bytes that never
    /// change.
    ContentVersion,
    u64
);
id!(
    /// A row of the mount table. Never used again after an unmount.
    MountId,
    u32
);
id!(
    /// A client's session with the masters.
    SessionId,
    u64
);
id!(
    /// A worker; drawn at random when its data directory is made, and kept there.
    WorkerId,
    u64
);

impl Ino {
    /// The root directory of the cluster's tree; FUSE uses the same number.
    pub const ROOT: Ino = Ino(1);
}
