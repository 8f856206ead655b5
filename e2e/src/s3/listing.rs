//! `ListObjectsV2` over sorted keys; pure.

use super::Meta;
use std::ops::Bound;

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only keys that begin so.
    pub prefix: String,
    /// Keys that hold this after the prefix are rolled up into one common prefix.
    pub delimiter: Option<String>,
    /// Where to go on.
    pub after: Option<After>,
    /// Most keys and common prefixes together.
    pub limit: usize,
}

/// Where a listing goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// After this key.
    Key(String),
    /// After everything that begins so.
    Prefix(String),
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Objects in the order of their keys.
    pub objects: Vec<(String, Meta)>,
    /// Common prefixes in order.
    pub prefixes: Vec<String>,
    /// Where the next page begins, if there is more.
    pub next: Option<After>,
}

/// Keys in the order of their bytes.
pub(super) trait Sorted {
    /// What is kept for a key.
    type Value;

    /// The keys from `bound` on.
    fn from(&self, bound: Bound<&str>) -> Box<dyn Iterator<Item = (&str, &Self::Value)> + '_>;
}

impl After {
    /// The text that a client hands back as a continuation token.
    pub fn to_token(&self) -> String {
        let (kind, text) = match self {
            After::Key(key) => ('k', key),
            After::Prefix(prefix) => ('p', prefix),
        };
        let mut token = String::with_capacity(1 + 2 * text.len());
        token.push(kind);
        for byte in text.bytes() {
            token.extend([format!("{byte:02x}")]);
        }
        token
    }

    /// Reads a token back; `None` if this server did not make it.
    pub fn from_token(token: &str) -> Option<After> {
        let hex = token.get(1..)?;
        let bytes = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
            .collect::<Option<Vec<u8>>>()?;
        let text = String::from_utf8(bytes).ok()?;
        match token.as_bytes()[0] {
            b'k' => Some(After::Key(text)),
            b'p' => Some(After::Prefix(text)),
            _ => None,
        }
    }
}

/// One page of the listing that `query` asks for. Seeks past what is rolled up.
pub(super) fn page<S: Sorted>(
    keys: &S,
    query: &Query,
    meta: impl Fn(&str, &S::Value) -> Meta,
) -> Listing {
    let mut listing = Listing::default();
    let mut last = None;
    let mut seek = match &query.after {
        Some(After::Key(key)) if *key >= query.prefix => Seek::After(key.clone()),
        Some(After::Prefix(prefix)) => match successor(prefix) {
            Some(bound) if bound > query.prefix => Seek::At(bound),
            Some(_) => Seek::At(query.prefix.clone()),
            None => return listing,
        },
        _ => Seek::At(query.prefix.clone()),
    };
    'seek: loop {
        for (key, value) in keys.from(seek.bound()) {
            let Some(rest) = key.strip_prefix(query.prefix.as_str()) else {
                return listing;
            };
            let common = query
                .delimiter
                .as_deref()
                .and_then(|d| rest.find(d).map(|at| at + d.len()))
                .map(|end| &key[..query.prefix.len() + end]);
            // A listing that starts after a common prefix itself does not show it again.
            let seen = common.is_some()
                && matches!(&query.after, Some(After::Key(k)) if common == Some(k));
            if !seen {
                if listing.objects.len() + listing.prefixes.len() >= query.limit {
                    listing.next = last;
                    return listing;
                }
                if let Some(common) = common {
                    listing.prefixes.push(common.to_owned());
                    last = Some(After::Prefix(common.to_owned()));
                } else {
                    listing.objects.push((key.to_owned(), meta(key, value)));
                    last = Some(After::Key(key.to_owned()));
                }
            }
            if let Some(common) = common {
                match successor(common) {
                    Some(bound) => seek = Seek::At(bound),
                    None => return listing,
                }
                continue 'seek;
            }
        }
        return listing;
    }
}

enum Seek {
    At(String),
    After(String),
}

impl Seek {
    fn bound(&self) -> Bound<&str> {
        match self {
            Seek::At(key) => Bound::Included(key),
            Seek::After(key) => Bound::Excluded(key),
        }
    }
}

/// The least text above everything that begins with `prefix`.
fn successor(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // The order of code points is the order of their UTF-8; surrogates are not code points.
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            _ => char::from_u32(last as u32 + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::BTreeMap, time::SystemTime};

    struct Map(BTreeMap<String, u64>);

    impl Sorted for Map {
        type Value = u64;
        fn from(&self, bound: Bound<&str>) -> Box<dyn Iterator<Item = (&str, &u64)> + '_> {
            Box::new(
                self.0
                    .range::<str, _>((bound, Bound::Unbounded))
                    .map(|(k, v)| (k.as_str(), v)),
            )
        }
    }

    fn meta(size: u64) -> Meta {
        Meta {
            size,
            mtime: SystemTime::UNIX_EPOCH,
            etag: String::new(),
        }
    }

    fn all(map: &Map, prefix: &str, delimiter: Option<&str>, limit: usize) -> Vec<String> {
        let mut query = Query {
            prefix: prefix.into(),
            delimiter: delimiter.map(Into::into),
            after: None,
            limit,
        };
        let mut out = Vec::new();
        loop {
            let listing = page(map, &query, |_, size| meta(*size));
            let mut names: Vec<String> = listing.objects.into_iter().map(|(k, _)| k).collect();
            names.extend(listing.prefixes);
            names.sort();
            assert!(names.len() <= limit);
            out.extend(names);
            match listing.next {
                None => return out,
                Some(next) => {
                    query.after = Some(After::from_token(&next.to_token()).unwrap());
                }
            }
        }
    }

    #[test]
    fn rolls_up_as_s3_does() {
        let keys = ["a", "a.txt", "a/b", "a/c/d", "a//e", "b/", "/x", "ü/y"];
        let map = Map(keys.iter().map(|k| ((*k).to_owned(), 0)).collect());
        assert_eq!(
            all(&map, "", Some("/"), 1_000),
            ["/", "a", "a.txt", "a/", "b/", "ü/"]
        );
        assert_eq!(all(&map, "a/", Some("/"), 1_000), ["a//", "a/b", "a/c/"]);
        assert_eq!(all(&map, "b/", Some("/"), 1_000), ["b/"]);
        assert_eq!(all(&map, "nothing", None, 1_000), [""; 0]);
    }

    proptest! {
        #[test]
        fn pages_of_any_length_make_the_same_listing(
            keys in prop::collection::btree_set("[ab/.\u{ff}]{0,6}", 0..60),
            prefix in "[ab/]{0,2}",
            limit in 1_usize..9,
        ) {
            let map = Map(keys.iter().map(|k| (k.clone(), 0)).collect());
            for delimiter in [None, Some("/"), Some("ab")] {
                let mut naive: Vec<String> = keys
                    .iter()
                    .filter_map(|key| {
                        let rest = key.strip_prefix(prefix.as_str())?;
                        match delimiter.and_then(|d| rest.find(d).map(|at| at + d.len())) {
                            Some(end) => Some(key[..prefix.len() + end].to_owned()),
                            None => Some(key.clone()),
                        }
                    })
                    .collect();
                naive.dedup();
                prop_assert_eq!(&all(&map, &prefix, delimiter, limit), &naive);
                prop_assert_eq!(&all(&map, &prefix, delimiter, 1_000), &naive);
            }
        }
    }
}
