//! What a mount's URI names. Everything after the authority is taken literally: no percent
//! decoding, no normalisation, because keys may hold any byte.

use crate::{Error, Result};
use forebay_types::Code;

/// The kinds of under store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `s3://bucket/prefix`: S3 and everything compatible with it.
    S3,
    /// `gs://bucket/prefix`: Google Cloud Storage.
    Gs,
    /// `az://container/prefix`: Azure Blob Storage.
    Az,
    /// `file:///directory`: a directory of every machine that reads it.
    File,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Scheme; 4] = [Scheme::S3, Scheme::Gs, Scheme::Az, Scheme::File];

    /// Its name in a URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::S3 => "s3",
            Scheme::Gs => "gs",
            Scheme::Az => "az",
            Scheme::File => "file",
        }
    }
}

/// A URI taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) scheme: Scheme,
    /// Bucket or container; empty for a directory.
    pub(crate) bucket: String,
    /// What every key begins with: empty or ending in `/`. Of a directory: its absolute path.
    pub(crate) prefix: String,
}

fn invalid(message: String) -> Error {
    Error::new(Code::InvalidArgument, message)
}

impl Location {
    pub(crate) fn parse(uri: &str) -> Result<Location> {
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Err(invalid(format!(
                "bad URI '{}': write s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///directory",
                shown(uri)
            )));
        };
        let Some(scheme) = Scheme::ALL.into_iter().find(|s| s.as_str() == scheme) else {
            return Err(invalid(format!(
                "unknown scheme '{}' in a URI: use s3, gs, az or file",
                scheme.escape_debug()
            )));
        };
        let name = scheme.as_str();
        if scheme == Scheme::File {
            if !rest.starts_with('/') || rest.contains('\0') {
                return Err(invalid(format!(
                    "bad URI '{}': a directory is written file:///absolute/path",
                    shown(uri)
                )));
            }
            return Ok(Location {
                scheme,
                bucket: String::new(),
                prefix: rest.to_owned(),
            });
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') {
            // Never printed: what stands before the @ may be a secret.
            return Err(invalid(format!(
                "the {name} URI holds a user or password: take it out and give credentials by environment variables, files or instance identity"
            )));
        }
        if rest.contains('?') {
            // Not printed either: signed URLs carry their secret in the query.
            return Err(invalid(format!(
                "the {name} URI holds a '?': settings are given as options (--option KEY=VALUE), credentials by environment variables or files"
            )));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if bucket.is_empty() || bucket.len() > 255 || !bucket.chars().all(plain) {
            return Err(invalid(format!(
                "bad bucket name '{}' in '{}': write {name}://bucket/prefix",
                bucket.escape_debug(),
                shown(uri)
            )));
        }
        let mut prefix = prefix.to_owned();
        if !prefix.is_empty() && !prefix.ends_with('/') {
            prefix.push('/');
        }
        Ok(Location {
            scheme,
            bucket: bucket.to_owned(),
            prefix,
        })
    }
}

/// A URI for an error message: nothing before an `@` or after a `?`, which may be a secret.
fn shown(uri: &str) -> String {
    let uri = uri.split('?').next().unwrap_or_default();
    match uri.rsplit_once('@') {
        Some((_, after)) => format!("…@{}", after.escape_debug()),
        None => uri.escape_debug().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(uri: &str) -> (Scheme, String, String) {
        let location = Location::parse(uri).unwrap();
        (location.scheme, location.bucket, location.prefix)
    }

    #[test]
    fn prefixes_are_literal_and_end_in_a_slash() {
        let s3 = |bucket: &str, prefix: &str| (Scheme::S3, bucket.to_owned(), prefix.to_owned());
        assert_eq!(parsed("s3://b"), s3("b", ""));
        assert_eq!(parsed("s3://b/"), s3("b", ""));
        assert_eq!(parsed("s3://b/a%20 b"), s3("b", "a%20 b/"));
        assert_eq!(parsed("s3://b//a/../"), s3("b", "/a/../"));
        assert_eq!(
            parsed("file:///x/y"),
            (Scheme::File, String::new(), "/x/y".to_owned())
        );
        assert_eq!(parsed("az://c/p").0, Scheme::Az);
    }

    #[test]
    fn bad_uris_are_refused_with_a_remedy_and_without_their_secrets() {
        for (uri, says) in [
            ("", "write s3://"),
            ("bucket/prefix", "write s3://"),
            ("S3://b", "use s3, gs, az or file"),
            ("ftp://host/x", "'ftp'"),
            ("s3://", "bucket name ''"),
            ("s3:///prefix", "bucket name ''"),
            ("s3://b b/x", "bucket name 'b b'"),
            ("file://relative", "file:///absolute"),
            ("s3://AKIAKEY:hunter2@bucket/x", "environment variables"),
            (
                "s3://bucket/x?X-Amz-Signature=hunter2",
                "environment variables",
            ),
            ("AKIAKEY:hunter2@bucket", "write s3://"),
        ] {
            let error = Location::parse(uri).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            assert!(error.message.contains(says), "{uri}: {error}");
            assert!(!error.message.contains("hunter2"), "{error}");
            assert!(!error.message.contains('\n'));
        }
    }
}
