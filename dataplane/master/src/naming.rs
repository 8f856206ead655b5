//! From keys to names: what of a listing a file system can show. Pure.
//!
//! Keys are bytes without rules; names have rules. A key that breaks them becomes a [`Problem`],
//! never an error.

use bytes::Bytes;
use forebay_meta::{Problem, ProblemReason, UfsEntry, UfsKind};
use forebay_types::{Name, NameError};
use forebay_ufs::{ListPage, Object};

/// What a piece of a listing means for its directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// Names to show. The same name may come more than once, also as file and as directory.
    pub(crate) entries: Vec<UfsEntry>,
    /// Keys that cannot be shown.
    pub(crate) problems: Vec<Problem>,
}

/// Names the keys of one piece of the listing of `prefix` (empty, or ending in `/`).
pub(crate) fn name_page(prefix: &[u8], page: ListPage) -> Named {
    let mut named = Named {
        entries: Vec::with_capacity(page.objects.len() + page.prefixes.len()),
        problems: Vec::new(),
    };
    for object in page.objects {
        name_object(prefix, object, &mut named);
    }
    for key in page.prefixes {
        name_prefix(prefix, &key, 0, &mut named);
    }
    named
}

fn name_object(prefix: &[u8], object: Object, named: &mut Named) {
    // A key that does not begin with the prefix was not asked for.
    let Some(rest) = object.key.strip_prefix(prefix) else {
        return;
    };
    if rest.is_empty() || rest.ends_with(b"/") {
        // A folder marker: of the directory itself, or of one in it.
        if object.fingerprint.size > 0 {
            named.problems.push(Problem {
                key: object.key.clone(),
                reason: ProblemReason::FolderMarkerWithContent,
            });
        }
        if !rest.is_empty() {
            name_prefix(prefix, &object.key, object.mtime_ns, named);
        }
    } else if rest.contains(&b'/') {
        name_prefix(prefix, &object.key, 0, named);
    } else {
        let kind = UfsKind::File {
            fingerprint: object.fingerprint,
            mtime_ns: object.mtime_ns,
        };
        push(prefix, &object.key, object.key.len(), kind, named);
    }
}

/// Names the directory that `key` lies in, or is.
fn name_prefix(prefix: &[u8], key: &Bytes, mtime_ns: i64, named: &mut Named) {
    let Some(rest) = key.strip_prefix(prefix) else {
        return;
    };
    let segment = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
    push(
        prefix,
        key,
        prefix.len() + segment,
        UfsKind::Directory { mtime_ns },
        named,
    );
}

/// The name is `key[prefix.len()..end]`, shared with the key and not copied.
fn push(prefix: &[u8], key: &Bytes, end: usize, kind: UfsKind, named: &mut Named) {
    match Name::new(key.slice(prefix.len()..end)) {
        Ok(name) => named.entries.push(UfsEntry { name, kind }),
        Err(error) => {
            let reason = match error {
                NameError::Empty => ProblemReason::EmptySegment,
                NameError::Dots => ProblemReason::DotSegment,
                NameError::TooLong => ProblemReason::NameTooLong,
                NameError::BadByte => ProblemReason::BadByte,
            };
            named.problems.push(Problem {
                key: key.clone(),
                reason,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::Fingerprint;
    use proptest::prelude::*;

    fn object(key: &[u8], size: u64) -> Object {
        Object {
            key: Bytes::copy_from_slice(key),
            fingerprint: Fingerprint {
                size,
                mtime_ns: 0,
                etag: "\"e\"".into(),
            },
            mtime_ns: 7,
        }
    }

    fn reason_of(prefix: &str, key: &[u8]) -> Option<ProblemReason> {
        let page = ListPage {
            objects: vec![object(key, 3)],
            prefixes: vec![],
        };
        name_page(prefix.as_bytes(), page)
            .problems
            .first()
            .map(|p| p.reason)
    }

    #[test]
    fn plain_keys_become_files_and_prefixes_directories() {
        let page = ListPage {
            objects: vec![object(b"d/x", 3), object(b"d/\xff", 0)],
            prefixes: vec![Bytes::from_static(b"d/sub/")],
        };
        let named = name_page(b"d/", page);
        assert!(named.problems.is_empty());
        let names: Vec<&[u8]> = named.entries.iter().map(|e| e.name.as_bytes()).collect();
        assert_eq!(names, [b"x".as_slice(), b"\xff", b"sub"]);
        assert!(matches!(
            named.entries[2].kind,
            UfsKind::Directory { mtime_ns: 0 }
        ));
    }

    #[test]
    fn keys_that_cannot_be_shown_are_problems() {
        use ProblemReason::*;
        assert_eq!(reason_of("", b"/x"), Some(EmptySegment));
        assert_eq!(reason_of("d/", b"d//x"), Some(EmptySegment));
        assert_eq!(reason_of("", b"."), Some(DotSegment));
        assert_eq!(reason_of("", b"../x"), Some(DotSegment));
        assert_eq!(reason_of("", &[b'a'; 256]), Some(NameTooLong));
        assert_eq!(reason_of("", b"a\0b"), Some(BadByte));
        assert_eq!(reason_of("d/", b"d/"), Some(FolderMarkerWithContent));
        assert_eq!(reason_of("", &[b'a'; 255]), None);
    }

    #[test]
    fn folder_markers_are_directories() {
        let page = ListPage {
            objects: vec![object(b"d/", 0), object(b"d/sub/", 0)],
            prefixes: vec![],
        };
        let named = name_page(b"d/", page);
        assert!(named.problems.is_empty());
        assert_eq!(
            named.entries.len(),
            1,
            "the directory's own marker is no entry"
        );
        assert_eq!(named.entries[0].name.as_bytes(), b"sub");
        assert_eq!(named.entries[0].kind, UfsKind::Directory { mtime_ns: 7 });
    }

    #[test]
    fn a_folder_marker_with_content_is_a_directory_and_a_problem() {
        let page = ListPage {
            objects: vec![object(b"sub/", 9)],
            prefixes: vec![],
        };
        let named = name_page(b"", page);
        assert_eq!(
            named.problems[0].reason,
            ProblemReason::FolderMarkerWithContent
        );
        assert_eq!(named.entries[0].name.as_bytes(), b"sub");
    }

    proptest! {
        /// Whatever the key, it is named, a problem, both (a marker with content), or the
        /// directory's own marker; and a name is always a segment of the key.
        #[test]
        fn no_key_is_lost(
            key in proptest::collection::vec(
                prop_oneof![Just(b'/'), Just(b'.'), Just(b'a'), Just(0u8), any::<u8>()], 0..12),
            deep in any::<bool>(),
            size in 0u64..2,
        ) {
            let prefix: &[u8] = if deep { b"p/q/" } else { b"" };
            let key = [prefix, &key].concat();
            let page = ListPage { objects: vec![object(&key, size)], prefixes: vec![] };
            let named = name_page(prefix, page);
            let own_marker = key == prefix && size == 0;
            prop_assert_eq!(named.entries.is_empty() && named.problems.is_empty(), own_marker);
            for entry in &named.entries {
                let name = entry.name.as_bytes();
                let rest = &key[prefix.len()..];
                prop_assert!(rest.starts_with(name));
                let end = rest.get(name.len());
                match entry.kind {
                    UfsKind::File { .. } => prop_assert_eq!(end, None),
                    UfsKind::Directory { .. } => prop_assert_eq!(end, Some(&b'/')),
                }
            }
            for problem in &named.problems {
                prop_assert_eq!(problem.key.as_ref(), key.as_slice());
            }
        }
    }
}
