//! The closed set of error codes. Every library error has one; errno, gRPC status and retry
//! class follow from it alone.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What kind of failure it is. The numbers go over the wire and never change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum Code {
            $($(#[$doc])* $name = $number,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// The code of a wire number; unknown numbers are [`Code::Internal`].
            pub fn from_number(number: u8) -> Code {
                match number {
                    $($number => Code::$name,)*
                    _ => Code::Internal,
                }
            }

            /// Its name, for people and metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)* }
            }
        }
    };
}

codes! {
    /// No such file, directory, mount or worker.
    NotFound = 1,
    /// The name is taken.
    AlreadyExists = 2,
    /// The directory has entries.
    NotEmpty = 3,
    /// A directory was needed.
    NotDirectory = 4,
    /// A file was needed.
    IsDirectory = 5,
    /// The caller, or our credentials at the under store, may not.
    PermissionDenied = 6,
    /// Writing is not possible here.
    ReadOnly = 7,
    /// A disk is full.
    NoSpace = 8,
    /// A quota is used up.
    QuotaExceeded = 9,
    /// Another master leads.
    NotLeader = 10,
    /// The content changed in the under store.
    Stale = 11,
    /// In use, or another operation is under way.
    Busy = 12,
    /// It took too long.
    Timeout = 13,
    /// The other side cannot be reached now.
    Unavailable = 14,
    /// Not offered here.
    Unsupported = 15,
    /// The request makes no sense.
    InvalidArgument = 16,
    /// Stored bytes are damaged.
    Corrupt = 17,
    /// A fault of Forebay itself.
    Internal = 18,
    /// Two names in different mounts, where one mount is needed.
    CrossMount = 19,
}

impl Code {
    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Code::NotLeader | Code::Busy | Code::Timeout | Code::Unavailable
        )
    }

    /// The Linux errno (x86-64 and arm64 numbers).
    pub fn errno(self) -> i32 {
        match self {
            Code::NotFound => 2,                       // ENOENT
            Code::AlreadyExists => 17,                 // EEXIST
            Code::NotEmpty => 39,                      // ENOTEMPTY
            Code::NotDirectory => 20,                  // ENOTDIR
            Code::IsDirectory => 21,                   // EISDIR
            Code::PermissionDenied => 13,              // EACCES
            Code::ReadOnly => 30,                      // EROFS
            Code::NoSpace => 28,                       // ENOSPC
            Code::QuotaExceeded => 122,                // EDQUOT
            Code::Stale => 116,                        // ESTALE
            Code::Busy => 16,                          // EBUSY
            Code::Timeout => 110,                      // ETIMEDOUT
            Code::NotLeader | Code::Unavailable => 11, // EAGAIN
            Code::Unsupported => 95,                   // EOPNOTSUPP
            Code::InvalidArgument => 22,               // EINVAL
            Code::Corrupt | Code::Internal => 5,       // EIO
            Code::CrossMount => 18,                    // EXDEV
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Prints an error and its sources on one line, outermost first.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their source in their own message.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_and_every_code_has_an_errno() {
        for code in Code::ALL {
            assert_eq!(Code::from_number(*code as u8), *code);
            assert!(code.errno() > 0);
        }
        assert_eq!(Code::from_number(200), Code::Internal);
    }
}
