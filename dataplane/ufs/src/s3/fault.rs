//! What a refusal of S3 means: error code, words for the user, and whether to try again.

use super::xml::Fault;
use crate::{
    Error,
    retry::{Again, Failure},
};
use forebay_types::Code;
use http::{HeaderMap, StatusCode, header::LOCATION};

/// What was asked for, for the message and the meaning of 404.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    List,
    Stat,
    /// A read of an object that a listing has shown.
    Read,
}

impl Asked {
    fn verb(self) -> &'static str {
        match self {
            Asked::List => "list",
            Asked::Stat => "stat",
            Asked::Read => "read",
        }
    }
}

/// Longest piece of a server's own words in a message.
const WORDS: usize = 200;

/// The failure behind an answer that is no success. `what` is the URI asked for.
pub(crate) fn failure(
    asked: Asked,
    what: &str,
    status: StatusCode,
    headers: &HeaderMap,
    fault: &Fault,
) -> Failure {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let region = header("x-amz-bucket-region").or(fault.region.as_deref());
    let (code, again, why) = match (status.as_u16(), fault.code.as_str()) {
        (301 | 302 | 307 | 308, _)
        | (400, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            let why = match (region, header(LOCATION.as_str())) {
                (Some(region), _) => {
                    format!(
                        "the bucket is in region '{0}': mount it with the option region={0}",
                        region.escape_debug()
                    )
                }
                (None, Some(location)) => {
                    format!(
                        "the bucket is elsewhere, at '{}': set the options endpoint and region",
                        location
                            .split('?')
                            .next()
                            .unwrap_or_default()
                            .escape_debug()
                    )
                }
                (None, None) => "the bucket is in another region: set the option region".to_owned(),
            };
            (Code::InvalidArgument, Again::No, why)
        }
        (400, "RequestTimeout") | (408, _) => (Code::Timeout, Again::Soon, said(status, fault)),
        (400 | 401 | 403, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired") => (
            Code::PermissionDenied,
            Again::No,
            "the credentials have expired: get new ones".to_owned(),
        ),
        (401 | 403, _) => (Code::PermissionDenied, Again::No, denied(status, fault)),
        (404, "NoSuchBucket") => (
            Code::NotFound,
            Again::No,
            "there is no such bucket: check its name, the endpoint and path_style".to_owned(),
        ),
        (404, _) => match asked {
            Asked::Read => (Code::Stale, Again::No, "the object is gone".to_owned()),
            Asked::Stat => (
                Code::NotFound,
                Again::No,
                "there is no such object".to_owned(),
            ),
            Asked::List => (
                Code::NotFound,
                Again::No,
                format!("{}: is the endpoint an S3 service?", said(status, fault)),
            ),
        },
        (412, _) => (Code::Stale, Again::No, "the object has changed".to_owned()),
        (416, _) => (
            Code::Stale,
            Again::No,
            "the object has become shorter".to_owned(),
        ),
        (429 | 503, _) => (Code::Busy, Again::Slower, said(status, fault)),
        (405 | 501, _) => (Code::Unsupported, Again::No, said(status, fault)),
        (409 | 500..=599, _) => (Code::Unavailable, Again::Soon, said(status, fault)),
        (400..=499, _) => (Code::InvalidArgument, Again::No, said(status, fault)),
        _ => (
            Code::Unsupported,
            Again::No,
            format!("unexpected answer {status}"),
        ),
    };
    let message = format!("cannot {} {what}: {why}", asked.verb());
    Failure {
        error: Error::new(code, message),
        again,
    }
}

fn denied(status: StatusCode, fault: &Fault) -> String {
    let hint = match fault.code.as_str() {
        "InvalidAccessKeyId" => {
            "the store does not know this access key: check AWS_ACCESS_KEY_ID or the profile"
        }
        "SignatureDoesNotMatch" => {
            "the secret key does not fit the access key: check AWS_SECRET_ACCESS_KEY or the profile"
        }
        "RequestTimeTooSkewed" => "the clock of this machine is wrong: set it",
        "AllAccessDisabled" | "AccountProblem" => "the account or bucket is closed",
        _ => {
            "the credentials may not do this (or the object's existence is hidden from them): s3:GetObject and s3:ListBucket are needed, or the option anonymous=true for a public bucket"
        }
    };
    format!("{}: {hint}", said(status, fault))
}

/// The server's own words, on one line.
fn said(status: StatusCode, fault: &Fault) -> String {
    let status = status.as_u16();
    if fault.code.is_empty() {
        return format!("the store answers {status}");
    }
    let words: String = fault.message.chars().take(WORDS).collect();
    format!(
        "the store answers {status} {} ({})",
        fault.code.escape_debug(),
        words.escape_debug()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(asked: Asked, status: u16, code: &str) -> Failure {
        let fault = Fault {
            code: code.to_owned(),
            message: "line\ntwo".to_owned(),
            region: None,
        };
        let status = StatusCode::from_u16(status).unwrap();
        failure(asked, "s3://b/k", status, &HeaderMap::new(), &fault)
    }

    #[test]
    fn each_refusal_has_its_code_and_its_retry() {
        for (asked, status, code, want, again) in [
            (Asked::Read, 404, "NoSuchKey", Code::Stale, Again::No),
            (Asked::Stat, 404, "", Code::NotFound, Again::No),
            (Asked::Read, 404, "NoSuchBucket", Code::NotFound, Again::No),
            (
                Asked::Read,
                412,
                "PreconditionFailed",
                Code::Stale,
                Again::No,
            ),
            (Asked::Read, 416, "InvalidRange", Code::Stale, Again::No),
            (
                Asked::List,
                403,
                "AccessDenied",
                Code::PermissionDenied,
                Again::No,
            ),
            (Asked::List, 503, "SlowDown", Code::Busy, Again::Slower),
            (Asked::List, 429, "", Code::Busy, Again::Slower),
            (
                Asked::Read,
                500,
                "InternalError",
                Code::Unavailable,
                Again::Soon,
            ),
            (Asked::Read, 502, "", Code::Unavailable, Again::Soon),
            (
                Asked::Read,
                400,
                "RequestTimeout",
                Code::Timeout,
                Again::Soon,
            ),
            (
                Asked::List,
                400,
                "InvalidArgument",
                Code::InvalidArgument,
                Again::No,
            ),
            (
                Asked::List,
                501,
                "NotImplemented",
                Code::Unsupported,
                Again::No,
            ),
            (Asked::List, 200, "", Code::Unsupported, Again::No),
        ] {
            let failure = of(asked, status, code);
            assert_eq!(
                (failure.error.code(), failure.again),
                (want, again),
                "{status} {code}"
            );
            assert!(!failure.error.message.contains('\n'));
        }
    }

    #[test]
    fn a_redirect_names_the_region() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-bucket-region", "eu-west-3".parse().unwrap());
        let status = StatusCode::MOVED_PERMANENTLY;
        let failure = failure(Asked::List, "s3://b/", status, &headers, &Fault::default());
        assert!(
            failure.error.message.contains("region=eu-west-3"),
            "{}",
            failure.error
        );
        let elsewhere = of(Asked::List, 301, "PermanentRedirect");
        assert!(
            elsewhere.error.message.contains("set the option region"),
            "{}",
            elsewhere.error
        );
    }
}
