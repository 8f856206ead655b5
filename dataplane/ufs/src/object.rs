//! GCS and Azure through object_store.
//!
//! Its limits are this adapter's: keys must be UTF-8 without control characters and without empty,
//! `.` and `..` segments, and a listing that meets another key fails as a whole, with a message
//! that says so; of a key with a `/` at its end (a folder marker) the listing shows the key without
//! it. Listings are not split. A ranged read carries `If-Match`, and is begun again where it broke
//! off.

use crate::{
    Body, Depth, Error, ListPage, Object, Requests, Result, UnderStore,
    config::{Options, missing},
    counter::Counter,
    uri::{Location, Scheme},
};
use async_trait::async_trait;
use bytes::Bytes;
use forebay_types::{Code, Credentials, Fingerprint};
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, RetryConfig,
    azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder,
    list::{PaginatedListOptions, PaginatedListStore},
    path::Path,
};
use std::{error::Error as _, ops::Range, sync::Arc, time::Duration};

/// A bucket or container, or what lies below a prefix of it. Clones share the counters.
#[derive(Clone)]
pub(crate) struct CloudStore {
    objects: Arc<dyn ObjectStore>,
    /// The same store: its listings.
    pages: Arc<dyn PaginatedListStore>,
    /// `gs://bucket/`, for messages.
    name: String,
    /// What every key of the mount begins with.
    base: String,
    retries: u32,
    counter: Arc<Counter>,
}

/// Most entries of one [`ListPage`].
const PAGE: usize = 1000;

/// One store, seen in two ways.
type Handles = (Arc<dyn ObjectStore>, Arc<dyn PaginatedListStore>);

/// Opens the bucket or container that `location` names, with `credentials` if they are given, else with what the
/// process has.
pub(crate) fn open(
    location: &Location,
    options: &Options,
    credentials: Option<&Credentials>,
) -> Result<CloudStore> {
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
        .with_timeout_disabled()
        .with_read_timeout(options.request_timeout)
        .with_allow_http(plain);
    let bad = |e| {
        let name = location.scheme.as_str();
        let message = format!("cannot use {name}://{}", location.bucket);
        Error::caused(Code::InvalidArgument, message, e)
    };
    let (objects, pages): Handles = if location.scheme == Scheme::Az {
        let mut builder = match credentials {
            Some(given) => MicrosoftAzureBuilder::new()
                .with_access_key(required(given, "AZURE_STORAGE_ACCOUNT_KEY")?),
            None => MicrosoftAzureBuilder::from_env(),
        }
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
        let store = Arc::new(builder.build().map_err(bad)?);
        (store.clone(), store)
    } else {
        let mut builder = match credentials {
            Some(given) => GoogleCloudStorageBuilder::new()
                .with_service_account_key(required(given, "GOOGLE_SERVICE_ACCOUNT_KEY")?),
            None => GoogleCloudStorageBuilder::from_env(),
        }
        .with_bucket_name(&location.bucket)
        .with_retry(retry)
        .with_client_options(client);
        if options.anonymous {
            builder = builder.with_skip_signature(true);
        }
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_base_url(endpoint);
        }
        let store = Arc::new(builder.build().map_err(bad)?);
        (store.clone(), store)
    };
    Ok(CloudStore {
        objects,
        pages,
        name: format!("{}://{}/", location.scheme.as_str(), location.bucket),
        base: location.prefix.clone(),
        retries: options.retries,
        counter: Arc::default(),
    })
}

/// A credential without which the store cannot be entered.
fn required<'a>(credentials: &'a Credentials, name: &str) -> Result<&'a str> {
    credentials.get(name).ok_or_else(|| missing(name))
}

impl CloudStore {
    /// The object's path, if object_store can name it.
    fn path(&self, key: &[u8]) -> Result<Path> {
        let text = std::str::from_utf8(key)
            .ok()
            .map(|key| format!("{}{key}", self.base));
        // Slashes at the ends would silently be dropped.
        let text = text.filter(|key| !key.ends_with('/') && !key.starts_with('/'));
        let path = text.and_then(|key| Path::parse(key).ok());
        path.ok_or_else(|| {
            Error::new(
                Code::Unsupported,
                format!(
                    "cannot name '{}' at {}: empty, '.' and '..' segments and control characters are not supported there",
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
            // Ranges lie within the object as it was: it has become shorter.
            E::Generic { .. } if verb == "read" && beyond_the_end(&error) => Code::Stale,
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                hint = ": check the credentials in the environment, or mount with anonymous=true if the bucket is public";
                Code::PermissionDenied
            }
            E::InvalidPath { .. } => {
                hint = ": a key there has an empty, '.' or '..' segment or a control character, which is not supported";
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

    /// A page of a listing, and the token of the next.
    async fn page(
        &self,
        prefix: &[u8],
        depth: Depth,
        token: Option<String>,
    ) -> Result<(ListPage, Option<String>)> {
        self.counter.list();
        let text = std::str::from_utf8(prefix).map_err(|e| {
            let message = format!("cannot list {}: the prefix is not UTF-8", self.name);
            Error::caused(Code::Unsupported, message, e)
        })?;
        let full = format!("{}{text}", self.base);
        let options = PaginatedListOptions {
            delimiter: (depth == Depth::Directory).then_some("/".into()),
            page_token: token,
            ..PaginatedListOptions::default()
        };
        let prefix_of_all = Some(full.as_str()).filter(|full| !full.is_empty());
        let listed = self.pages.list_paginated(prefix_of_all, options).await;
        let listed = listed.map_err(|e| self.failed("list", prefix, e))?;
        // The marker of the prefix itself comes back without its slash: it says nothing.
        let below = |path: &Path| path.as_ref().len() + 1 > full.len();
        let objects = listed
            .result
            .objects
            .iter()
            .filter(|meta| below(&meta.location));
        let objects = objects
            .map(|meta| self.object(meta))
            .collect::<Result<_>>()?;
        let prefixes = listed.result.common_prefixes.iter().map(|path| {
            let key = path.as_ref().strip_prefix(&self.base).unwrap_or_default();
            Bytes::from(format!("{key}/"))
        });
        let page = ListPage {
            objects,
            prefixes: prefixes.collect(),
        };
        Ok((page, listed.page_token))
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
        let got = self.objects.get_opts(&self.path(key)?, options).await;
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

/// A page of the service as pages that keep to [`PAGE`]: Azure sends 5000 entries at a time.
fn pieces(page: ListPage) -> impl Iterator<Item = Result<ListPage>> {
    let (mut objects, mut prefixes) = (page.objects.into_iter(), page.prefixes.into_iter());
    std::iter::from_fn(move || {
        let objects: Vec<_> = objects.by_ref().take(PAGE).collect();
        let prefixes: Vec<_> = prefixes.by_ref().take(PAGE - objects.len()).collect();
        let some = !objects.is_empty() || !prefixes.is_empty();
        some.then_some(Ok(ListPage { objects, prefixes }))
    })
}

/// Whether the service answered 416. object_store tells the status in its text only.
fn beyond_the_end(error: &object_store::Error) -> bool {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let mut texts = causes.map(ToString::to_string);
    texts.any(|text| text.starts_with("Server returned non-2xx status code: 416"))
}

fn time(meta: &ObjectMeta) -> i64 {
    meta.last_modified.timestamp_nanos_opt().unwrap_or(0)
}

fn fingerprint(meta: &ObjectMeta) -> Fingerprint {
    let mut etag = meta.e_tag.clone().unwrap_or_default();
    // Azure's listings leave out the quotes that its headers have.
    if !etag.is_empty() && !etag.ends_with('"') {
        etag = format!("\"{etag}\"");
    }
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
        let (store, prefix) = (self.clone(), prefix.to_vec());
        // `Some(None)`: from the beginning; `None`: at the end.
        let pages = stream::try_unfold(Some(None), move |token| {
            let (store, prefix) = (store.clone(), prefix.clone());
            async move {
                let Some(token) = token else { return Ok(None) };
                let (page, next) = store.page(&prefix, depth, token).await?;
                Ok(Some((stream::iter(pieces(page)), next.map(Some))))
            }
        });
        pages.try_flatten().boxed()
    }

    async fn stat(&self, key: &[u8]) -> Result<Object> {
        self.counter.stat();
        let meta = self.objects.head(&self.path(key)?).await;
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
        self.page(b"", Depth::Directory, None).await.map(|_| ())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Keys, Put};
    use futures::FutureExt as _;
    use object_store::{ListResult, list::PaginatedListResult, memory::InMemory};
    use std::collections::BTreeSet;

    /// Pages over object_store's own store in memory, which has none.
    struct Pages(Arc<InMemory>);

    #[async_trait]
    impl PaginatedListStore for Pages {
        async fn list_paginated(
            &self,
            prefix: Option<&str>,
            options: PaginatedListOptions,
        ) -> object_store::Result<PaginatedListResult> {
            let all: Vec<ObjectMeta> = self.0.list(None).try_collect().await?;
            let prefix = prefix.unwrap_or_default();
            let (mut objects, mut folders) = (Vec::new(), BTreeSet::new());
            for meta in all {
                let Some(rest) = meta.location.as_ref().strip_prefix(prefix) else {
                    continue;
                };
                match rest.split_once('/').filter(|_| options.delimiter.is_some()) {
                    Some((folder, _)) => {
                        folders.insert(Path::parse(format!("{prefix}{folder}"))?);
                    }
                    None => objects.push(meta),
                }
            }
            let from = options.page_token.map_or(0, |token| token.parse().unwrap());
            let to = objects.len().min(from + 1000);
            let page_token = (to < objects.len()).then(|| to.to_string());
            let common_prefixes = if from == 0 {
                folders.into_iter().collect()
            } else {
                vec![]
            };
            let objects = objects[from..to].to_vec();
            let result = ListResult {
                common_prefixes,
                objects,
                extensions: http::Extensions::default(),
            };
            Ok(PaginatedListResult { result, page_token })
        }
    }

    fn store(base: &str) -> (Arc<InMemory>, CloudStore) {
        let memory = Arc::new(InMemory::new());
        let store = CloudStore {
            objects: memory.clone(),
            pages: Arc::new(Pages(memory.clone())),
            name: "gs://bucket/".to_owned(),
            base: base.to_owned(),
            retries: 0,
            counter: Arc::default(),
        };
        (memory, store)
    }

    #[tokio::test]
    async fn the_adapter_passes_the_suite() {
        let (memory, store) = store("some/base/");
        let put: Put = Arc::new(move |key, content| {
            let (memory, path) = (memory.clone(), Path::parse(format!("some/base/{key}")));
            async move {
                memory.put(&path.unwrap(), content.into()).await.unwrap();
            }
            .boxed()
        });
        conformance::run(Arc::new(store), put, Keys::Paths).await;
    }

    #[test]
    fn an_etag_without_quotes_is_the_same_as_with_them() {
        let meta = |etag: &str| ObjectMeta {
            location: Path::default(),
            last_modified: std::time::UNIX_EPOCH.into(),
            size: 1,
            e_tag: Some(etag.to_owned()),
            version: None,
        };
        assert_eq!(fingerprint(&meta("0x8D")), fingerprint(&meta("\"0x8D\"")));
        assert_eq!(fingerprint(&meta("W/\"1\"")).etag, "W/\"1\"");
    }

    #[test]
    fn a_large_page_comes_in_pieces() {
        let prefixes: Vec<_> = (0..2500).map(|i| Bytes::from(format!("{i:05}/"))).collect();
        let page = ListPage {
            objects: vec![],
            prefixes: prefixes.clone(),
        };
        let pieces: Vec<_> = pieces(page).map(|piece| piece.unwrap().prefixes).collect();
        assert_eq!(
            pieces.iter().map(Vec::len).collect::<Vec<_>>(),
            [1000, 1000, 500]
        );
        assert_eq!(pieces.concat(), prefixes);
    }

    #[tokio::test]
    async fn keys_that_cannot_be_named_are_said_to_be_unsupported() {
        let (_, store) = store("");
        for key in ["/a", "a//b", "a/../b", "a/"] {
            let error = store.stat(key.as_bytes()).await.unwrap_err();
            assert_eq!(error.code(), Code::Unsupported, "{error}");
            assert!(error.message.contains("are not supported"), "{error}");
        }
    }

    #[test]
    fn both_clouds_open_without_credentials_if_anonymous() {
        crate::config::provider();
        for (uri, more) in [("gs://b/p", None), ("az://c/p", Some(("account", "a")))] {
            let mut given = std::collections::BTreeMap::new();
            given.insert("anonymous".to_owned(), "true".to_owned());
            given.extend(more.map(|(k, v)| (k.to_owned(), v.to_owned())));
            let location = Location::parse(uri).unwrap();
            let options = Options::parse(location.scheme, &given).unwrap();
            assert_eq!(open(&location, &options, None).unwrap().base, "p/");
        }
    }
}
