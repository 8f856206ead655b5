//! GCS and Azure through object_store.
//!
//! Its limits are this adapter's: keys must be UTF-8 without empty, `.` and `..` segments, and a
//! listing that meets such a key fails as a whole, with a message that says so. Listings are not
//! split. A ranged read carries `If-Match`, and is begun again where it broke off.

use crate::{
    Body, Depth, Error, ListPage, Object, Requests, Result, UnderStore,
    config::Options,
    counter::Counter,
    uri::{Location, Scheme},
};
use async_trait::async_trait;
use bytes::Bytes;
use forebay_types::{Code, Fingerprint};
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, RetryConfig,
    azure::MicrosoftAzureBuilder, gcp::GoogleCloudStorageBuilder, path::Path,
};
use std::{ops::Range, sync::Arc, time::Duration};

/// Entries of one piece of a recursive listing.
const PAGE: usize = 1000;

/// A bucket or container, or what lies below a prefix of it. Clones share the counters.
#[derive(Clone)]
pub(crate) struct CloudStore {
    store: Arc<dyn ObjectStore>,
    /// `gs://bucket/`, for messages.
    name: String,
    /// What every key of the mount begins with.
    base: String,
    retries: u32,
    counter: Arc<Counter>,
}

/// Opens the bucket or container that `location` names.
pub(crate) fn open(location: &Location, options: &Options) -> Result<CloudStore> {
    let retry = RetryConfig {
        max_retries: options.retries as usize,
        retry_timeout: Duration::from_mins(1),
        ..RetryConfig::default()
    };
    let plain = options
        .endpoint
        .as_deref()
        .is_some_and(|url| url.starts_with("http://"));
    let client = ClientOptions::new()
        .with_connect_timeout(options.connect_timeout)
        .with_timeout(options.request_timeout)
        .with_allow_http(plain);
    let bad = |e| {
        let name = location.scheme.as_str();
        let message = format!("cannot use {name}://{}", location.bucket);
        Error::caused(Code::InvalidArgument, message, e)
    };
    let store: Arc<dyn ObjectStore> = if location.scheme == Scheme::Az {
        let mut builder = MicrosoftAzureBuilder::from_env()
            .with_container_name(&location.bucket)
            .with_retry(retry)
            .with_client_options(client)
            .with_allow_http(plain);
        if options.anonymous {
            builder = builder.with_skip_signature(true);
        }
        if let Some(account) = &options.account {
            builder = builder.with_account(account);
        }
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        Arc::new(builder.build().map_err(bad)?)
    } else {
        let mut builder = GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(&location.bucket)
            .with_retry(retry)
            .with_client_options(client);
        if options.anonymous {
            builder = builder.with_skip_signature(true);
        }
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_base_url(endpoint);
        }
        Arc::new(builder.build().map_err(bad)?)
    };
    Ok(CloudStore {
        store,
        name: format!("{}://{}/", location.scheme.as_str(), location.bucket),
        base: location.prefix.clone(),
        retries: options.retries,
        counter: Arc::default(),
    })
}

impl CloudStore {
    /// The object's path, if object_store can name it.
    fn path(&self, key: &[u8]) -> Result<Path> {
        let text = std::str::from_utf8(key)
            .ok()
            .filter(|key| !key.ends_with('/'));
        let path = text.and_then(|key| Path::parse(format!("{}{key}", self.base)).ok());
        path.ok_or_else(|| {
            Error::new(
                Code::Unsupported,
                format!(
                    "cannot name '{}' at {}: empty, '.' and '..' segments are not supported there",
                    key.escape_ascii(),
                    self.name
                ),
            )
        })
    }

    fn failed(&self, verb: &str, key: &[u8], error: object_store::Error) -> Error {
        use object_store::Error as E;
        let mut hint = "";
        let code = match &error {
            E::NotFound { .. } if verb == "read" => Code::Stale,
            E::NotFound { .. } => Code::NotFound,
            E::Precondition { .. } => Code::Stale,
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                hint = ": check the credentials in the environment, or mount with anonymous=true if the bucket is public";
                Code::PermissionDenied
            }
            E::InvalidPath { .. } => {
                hint = ": a key has an empty, '.' or '..' segment, which is not supported there";
                Code::Unsupported
            }
            E::NotSupported { .. } | E::NotImplemented { .. } => Code::Unsupported,
            _ => Code::Unavailable,
        };
        let message = format!(
            "cannot {verb} {}{}{}{hint}",
            self.name,
            self.base,
            key.escape_ascii()
        );
        Error::caused(code, message, error)
    }

    fn object(&self, meta: &ObjectMeta) -> Result<Object> {
        let key = meta
            .location
            .as_ref()
            .strip_prefix(&self.base)
            .ok_or_else(|| {
                let message = format!("{} lists keys that were not asked for", self.name);
                Error::new(Code::Unsupported, message)
            })?;
        Ok(Object {
            key: Bytes::copy_from_slice(key.as_bytes()),
            fingerprint: fingerprint(meta),
            mtime_ns: time(meta),
        })
    }

    async fn directory(&self, prefix: &[u8]) -> Result<ListPage> {
        let folder = self.folder(prefix)?;
        let listed = self.store.list_with_delimiter(folder.as_ref()).await;
        let listed = listed.map_err(|e| self.failed("list", prefix, e))?;
        let objects = listed
            .objects
            .iter()
            .map(|meta| self.object(meta))
            .collect::<Result<_>>()?;
        let below = |path: &Path| {
            let key = path.as_ref().strip_prefix(&self.base).unwrap_or_default();
            Bytes::from(format!("{key}/"))
        };
        Ok(ListPage {
            objects,
            prefixes: listed.common_prefixes.iter().map(below).collect(),
        })
    }

    fn folder(&self, prefix: &[u8]) -> Result<Option<Path>> {
        let folder = match prefix.strip_suffix(b"/").unwrap_or(prefix) {
            b"" if self.base.is_empty() => return Ok(None),
            b"" => Path::parse(self.base.trim_end_matches('/')).map_err(|e| {
                Error::caused(
                    Code::Unsupported,
                    format!("cannot list {}{}", self.name, self.base),
                    e,
                )
            })?,
            folder => self.path(folder)?,
        };
        Ok(Some(folder))
    }

    /// A ranged read that has begun, and the object as the answer describes it.
    async fn open(
        &self,
        key: &[u8],
        range: Range<u64>,
        expected: &Fingerprint,
    ) -> Result<BoxStream<'static, object_store::Result<Bytes>>> {
        self.counter.read();
        let options = GetOptions {
            if_match: Some(expected.etag.clone()).filter(|etag| !etag.is_empty()),
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let got = self.store.get_opts(&self.path(key)?, options).await;
        let got = got.map_err(|e| self.failed("read", key, e))?;
        if fingerprint(&got.meta) != *expected || got.range != range {
            let message = format!(
                "cannot read {}{}{}: the object has changed",
                self.name,
                self.base,
                key.escape_ascii()
            );
            return Err(Error::new(Code::Stale, message));
        }
        Ok(got.into_stream())
    }
}

fn time(meta: &ObjectMeta) -> i64 {
    meta.last_modified.timestamp_nanos_opt().unwrap_or(0)
}

fn fingerprint(meta: &ObjectMeta) -> Fingerprint {
    let etag = meta.e_tag.clone().unwrap_or_default();
    // Headers know seconds only; what a listing says beyond them would never compare equal.
    let seconds = meta.last_modified.timestamp().saturating_mul(1_000_000_000);
    let mtime_ns = if etag.is_empty() { seconds } else { 0 };
    Fingerprint {
        size: meta.size,
        mtime_ns,
        etag,
    }
}

#[async_trait]
impl UnderStore for CloudStore {
    fn list(&self, prefix: &[u8], depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        self.counter.list();
        let (store, prefix) = (self.clone(), prefix.to_vec());
        if depth == Depth::Directory {
            return stream::once(async move { store.directory(&prefix).await }).boxed();
        }
        let folder = match self.folder(&prefix) {
            Ok(folder) => folder,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        self.store
            .list(folder.as_ref())
            .map(move |meta| store.object(&meta.map_err(|e| store.failed("list", &prefix, e))?))
            .try_chunks(PAGE)
            .map(|chunk| match chunk {
                Ok(objects) => Ok(ListPage {
                    objects,
                    prefixes: Vec::new(),
                }),
                Err(error) => Err(error.1),
            })
            .boxed()
    }

    async fn stat(&self, key: &[u8]) -> Result<Object> {
        self.counter.stat();
        let meta = self.store.head(&self.path(key)?).await;
        self.object(&meta.map_err(|e| self.failed("stat", key, e))?)
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
        let body = self.open(key, range.clone(), expected).await?;
        let reading = Reading {
            store: self.clone(),
            key: key.to_vec(),
            left: range,
            expected: expected.clone(),
            body,
            tries: self.retries,
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
        self.counter.list();
        let folder = self.folder(b"")?;
        let first = self.store.list(folder.as_ref()).try_next().await;
        first.map(|_| ()).map_err(|e| self.failed("list", b"", e))
    }

    fn requests(&self) -> Requests {
        self.counter.get()
    }
}

/// A body on its way, with what it takes to ask for the rest of it again.
struct Reading {
    store: CloudStore,
    key: Vec<u8>,
    left: Range<u64>,
    expected: Fingerprint,
    body: BoxStream<'static, object_store::Result<Bytes>>,
    tries: u32,
}

impl Reading {
    async fn piece(&mut self) -> Result<Option<Bytes>> {
        while !self.left.is_empty() {
            let error = match self.body.next().await {
                Some(Ok(piece)) => {
                    self.left.start += piece.len() as u64;
                    self.store.counter.bytes(piece.len());
                    return Ok(Some(piece));
                }
                Some(Err(error)) => self.store.failed("read", &self.key, error),
                None => {
                    let message = format!(
                        "the body of {}{} ended early",
                        self.store.name,
                        self.key.escape_ascii()
                    );
                    Error::new(Code::Unavailable, message)
                }
            };
            if self.tries == 0 || !error.code().is_transient() {
                return Err(error);
            }
            self.tries -= 1;
            self.store.counter.retried();
            self.body = self
                .store
                .open(&self.key, self.left.clone(), &self.expected)
                .await?;
        }
        Ok(None)
    }
}
