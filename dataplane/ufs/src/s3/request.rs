//! Requests: path, query, headers, signature.

use super::{
    credential::Source,
    encode::{push_path, push_query},
    endpoint::Endpoint,
    sign::Signer,
};
use crate::{Error, Result};
use bytes::Bytes;
use forebay_types::Code;
use http::{
    HeaderMap, HeaderValue, Method, Request, Uri,
    header::{HOST, IF_MATCH, RANGE, USER_AGENT},
};
use http_body_util::Empty;
use jiff::Timestamp;
use std::ops::Range;

/// Builds the requests to one bucket. No Debug: it holds credentials.
pub(crate) struct Requests {
    source: Source,
    signer: Signer,
    host: HeaderValue,
    /// What the path of every key begins with.
    base: String,
}

/// One page of a listing.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListQuery<'a> {
    pub(crate) prefix: &'a [u8],
    /// Fold what lies below the next `/`.
    pub(crate) delimiter: bool,
    pub(crate) token: Option<&'a str>,
    pub(crate) start_after: Option<&'a [u8]>,
    pub(crate) max_keys: Option<u32>,
}

impl ListQuery<'_> {
    /// The query string, its names in order as signatures want them.
    fn to_query(&self) -> String {
        let mut query = String::with_capacity(200);
        if let Some(token) = self.token {
            push_query(&mut query, "continuation-token", token.as_bytes());
        }
        if self.delimiter {
            push_query(&mut query, "delimiter", b"/");
        }
        push_query(&mut query, "encoding-type", b"url");
        push_query(&mut query, "list-type", b"2");
        if let Some(max) = self.max_keys {
            push_query(&mut query, "max-keys", max.to_string().as_bytes());
        }
        push_query(&mut query, "prefix", self.prefix);
        if let Some(after) = self.start_after {
            push_query(&mut query, "start-after", after);
        }
        query
    }
}

impl Requests {
    pub(crate) fn new(source: Source, region: &str, endpoint: &Endpoint) -> Result<Requests> {
        let authority = endpoint.authority();
        let host = HeaderValue::try_from(&authority).map_err(|e| {
            Error::caused(Code::InvalidArgument, format!("bad host '{authority}'"), e)
        })?;
        let signer = Signer::new(region, authority);
        Ok(Requests {
            source,
            signer,
            host,
            base: endpoint.base.clone(),
        })
    }

    pub(crate) async fn list(&self, query: &ListQuery<'_>) -> Result<Request<Empty<Bytes>>> {
        let path = match self.base.trim_end_matches('/') {
            "" => "/",
            path => path,
        };
        self.build(Method::GET, path, &query.to_query(), HeaderMap::new())
            .await
    }

    pub(crate) async fn head(&self, key: &[u8]) -> Result<Request<Empty<Bytes>>> {
        self.build(Method::HEAD, &self.path(key), "", HeaderMap::new())
            .await
    }

    /// The bytes `range` of `key` if it still has `etag`.
    pub(crate) async fn get(
        &self,
        key: &[u8],
        range: &Range<u64>,
        etag: &str,
    ) -> Result<Request<Empty<Bytes>>> {
        let mut headers = HeaderMap::with_capacity(8);
        let text = format!("bytes={}-{}", range.start, range.end - 1);
        headers.insert(RANGE, HeaderValue::try_from(text).expect("digits"));
        // A weak tag never matches here (RFC 9110, 13.1.1): only the answer's tag can be compared.
        if !etag.is_empty() && !etag.starts_with("W/") {
            let value = HeaderValue::try_from(etag).map_err(|_| {
                Error::new(
                    Code::InvalidArgument,
                    "the etag holds characters no header can carry",
                )
            })?;
            headers.insert(IF_MATCH, value);
        }
        self.build(Method::GET, &self.path(key), "", headers).await
    }

    fn path(&self, key: &[u8]) -> String {
        let mut path = String::with_capacity(self.base.len() + key.len() + 16);
        path.push_str(&self.base);
        push_path(&mut path, key);
        path
    }

    async fn build(
        &self,
        method: Method,
        path: &str,
        query: &str,
        mut headers: HeaderMap,
    ) -> Result<Request<Empty<Bytes>>> {
        if let Some(credential) = self.source.get().await? {
            let now = Timestamp::now();
            let signed =
                self.signer
                    .sign(&mut headers, &credential, method.as_str(), path, query, now);
            signed.map_err(|e| Error::caused(Code::InvalidArgument, "cannot sign a request", e))?;
        }
        headers.insert(HOST, self.host.clone());
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("forebay/", env!("CARGO_PKG_VERSION"))),
        );
        let target = if query.is_empty() {
            Uri::try_from(path)
        } else {
            Uri::try_from(format!("{path}?{query}"))
        };
        // Longer than 64 KiB, which no key of S3 is.
        let target = target.map_err(|e| {
            Error::caused(Code::InvalidArgument, "the key makes no request path", e)
        })?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        *request.uri_mut() = target;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(endpoint: Option<&str>) -> Requests {
        let endpoint = Endpoint::new(endpoint, "us-east-1", "buck", None).unwrap();
        Requests::new(Source::Anonymous, "us-east-1", &endpoint).unwrap()
    }

    #[tokio::test]
    async fn keys_reach_the_wire_as_they_are() {
        let own = requests(Some("http://h:1"));
        for (key, path) in [
            ("a/../b//c/", "/buck/a/../b//c/"),
            ("./.", "/buck/./."),
            ("", "/buck/"),
            ("//", "/buck///"),
            ("a%2F+ ?#", "/buck/a%252F%2B%20%3F%23"),
        ] {
            assert_eq!(
                own.head(key.as_bytes()).await.unwrap().uri().to_string(),
                path
            );
        }
        let aws = requests(None).get(b"//k", &(5..10), "\"e\"").await.unwrap();
        assert_eq!(aws.uri().path(), "///k");
        assert_eq!(aws.headers()[HOST], "buck.s3.us-east-1.amazonaws.com");
        assert_eq!(
            (&aws.headers()[RANGE], &aws.headers()[IF_MATCH]),
            (
                &HeaderValue::from_static("bytes=5-9"),
                &HeaderValue::from_static("\"e\"")
            )
        );
        let weak = requests(None).get(b"k", &(0..1), "W/\"e\"").await.unwrap();
        assert!(!weak.headers().contains_key(IF_MATCH));
    }

    #[tokio::test]
    async fn a_list_request_has_its_names_in_order() {
        let query = ListQuery {
            prefix: b"a/",
            delimiter: true,
            token: Some("t="),
            start_after: Some(b"a/b"),
            max_keys: Some(1),
        };
        let request = requests(Some("http://h:1")).list(&query).await.unwrap();
        assert_eq!(
            request.uri().to_string(),
            "/buck?continuation-token=t%3D&delimiter=%2F&encoding-type=url&list-type=2&max-keys=1&prefix=a%2F&start-after=a%2Fb"
        );
        let request = requests(None).list(&ListQuery::default()).await.unwrap();
        assert_eq!(
            request.uri().to_string(),
            "/?encoding-type=url&list-type=2&prefix="
        );
    }
}
