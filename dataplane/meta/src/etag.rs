//! An entity tag as rows keep it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An under store's entity tag. The usual forms, an MD5 sum in quotes and that of a multi-part
/// upload, take 16 bytes instead of 34; every other text is kept as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Etag {
    /// As sent.
    Text(String),
    /// `"0123456789abcdef0123456789abcdef"`
    Sum([u8; 16]),
    /// `"0123456789abcdef0123456789abcdef-7"`
    Parts([u8; 16], u32),
}

impl From<&str> for Etag {
    fn from(text: &str) -> Etag {
        compact(text).unwrap_or_else(|| Etag::Text(text.to_owned()))
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Etag::Text(text) => f.write_str(text),
            Etag::Sum(sum) => write!(f, "\"{:032x}\"", u128::from_be_bytes(*sum)),
            Etag::Parts(sum, parts) => {
                write!(f, "\"{:032x}-{parts}\"", u128::from_be_bytes(*sum))
            }
        }
    }
}

/// `None` unless the compact form prints exactly as `text`.
fn compact(text: &str) -> Option<Etag> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let (hex, rest) = inner.split_at_checked(32)?;
    if !hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let sum = u128::from_str_radix(hex, 16).ok()?.to_be_bytes();
    if rest.is_empty() {
        return Some(Etag::Sum(sum));
    }
    let digits = rest.strip_prefix('-')?;
    if !digits.bytes().all(|c| c.is_ascii_digit()) || digits.starts_with('0') {
        return None;
    }
    Some(Etag::Parts(sum, digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_was_read_and_is_small() {
        let sum = "0123456789abcdef0123456789abcdef";
        for (text, size) in [
            (String::new(), 2),
            (format!("\"{sum}\""), 17),
            (format!("\"{sum}-17\""), 18),
            (format!("\"{sum}-017\""), 40),
            (format!("\"{sum}-\""), 37),
            (format!("\"{sum}-+1\""), 39),
            (format!("\"{sum}-4294967296\""), 47),
            (format!("\"{}\"", sum.to_uppercase()), 36),
            (format!("W/\"{sum}\""), 38),
            (sum.to_owned(), 34),
            ("\"é123456789abcdef0123456789abcdef\"".to_owned(), 37),
        ] {
            let etag = Etag::from(text.as_str());
            assert_eq!(etag.to_string(), text);
            assert_eq!(postcard::to_allocvec(&etag).unwrap().len(), size, "{text}");
        }
    }
}
