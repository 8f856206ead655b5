//! AWS Signature Version 4 for requests without a body.
//!
//! Algorithm: <https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html>.
//! The key of the day and all that depends on it are derived once; a request costs one hash, one
//! HMAC and no formatting of dates within the same second. Only Host and the `x-amz-` headers are
//! signed.

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use jiff::{Timestamp, tz::TimeZone};
use object_store::aws::AwsCredential;
use parking_lot::Mutex;
use ring::{digest, hmac};
use std::{fmt::Write as _, sync::Arc};

const EMPTY_HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const CONTENT_HASH: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Signs requests to one host and region.
pub(crate) struct Signer {
    region: String,
    /// The Host header.
    host: String,
    derived: Mutex<Option<Arc<Derived>>>,
}

/// What stays the same for a second, and for the most part for a day.
struct Derived {
    credential: Arc<AwsCredential>,
    second: i64,
    day: String,
    key: hmac::Key,
    /// `YYYYMMDDTHHMMSSZ`.
    date: HeaderValue,
    token: Option<HeaderValue>,
    /// Canonical headers and the list of their names.
    canonical: String,
    /// First three lines of the string to sign.
    to_sign: String,
    /// The Authorization header up to the signature.
    authorization: String,
}

/// A credential that cannot be written into a header.
#[derive(Debug, thiserror::Error)]
#[error("the credential holds characters that no header can carry")]
pub(crate) struct BadCredential;

impl Signer {
    pub(crate) fn new(region: impl Into<String>, host: impl Into<String>) -> Signer {
        Signer {
            region: region.into(),
            host: host.into(),
            derived: Mutex::default(),
        }
    }

    /// Adds the headers that sign `method path?query` at `now`.
    pub(crate) fn sign(
        &self,
        headers: &mut HeaderMap,
        credential: &Arc<AwsCredential>,
        method: &str,
        path: &str,
        query: &str,
        now: Timestamp,
    ) -> Result<(), BadCredential> {
        let derived = self.derived(credential, now)?;
        let mut canonical =
            String::with_capacity(path.len() + query.len() + derived.canonical.len() + 80);
        for part in [
            method,
            "\n",
            path,
            "\n",
            query,
            "\n",
            &derived.canonical,
            EMPTY_HASH,
        ] {
            canonical.push_str(part);
        }
        let hash = digest::digest(&digest::SHA256, canonical.as_bytes());
        let mut to_sign = String::with_capacity(derived.to_sign.len() + 64);
        to_sign.push_str(&derived.to_sign);
        push_hex(&mut to_sign, hash.as_ref());
        let signature = hmac::sign(&derived.key, to_sign.as_bytes());
        let mut authorization = String::with_capacity(derived.authorization.len() + 64);
        authorization.push_str(&derived.authorization);
        push_hex(&mut authorization, signature.as_ref());
        let mut authorization = HeaderValue::try_from(authorization).map_err(|_| BadCredential)?;
        authorization.set_sensitive(true);
        headers.insert(AUTHORIZATION, authorization);
        headers.insert(CONTENT_HASH, HeaderValue::from_static(EMPTY_HASH));
        headers.insert(DATE, derived.date.clone());
        if let Some(token) = &derived.token {
            headers.insert(TOKEN, token.clone());
        }
        Ok(())
    }

    fn derived(
        &self,
        credential: &Arc<AwsCredential>,
        now: Timestamp,
    ) -> Result<Arc<Derived>, BadCredential> {
        let second = now.as_second();
        let cached = self.derived.lock().clone();
        let cached = cached.filter(|d| Arc::ptr_eq(&d.credential, credential));
        if let Some(derived) = &cached
            && derived.second == second
        {
            return Ok(derived.clone());
        }
        let derived = Arc::new(self.derive(credential, now, cached.as_deref())?);
        *self.derived.lock() = Some(derived.clone());
        Ok(derived)
    }

    fn derive(
        &self,
        credential: &Arc<AwsCredential>,
        now: Timestamp,
        before: Option<&Derived>,
    ) -> Result<Derived, BadCredential> {
        let utc = now.to_zoned(TimeZone::UTC);
        let day = format!("{:04}{:02}{:02}", utc.year(), utc.month(), utc.day());
        let date = format!(
            "{day}T{:02}{:02}{:02}Z",
            utc.hour(),
            utc.minute(),
            utc.second()
        );
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let key = match before {
            Some(before) if before.day == day => before.key.clone(),
            _ => day_key(&credential.secret_key, &day, &self.region),
        };
        let mut canonical = format!(
            "host:{}\nx-amz-content-sha256:{EMPTY_HASH}\nx-amz-date:{date}\n",
            self.host
        );
        let mut names = "host;x-amz-content-sha256;x-amz-date".to_owned();
        let mut token = None;
        if let Some(text) = &credential.token {
            let mut value = HeaderValue::try_from(text).map_err(|_| BadCredential)?;
            value.set_sensitive(true);
            token = Some(value);
            let _ = writeln!(canonical, "x-amz-security-token:{text}");
            names.push_str(";x-amz-security-token");
        }
        let _ = write!(canonical, "\n{names}\n");
        Ok(Derived {
            credential: credential.clone(),
            second: now.as_second(),
            key,
            to_sign: format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n"),
            authorization: format!(
                "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature=",
                credential.key_id
            ),
            date: HeaderValue::try_from(date).map_err(|_| BadCredential)?,
            day,
            token,
            canonical,
        })
    }
}

fn day_key(secret: &str, day: &str, region: &str) -> hmac::Key {
    let step = |key: &[u8], data: &str| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data.as_bytes())
    };
    let key = step(format!("AWS4{secret}").as_bytes(), day);
    let key = step(key.as_ref(), region);
    let key = step(key.as_ref(), "s3");
    let key = step(key.as_ref(), "aws4_request");
    hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())
}

fn push_hex(target: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        target.push(char::from(DIGITS[usize::from(byte >> 4)]));
        target.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::encode::push_query;

    fn signature(path: &str, query: &str) -> String {
        let credential = Arc::new(AwsCredential {
            key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: None,
        });
        let signer = Signer::new("us-east-1", "examplebucket.s3.amazonaws.com");
        let mut headers = HeaderMap::new();
        let now = "2013-05-24T00:00:00Z".parse().unwrap();
        signer
            .sign(&mut headers, &credential, "GET", path, query, now)
            .unwrap();
        let authorization = headers[AUTHORIZATION].to_str().unwrap();
        authorization
            .rsplit_once("Signature=")
            .unwrap()
            .1
            .to_owned()
    }

    /// The worked examples of AWS's documentation, "Signature Calculations for the Authorization
    /// Header" of the S3 API reference.
    #[test]
    fn signs_as_the_documented_examples() {
        let mut query = String::new();
        push_query(&mut query, "max-keys", b"2");
        push_query(&mut query, "prefix", b"J");
        assert_eq!(
            signature("/", &query),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
        assert_eq!(
            signature("/", "lifecycle="),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
    }

    #[test]
    fn a_new_second_a_new_day_and_a_new_credential_change_the_signature() {
        let credential = |id: &str| {
            Arc::new(AwsCredential {
                key_id: id.to_owned(),
                secret_key: "s".to_owned(),
                token: Some("t".to_owned()),
            })
        };
        let signer = Signer::new("r", "h");
        let (one, two) = (credential("one"), credential("two"));
        let sign = |credential, now: &str| {
            let mut headers = HeaderMap::new();
            signer
                .sign(
                    &mut headers,
                    credential,
                    "GET",
                    "/",
                    "",
                    now.parse().unwrap(),
                )
                .unwrap();
            assert_eq!(headers[TOKEN], "t");
            assert!(headers[TOKEN].is_sensitive() && headers[AUTHORIZATION].is_sensitive());
            headers[AUTHORIZATION].to_str().unwrap().to_owned()
        };
        let first = sign(&one, "2020-01-01T00:00:00Z");
        assert_eq!(first, sign(&one, "2020-01-01T00:00:00.5Z"));
        assert_ne!(first, sign(&one, "2020-01-01T00:00:01Z"));
        assert_ne!(first, sign(&one, "2020-01-02T00:00:00Z"));
        assert_ne!(first, sign(&two, "2020-01-01T00:00:00Z"));
        assert_eq!(first, sign(&one, "2020-01-01T00:00:00Z"));
    }
}
