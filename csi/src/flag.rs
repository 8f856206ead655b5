//! Flags of a mount that a pod's volume may ask for.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

macro_rules! flags {
    ($($name:ident = $text:literal => $kernel:ident,)*) => {
        /// One flag.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Flag {
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        impl Flag {
            /// All of them, by what users and the kernel's mount table call them.
            const NAMES: &[(&str, Flag)] = &[$(($text, Flag::$name)),*];

            /// The kernel's bit.
            pub fn bit(self) -> rustix::mount::MountFlags {
                match self {
                    $(Flag::$name => rustix::mount::MountFlags::$kernel,)*
                }
            }
        }
    };
}

flags! {
    Ro = "ro" => RDONLY,
    NoSuid = "nosuid" => NOSUID,
    NoDev = "nodev" => NODEV,
    NoExec = "noexec" => NOEXEC,
    NoAtime = "noatime" => NOATIME,
}

/// A set of flags.
pub type Flags = BTreeSet<Flag>;

impl Flag {
    /// The flag of that name.
    pub fn from_name(name: &str) -> Option<Flag> {
        let found = Flag::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, flag)| *flag)
    }

    /// The names of all, for an error.
    pub fn known() -> String {
        let names: Vec<&str> = Flag::NAMES.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Flag::NAMES.iter().find(|(_, flag)| flag == self);
        f.write_str(found.map_or("", |(name, _)| name))
    }
}
