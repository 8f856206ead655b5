//! The name of a directory entry.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One path segment as the kernel sees it: raw bytes, 1 to 255 of them, no `/`, no NUL, neither
/// `.` nor `..`. It need not be UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Name(Bytes);

/// Why bytes cannot be a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum NameError {
    /// No bytes at all (in an object key: `//`).
    #[error("empty name")]
    Empty,
    /// Over 255 bytes.
    #[error("name longer than {} bytes", Name::MAX)]
    TooLong,
    /// `.` or `..`.
    #[error("name is '.' or '..'")]
    Dots,
    /// Holds `/` or NUL.
    #[error("name holds '/' or NUL")]
    BadByte,
}

impl Name {
    /// Most bytes a name may have (`NAME_MAX` of Linux).
    pub const MAX: usize = 255;

    /// Checks and wraps `bytes`.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Name, NameError> {
        let bytes = bytes.into();
        match bytes.as_ref() {
            b"" => Err(NameError::Empty),
            b"." | b".." => Err(NameError::Dots),
            b if b.len() > Name::MAX => Err(NameError::TooLong),
            b if b.iter().any(|c| matches!(c, 0 | b'/')) => Err(NameError::BadByte),
            _ => Ok(Name(bytes)),
        }
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The raw bytes, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl TryFrom<Bytes> for Name {
    type Error = NameError;
    fn try_from(bytes: Bytes) -> Result<Name, NameError> {
        Name::new(bytes)
    }
}

impl From<Name> for Bytes {
    fn from(name: Name) -> Bytes {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_linux_cannot_name() {
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(Name::new("."), Err(NameError::Dots));
        assert_eq!(Name::new(".."), Err(NameError::Dots));
        assert_eq!(Name::new("a/b"), Err(NameError::BadByte));
        assert_eq!(Name::new("a\0"), Err(NameError::BadByte));
        assert_eq!(Name::new(vec![b'x'; 256]), Err(NameError::TooLong));
        assert!(Name::new(vec![b'x'; 255]).is_ok());
        assert!(Name::new(vec![0xff, 0xfe]).is_ok());
        assert!(Name::new("...").is_ok());
    }
}
