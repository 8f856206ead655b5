//! S3 operations over a backend.

use super::{
    After, Backend, Content, Effect, Faults, Meta, Missing, Op, Query, body::Body, fault::Struck,
    stats::Counters,
};
use bytes::BytesMut;
use futures::TryStreamExt;
use s3s::{
    S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, StdError,
    dto::{
        Bucket, CommonPrefix, DeleteObjectInput, DeleteObjectOutput, ETag, ETagCondition,
        EncodingType, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput,
        HeadObjectInput, HeadObjectOutput, ListBucketsInput, ListBucketsOutput, ListObjectsV2Input,
        ListObjectsV2Output, Object, PutObjectInput, PutObjectOutput, StreamingBlob,
    },
};
use std::sync::Arc;

/// Most keys in one page, as S3 has it.
const PAGE: i32 = 1_000;

pub(super) struct Service {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) faults: Arc<Faults>,
    pub(super) counters: Arc<Counters>,
}

impl Service {
    /// Counts the request and lets the faults have it; what is left concerns the body.
    async fn admit(&self, op: Op, key: &str) -> S3Result<Struck> {
        self.counters.request(op);
        let Some(mut struck) = self.faults.strike(op, key) else {
            return Ok(Struck::default());
        };
        self.counters.struck();
        if !struck.delay.is_zero() {
            tokio::time::sleep(struck.delay).await;
        }
        if let Some(gate) = &mut struck.hold {
            gate.opened().await;
        }
        match struck.refuse {
            Some(Effect::SlowDown) => Err(S3Error::with_message(
                S3ErrorCode::SlowDown,
                "please reduce your request rate",
            )),
            Some(Effect::AccessDenied) => Err(S3ErrorCode::AccessDenied.into()),
            Some(_) => Err(S3ErrorCode::InternalError.into()),
            None => Ok(struck),
        }
    }

    /// Asks the backend, on another thread if it may block on a disk.
    async fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Backend) -> Result<T, Missing> + Send + 'static,
    ) -> S3Result<T> {
        if !self.backend.blocks() {
            return call(&*self.backend).map_err(refusal);
        }
        let backend = Arc::clone(&self.backend);
        let answer = tokio::task::spawn_blocking(move || call(&*backend))
            .await
            .map_err(S3Error::internal_error)?;
        answer.map_err(refusal)
    }
}

fn broken(error: StdError) -> S3Error {
    S3Error::with_source(S3ErrorCode::IncompleteBody, error)
}

fn refusal(missing: Missing) -> S3Error {
    match missing {
        Missing::Bucket => S3ErrorCode::NoSuchBucket.into(),
        Missing::Key => S3ErrorCode::NoSuchKey.into(),
        Missing::ReadOnly => S3ErrorCode::MethodNotAllowed.into(),
    }
}

/// `If-Match` and `If-None-Match`.
fn check(
    meta: &Meta,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    let has = |condition: &ETagCondition| {
        condition
            .as_etag()
            .is_none_or(|etag| etag.value() == meta.etag)
    };
    if if_match.is_some_and(|condition| !has(condition)) {
        return Err(S3ErrorCode::PreconditionFailed.into());
    }
    if if_none_match.is_some_and(has) {
        return Err(S3ErrorCode::NotModified.into());
    }
    Ok(())
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let struck = self.admit(Op::Get, &input.key).await?;
        let found = {
            let (bucket, key) = (input.bucket.clone(), input.key.clone());
            self.ask(move |backend| backend.open(&bucket, &key)).await?
        };
        check(
            &found.meta,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
        )?;
        let size = found.meta.size;
        let range = match &input.range {
            Some(range) => range.check(size)?,
            None => 0..size,
        };
        let content_range = input
            .range
            .is_some()
            .then(|| format!("bytes {}-{}/{size}", range.start, range.end - 1));
        let length = range.end - range.start;
        let body = Body::new(
            found.content,
            range.clone(),
            struck
                .hold_body
                .map(|(after, gate)| (range.start + after, gate)),
            struck.cut_body.map(|after| range.start + after),
            Arc::clone(&self.counters),
        );
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(StreamingBlob::new(body)),
            content_length: Some(length as i64),
            content_range,
            e_tag: Some(ETag::Strong(found.meta.etag)),
            last_modified: Some(found.meta.mtime.into()),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        self.admit(Op::Head, &input.key).await?;
        let (bucket, key) = (input.bucket, input.key);
        let meta = self.ask(move |backend| backend.head(&bucket, &key)).await?;
        check(&meta, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(meta.size as i64),
            e_tag: Some(ETag::Strong(meta.etag)),
            last_modified: Some(meta.mtime.into()),
            ..HeadObjectOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let prefix = input.prefix.unwrap_or_default();
        self.admit(Op::List, &prefix).await?;
        let after = match &input.continuation_token {
            Some(token) => {
                let after = After::from_token(token).ok_or_else(|| {
                    S3Error::with_message(S3ErrorCode::InvalidArgument, "bad continuation token")
                })?;
                Some(after)
            }
            None => input.start_after.clone().map(After::Key),
        };
        let max_keys = input.max_keys.unwrap_or(PAGE).clamp(0, PAGE);
        let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
        let query = Query {
            prefix: prefix.clone(),
            delimiter: delimiter.clone(),
            after,
            limit: max_keys as usize,
        };
        let bucket = input.bucket.clone();
        let listing = self
            .ask(move |backend| backend.list(&bucket, &query))
            .await?;
        let url = input
            .encoding_type
            .as_ref()
            .is_some_and(|kind| kind.as_str() == EncodingType::URL);
        let text = |text: String| if url { url_encode(&text) } else { text };
        let count = listing.objects.len() + listing.prefixes.len();
        let contents = listing.objects.into_iter().map(|(key, meta)| Object {
            key: Some(text(key)),
            size: Some(meta.size as i64),
            e_tag: Some(ETag::Strong(meta.etag)),
            last_modified: Some(meta.mtime.into()),
            ..Object::default()
        });
        let common_prefixes = listing.prefixes.into_iter().map(|prefix| CommonPrefix {
            prefix: Some(text(prefix)),
        });
        Ok(S3Response::new(ListObjectsV2Output {
            contents: Some(contents.collect()),
            common_prefixes: Some(common_prefixes.collect()),
            name: Some(input.bucket),
            prefix: Some(text(prefix)),
            delimiter: delimiter.map(text),
            start_after: input.start_after.map(text),
            encoding_type: input.encoding_type,
            max_keys: Some(max_keys),
            key_count: Some(count as i32),
            continuation_token: input.continuation_token,
            is_truncated: Some(listing.next.is_some()),
            next_continuation_token: listing.next.map(|next| next.to_token()),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        self.admit(Op::Put, &input.key).await?;
        let mut bytes = BytesMut::new();
        if let Some(mut body) = input.body {
            while let Some(piece) = body.try_next().await.map_err(broken)? {
                bytes.extend_from_slice(&piece);
            }
        }
        let content = Content::from(bytes.freeze());
        let (bucket, key) = (input.bucket, input.key);
        let meta = self
            .ask(move |backend| backend.put(&bucket, &key, content))
            .await?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(ETag::Strong(meta.etag)),
            ..PutObjectOutput::default()
        }))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let DeleteObjectInput { bucket, key, .. } = req.input;
        self.admit(Op::Delete, &key).await?;
        self.ask(move |backend| backend.delete(&bucket, &key))
            .await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn head_bucket(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.admit(Op::Bucket, "").await?;
        if !self.backend.buckets().contains(&req.input.bucket) {
            return Err(S3ErrorCode::NoSuchBucket.into());
        }
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn list_buckets(
        &self,
        _: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        self.admit(Op::Bucket, "").await?;
        let buckets = self.backend.buckets().into_iter().map(|name| Bucket {
            name: Some(name),
            ..Bucket::default()
        });
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            ..ListBucketsOutput::default()
        }))
    }
}

/// As S3 does it for `encoding-type=url`: form encoding (a space becomes `+`), but `/` stays.
fn url_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => {
                out.push(byte as char);
            }
            b' ' => out.push('+'),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(HEX[usize::from(byte >> 4)] as char);
                out.push(HEX[usize::from(byte & 15)] as char);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_as_s3_encodes_them() {
        assert_eq!(url_encode("a b/ü+%\u{1}"), "a+b/%C3%BC%2B%25%01");
    }
}
