//! How raft's own structures become bytes: on the wire and in the journal. They are messages of
//! prost 0.11, which nothing outside this crate may see.

use prost_011::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry, HardState, Message};

/// A structure that is stored or sent.
pub(crate) trait Wire: Sized {
    /// Its bytes.
    fn to_bytes(&self) -> Vec<u8>;

    /// Reads it back; the error says what is wrong with the bytes.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Box<dyn std::error::Error + Send + Sync>>;
}

macro_rules! wire {
    ($($name:ident)*) => {$(
        impl Wire for $name {
            fn to_bytes(&self) -> Vec<u8> {
                self.encode_to_vec()
            }

            fn from_bytes(bytes: &[u8]) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
                Ok($name::decode(bytes)?)
            }
        }
    )*};
}

wire!(ConfChangeV2 Entry HardState Message);
