//! A bucket as an [`UnderStore`].

use super::{
    credential::Source,
    endpoint::Endpoint,
    fault::{Asked, failure},
    http::{Answer, Body as HttpBody, Client, Limits},
    list::{Pages, list},
    profile::Profile,
    request::{ListQuery, Requests as RequestBuilder},
    xml::{self, Page},
};
use crate::{
    Body, Depth, Error, ListPage, Object, Requests, Result, UnderStore,
    config::{Environment, Options},
    counter::Counter,
    retry::{Again, Failure, Policy, Tries},
    uri::Location,
};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use forebay_types::{Code, Fingerprint};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream, stream::BoxStream};
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, LAST_MODIFIED},
};
use parking_lot::Mutex;
use std::{ops::Range, sync::Arc};

/// Longest list answer: a page of 1000 keys of 1 KiB, each byte of them encoded, with room.
const LIST_ANSWER: usize = 16 << 20;
/// Longest error document that is read.
const FAULT_ANSWER: usize = 64 << 10;

/// A bucket, or what lies below a prefix of it.
pub(crate) struct S3Store {
    bucket: Arc<Bucket>,
    list_parallel: usize,
}

/// What every request needs.
struct Bucket {
    name: String,
    /// What every key of the mount begins with in the bucket.
    base: Bytes,
    client: Arc<Client>,
    builder: RequestBuilder,
    policy: Policy,
    counter: Counter,
    /// An object that was there when [`UnderStore::alive`] looked.
    known: Mutex<Option<Bytes>>,
}

/// Opens the bucket that `location` names.
pub(crate) fn open(
    location: &Location,
    options: &Options,
    environment: &Environment,
) -> Result<S3Store> {
    let profile = Profile::load(options.profile.as_deref(), environment)?;
    let region = options
        .region
        .clone()
        .or_else(|| environment.variable("AWS_REGION"))
        .or_else(|| environment.variable("AWS_DEFAULT_REGION"))
        .or_else(|| profile.get("region"))
        .unwrap_or_else(|| "us-east-1".to_owned());
    if !region
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '-')
    {
        return Err(Error::new(
            Code::InvalidArgument,
            format!(
                "bad region '{}': write it like eu-west-1",
                region.escape_debug()
            ),
        ));
    }
    let url = options
        .endpoint
        .clone()
        .or_else(|| environment.variable("AWS_ENDPOINT_URL_S3"))
        .or_else(|| environment.variable("AWS_ENDPOINT_URL"))
        .or_else(|| profile.get("endpoint_url"));
    let endpoint = Endpoint::new(
        url.as_deref(),
        &region,
        &location.bucket,
        options.path_style,
    )?;
    let source = Source::find(options, &profile, &region, environment)?;
    let builder = RequestBuilder::new(source, &region, &endpoint)?;
    let limits = Limits {
        connect: options.connect_timeout,
        answer: options.request_timeout,
        idle: options.idle_timeout,
    };
    let bucket = Bucket {
        name: location.bucket.clone(),
        base: Bytes::copy_from_slice(location.prefix.as_bytes()),
        client: Arc::new(Client::new(endpoint, limits, options.connections)?),
        builder,
        policy: Policy::new(options.retries, options.retry_budget),
        counter: Counter::default(),
        known: Mutex::default(),
    };
    Ok(S3Store {
        bucket: Arc::new(bucket),
        list_parallel: options.list_parallel,
    })
}

impl Bucket {
    fn absolute(&self, key: &[u8]) -> Bytes {
        let mut absolute = BytesMut::with_capacity(self.base.len() + key.len());
        absolute.extend_from_slice(&self.base);
        absolute.extend_from_slice(key);
        absolute.freeze()
    }

    /// The URI of an absolute key, for messages.
    fn uri(&self, key: &[u8]) -> String {
        format!(
            "s3://{}/{}",
            self.name,
            String::from_utf8_lossy(key).escape_debug()
        )
    }

    /// The failure behind an answer that is no success.
    async fn refused(&self, asked: Asked, key: &[u8], answer: Answer) -> Failure {
        // Without its document the status must do.
        let document = answer.body.collect(FAULT_ANSWER).await.unwrap_or_default();
        let fault = xml::fault(&document);
        failure(
            asked,
            &self.uri(key),
            answer.head.status,
            &answer.head.headers,
            &fault,
        )
    }

    fn strange(&self, asked: &str, key: &[u8], why: &str) -> Failure {
        let message = format!("cannot {asked} {}: {why}", self.uri(key));
        Failure {
            error: Error::new(Code::Unsupported, message),
            again: Again::No,
        }
    }

    fn stale(&self, key: &[u8]) -> Failure {
        let message = format!("cannot read {}: the object has changed", self.uri(key));
        Failure {
            error: Error::new(Code::Stale, message),
            again: Again::No,
        }
    }

    async fn page(&self, query: &ListQuery<'_>) -> Result<Page> {
        let mut tries = Tries::default();
        loop {
            match self.try_page(query).await {
                Ok(page) => {
                    self.policy.succeeded();
                    return Ok(page);
                }
                Err(failure) => tries.next(&self.policy, failure).await?,
            }
            self.counter.retried();
        }
    }

    async fn try_page(&self, query: &ListQuery<'_>) -> Result<Page, Failure> {
        self.counter.list();
        let request = self.builder.list(query).await.map_err(Failure::last)?;
        let answer = self.client.send(request).await?;
        if answer.head.status != StatusCode::OK {
            return Err(self.refused(Asked::List, query.prefix, answer).await);
        }
        let document = answer.body.collect(LIST_ANSWER).await?;
        self.counter.bytes(document.len());
        xml::listing(&document).map_err(|bad| {
            let message = format!(
                "cannot list {}: {} sends no S3 listing: is the endpoint right?",
                self.uri(query.prefix),
                self.client.endpoint()
            );
            Failure::last(Error::caused(Code::Unsupported, message, bad))
        })
    }

    /// The question for the first object.
    fn first(&self) -> ListQuery<'_> {
        ListQuery {
            prefix: &self.base,
            max_keys: Some(1),
            ..ListQuery::default()
        }
    }

    /// Asks for the head of one object, which costs a tenth of a listing; if the answer is no (it may be gone), a listing
    /// of one key decides.
    async fn alive(&self) -> Result<(), Failure> {
        let known = self.known.lock().clone();
        if let Some(key) = known {
            match self.try_stat(&key).await {
                Err(refused) if !refused.error.code.is_transient() => {}
                answered => return answered.map(drop),
            }
        }
        let page = self.try_page(&self.first()).await?;
        let key = page.objects.into_iter().next().map(|object| object.key);
        self.known.lock().clone_from(&key);
        let Some(key) = key else {
            return Ok(());
        };
        match self.try_stat(&key).await {
            Err(mut refused) if refused.error.code == Code::PermissionDenied => {
                let allowed = " (to list is allowed, to read is not)";
                refused.error.message.push_str(allowed);
                Err(refused)
            }
            // It went meanwhile, or needs a key of its own.
            _ => Ok(()),
        }
    }

    async fn try_stat(&self, key: &Bytes) -> Result<Object, Failure> {
        if key.is_empty() {
            // The request would be about the bucket.
            let message = format!("cannot stat {}: no object has an empty key", self.uri(key));
            return Err(Failure::last(Error::new(Code::NotFound, message)));
        }
        self.counter.stat();
        let request = self.builder.head(key).await.map_err(Failure::last)?;
        let answer = self.client.send(request).await?;
        if answer.head.status != StatusCode::OK {
            return Err(self.refused(Asked::Stat, key, answer).await);
        }
        let headers = &answer.head.headers;
        let size = text(headers, CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let size = size.ok_or_else(|| self.strange("stat", key, "no Content-Length"))?;
        let (fingerprint, mtime_ns) = identity(headers, size);
        Ok(Object {
            key: key.slice(self.base.len()..),
            fingerprint,
            mtime_ns,
        })
    }

    /// The bytes `range` of an object, once the answer is proven to be of the expected content.
    async fn try_read(
        &self,
        key: &Bytes,
        range: &Range<u64>,
        expected: &Fingerprint,
    ) -> Result<HttpBody, Failure> {
        self.counter.read();
        let request = self
            .builder
            .get(key, range, &expected.etag)
            .await
            .map_err(Failure::last)?;
        let answer = self.client.send(request).await?;
        let headers = &answer.head.headers;
        let total = match answer.head.status {
            StatusCode::PARTIAL_CONTENT => {
                let content = text(headers, CONTENT_RANGE).and_then(content_range);
                let Some((sent, total)) = content else {
                    return Err(self.strange("read", key, "no Content-Range in the answer"));
                };
                // A store that ignores If-Match and has a shorter object now sends less.
                if sent != *range {
                    return Err(self.stale(key));
                }
                total
            }
            StatusCode::OK if *range == (0..expected.size) => {
                text(headers, CONTENT_LENGTH).and_then(|length| length.parse().ok())
            }
            StatusCode::OK => {
                return Err(self.strange("read", key, "the store does not serve ranges"));
            }
            _ => return Err(self.refused(Asked::Read, key, answer).await),
        };
        let (seen, _) = identity(headers, total.unwrap_or(expected.size));
        if seen.etag.is_empty() != expected.etag.is_empty() {
            return Err(self.strange("read", key, "the store sends etags now and then only"));
        }
        if seen != *expected {
            return Err(self.stale(key));
        }
        Ok(answer.body)
    }

    /// As [`Bucket::try_read`], with the tries that are left.
    async fn read(
        &self,
        key: &Bytes,
        range: &Range<u64>,
        expected: &Fingerprint,
        tries: &mut Tries,
    ) -> Result<HttpBody> {
        loop {
            match self.try_read(key, range, expected).await {
                Ok(body) => {
                    self.policy.succeeded();
                    return Ok(body);
                }
                Err(failure) => tries.next(&self.policy, failure).await?,
            }
            self.counter.retried();
        }
    }
}

/// A body on its way, with what it takes to ask for the rest of it again.
struct Reading {
    bucket: Arc<Bucket>,
    key: Bytes,
    left: Range<u64>,
    expected: Fingerprint,
    body: HttpBody,
    tries: Tries,
}

impl Reading {
    /// The next piece; `None` when all has come.
    async fn piece(&mut self) -> Result<Option<Bytes>> {
        while !self.left.is_empty() {
            let failure = match self.body.piece().await {
                Some(Ok(piece)) => {
                    let length = piece.len() as u64;
                    if length > self.left.end - self.left.start {
                        let why = "more bytes than asked for";
                        return Err(self.bucket.strange("read", &self.key, why).error);
                    }
                    self.left.start += length;
                    self.bucket.counter.bytes(piece.len());
                    self.tries.progressed();
                    return Ok(Some(piece));
                }
                Some(Err(failure)) => failure,
                None => {
                    let message = format!("the body of {} ended early", self.bucket.uri(&self.key));
                    let error = Error::new(Code::Unavailable, message);
                    Failure {
                        error,
                        again: Again::Soon,
                    }
                }
            };
            self.tries.next(&self.bucket.policy, failure).await?;
            self.bucket.counter.retried();
            let (bucket, tries) = (&self.bucket, &mut self.tries);
            self.body = bucket
                .read(&self.key, &self.left, &self.expected, tries)
                .await?;
        }
        Ok(None)
    }
}

/// The listing of one prefix.
struct Folder {
    bucket: Arc<Bucket>,
    prefix: Bytes,
    delimiter: bool,
}

impl Pages for Folder {
    fn page(
        self: Arc<Self>,
        token: Option<String>,
        start_after: Option<Bytes>,
    ) -> BoxFuture<'static, Result<Page>> {
        async move {
            let query = ListQuery {
                prefix: &self.prefix,
                delimiter: self.delimiter,
                token: token.as_deref(),
                start_after: start_after.as_deref(),
                max_keys: None,
            };
            self.bucket.page(&query).await
        }
        .boxed()
    }
}

#[async_trait]
impl UnderStore for S3Store {
    fn list(&self, prefix: &[u8], depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        let prefix = self.bucket.absolute(prefix);
        let length = prefix.len();
        let base = self.bucket.base.clone();
        let what = self.bucket.uri(&prefix);
        let bucket = self.bucket.clone();
        let folder = Folder {
            bucket,
            prefix,
            delimiter: depth == Depth::Directory,
        };
        let relative = move |what: &str, mut page: Page| {
            let keys = page
                .objects
                .iter_mut()
                .map(|o| &mut o.key)
                .chain(&mut page.prefixes);
            for key in keys {
                if !key.starts_with(&base) {
                    let why = "keys that were not asked for";
                    let message = format!("cannot list {what}: the store sends {why}");
                    return Err(Error::new(Code::Unsupported, message));
                }
                *key = key.slice(base.len()..);
            }
            Ok(ListPage {
                objects: page.objects,
                prefixes: page.prefixes,
            })
        };
        list(Arc::new(folder), length, self.list_parallel, what.clone())
            .map(move |page| relative(&what, page?))
            .boxed()
    }

    async fn stat(&self, key: &[u8]) -> Result<Object> {
        let key = self.bucket.absolute(key);
        let mut tries = Tries::default();
        loop {
            match self.bucket.try_stat(&key).await {
                Ok(object) => {
                    self.bucket.policy.succeeded();
                    return Ok(object);
                }
                Err(failure) => tries.next(&self.bucket.policy, failure).await?,
            }
            self.bucket.counter.retried();
        }
    }

    async fn read(&self, key: &[u8], range: Range<u64>, expected: &Fingerprint) -> Result<Body> {
        if range.start >= range.end || range.end > expected.size {
            return Err(Error::new(
                Code::InvalidArgument,
                format!(
                    "range {}..{} is not within {} bytes",
                    range.start, range.end, expected.size
                ),
            ));
        }
        let key = self.bucket.absolute(key);
        let mut tries = Tries::default();
        let body = self.bucket.read(&key, &range, expected, &mut tries).await?;
        let reading = Reading {
            bucket: self.bucket.clone(),
            key,
            left: range,
            expected: expected.clone(),
            body,
            tries,
        };
        let pieces = stream::try_unfold(reading, |mut reading| async move {
            let piece = reading.piece().await?;
            Ok(piece.map(|piece| (piece, reading)))
        });
        Ok(Body {
            fingerprint: expected.clone(),
            bytes: pieces.boxed(),
        })
    }

    async fn probe(&self) -> Result<()> {
        let page = self.bucket.page(&self.bucket.first()).await?;
        if page.objects.is_empty() {
            tracing::warn!(uri = %self.bucket.uri(&self.bucket.base), "no object there (yet)");
        }
        Ok(())
    }

    async fn alive(&self) -> Result<()> {
        let alive = self.bucket.alive().await;
        alive.map_err(|failure| failure.error)
    }

    fn requests(&self) -> Requests {
        self.bucket.counter.get()
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// What the headers of an answer say of the object, and its time for people.
fn identity(headers: &HeaderMap, size: u64) -> (Fingerprint, i64) {
    let etag = xml::etag(text(headers, ETAG).unwrap_or_default());
    let time = text(headers, LAST_MODIFIED).and_then(|time| {
        jiff::fmt::rfc2822::DateTimeParser::new()
            .parse_timestamp(time)
            .ok()
    });
    let time = time.map_or(0, xml::nanoseconds);
    let mtime_ns = if etag.is_empty() { time } else { 0 };
    (
        Fingerprint {
            size,
            mtime_ns,
            etag,
        },
        time,
    )
}

/// `bytes 0-9/100` as the range and, unless it is `*`, the size.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let range = first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?;
    let total = if total == "*" {
        None
    } else {
        Some(total.parse().ok()?)
    };
    Some((range, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_whole_or_not_at_all() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0..10, Some(100))));
        assert_eq!(content_range("bytes 5-5/*"), Some((5..6, None)));
        for bad in [
            "",
            "bytes */100",
            "bytes 0-/1",
            "bytes 0-18446744073709551615/1",
            "0-9/100",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_etag_makes_the_time_irrelevant() {
        let mut headers = HeaderMap::new();
        headers.insert(
            LAST_MODIFIED,
            "Wed, 21 Oct 2015 07:28:00 GMT".parse().unwrap(),
        );
        let (print, time) = identity(&headers, 5);
        assert_eq!(
            (print.mtime_ns, time),
            (1_445_412_480_000_000_000, 1_445_412_480_000_000_000)
        );
        headers.insert(ETAG, "\"e\"".parse().unwrap());
        let (print, time) = identity(&headers, 5);
        assert_eq!((print.mtime_ns, print.etag.as_str()), (0, "\"e\""));
        assert!(time > 0);
    }
}
