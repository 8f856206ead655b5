//! Keys in requests. Every byte that is not unreserved (RFC 3986) is percent-encoded, in upper
//! case: the form that signatures are made over, so that what is sent is what is signed.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// Appends `key` as part of a path. Dot segments and double slashes stay: they are the key.
pub(crate) fn push_path(target: &mut String, key: &[u8]) {
    target.extend(percent_encode(key, PATH));
}

/// Appends `name=value` to a query. Signatures want the names in order: the caller keeps it.
pub(crate) fn push_query(target: &mut String, name: &str, value: &[u8]) {
    if !target.is_empty() {
        target.push('&');
    }
    target.push_str(name);
    target.push('=');
    target.extend(percent_encode(value, QUERY));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_key_survives() {
        let mut path = "/b/".to_owned();
        push_path(&mut path, "a//b/../%/+ é/".as_bytes());
        assert_eq!(path, "/b/a//b/../%25/%2B%20%C3%A9/");
        let mut query = String::new();
        push_query(&mut query, "list-type", b"2");
        push_query(&mut query, "prefix", b"a/&=\xff");
        assert_eq!(query, "list-type=2&prefix=a%2F%26%3D%FF");
    }
}
