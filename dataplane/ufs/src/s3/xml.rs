//! What S3 says in XML: listings and errors.

use crate::Object;
use bytes::Bytes;
use forebay_types::Fingerprint;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use quick_xml::{Reader, events::Event};

/// One answer to a list request. Keys are absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// In the store's order.
    pub(crate) objects: Vec<Object>,
    /// In the store's order.
    pub(crate) prefixes: Vec<Bytes>,
    /// The continuation token, if there is more.
    pub(crate) next: Option<String>,
}

/// An error document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: String,
    pub(crate) message: String,
    /// The region that would be right.
    pub(crate) region: Option<String>,
}

/// An answer that is not what S3 would send.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadAnswer {
    #[error("it is no XML")]
    Xml(#[from] quick_xml::Error),
    #[error("its text has a broken encoding")]
    Encoding(#[from] quick_xml::encoding::EncodingError),
    #[error("it is no ListBucketResult")]
    NoListing,
    #[error("'{0}' is no {1}")]
    Value(String, &'static str),
    #[error("it is cut short, but has no continuation token")]
    NoToken,
}

/// The elements that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Listing,
    Contents,
    Key,
    LastModified,
    Etag,
    Size,
    CommonPrefixes,
    Prefix,
    IsTruncated,
    NextContinuationToken,
    EncodingType,
    Error,
    Code,
    Message,
    Region,
    Other,
}

impl Tag {
    fn of(name: &[u8]) -> Tag {
        match name {
            b"ListBucketResult" => Tag::Listing,
            b"Contents" => Tag::Contents,
            b"Key" => Tag::Key,
            b"LastModified" => Tag::LastModified,
            b"ETag" => Tag::Etag,
            b"Size" => Tag::Size,
            b"CommonPrefixes" => Tag::CommonPrefixes,
            b"Prefix" => Tag::Prefix,
            b"IsTruncated" => Tag::IsTruncated,
            b"NextContinuationToken" => Tag::NextContinuationToken,
            b"EncodingType" => Tag::EncodingType,
            b"Error" => Tag::Error,
            b"Code" => Tag::Code,
            b"Message" => Tag::Message,
            b"Region" => Tag::Region,
            _ => Tag::Other,
        }
    }
}

/// Walks `document`: at the end of each element calls `visit` with its path, root first, and the
/// text since its start or its last child. Returns the root.
fn walk(
    document: &[u8],
    mut visit: impl FnMut(&[Tag], &mut String) -> Result<(), BadAnswer>,
) -> Result<Option<Tag>, BadAnswer> {
    let mut reader = Reader::from_reader(document);
    let mut root = None;
    let mut path = Vec::with_capacity(4);
    let mut text = String::new();
    loop {
        match reader.read_event()? {
            Event::Start(start) => {
                let tag = Tag::of(start.local_name().into_inner());
                root.get_or_insert(tag);
                path.push(tag);
                text.clear();
            }
            Event::End(_) => {
                visit(&path, &mut text)?;
                text.clear();
                path.pop();
            }
            Event::Text(piece) => text.push_str(&piece.decode()?),
            Event::CData(piece) => text.push_str(&piece.decode()?),
            Event::GeneralRef(reference) => match reference.resolve_char_ref()? {
                Some(character) => text.push(character),
                None => match quick_xml::escape::resolve_predefined_entity(&reference.decode()?) {
                    Some(entity) => text.push_str(entity),
                    None => return Err(BadAnswer::Value(reference.decode()?.into(), "entity")),
                },
            },
            Event::Eof => return Ok(root),
            _ => {}
        }
    }
}

/// Reads a ListObjectsV2 answer.
pub(crate) fn listing(document: &[u8]) -> Result<Page, BadAnswer> {
    let mut page = Page::default();
    let mut truncated = false;
    let mut encoded = false;
    let blank = || Object {
        key: Bytes::new(),
        fingerprint: Fingerprint::default(),
        mtime_ns: 0,
    };
    let mut object = blank();
    let root = walk(document, |path, text| {
        match path {
            [Tag::Listing, Tag::Contents] => {
                page.objects.push(std::mem::replace(&mut object, blank()));
            }
            [Tag::Listing, Tag::Contents, field] => set(&mut object, *field, text)?,
            [Tag::Listing, Tag::CommonPrefixes, Tag::Prefix] => {
                page.prefixes.push(std::mem::take(text).into());
            }
            [Tag::Listing, Tag::IsTruncated] => truncated = text.trim() == "true",
            [Tag::Listing, Tag::NextContinuationToken] => page.next = Some(std::mem::take(text)),
            [Tag::Listing, Tag::EncodingType] => encoded = text.trim() == "url",
            _ => {}
        }
        Ok(())
    })?;
    if root != Some(Tag::Listing) {
        return Err(BadAnswer::NoListing);
    }
    match (truncated, &page.next) {
        (true, None) => return Err(BadAnswer::NoToken),
        (false, Some(_)) => page.next = None,
        _ => {}
    }
    if encoded {
        page.objects
            .iter_mut()
            .for_each(|object| decode(&mut object.key));
        page.prefixes.iter_mut().for_each(decode);
    }
    for object in &mut page.objects {
        if object.fingerprint.etag.is_empty() {
            object.fingerprint.mtime_ns = object.mtime_ns;
        }
    }
    Ok(page)
}

fn set(object: &mut Object, field: Tag, text: &mut String) -> Result<(), BadAnswer> {
    let bad = |what| BadAnswer::Value(text.clone(), what);
    match field {
        Tag::Key => object.key = std::mem::take(text).into(),
        Tag::Size => object.fingerprint.size = text.trim().parse().map_err(|_| bad("size"))?,
        Tag::Etag => object.fingerprint.etag = etag(text),
        Tag::LastModified => {
            let time: Timestamp = text.trim().parse().map_err(|_| bad("time"))?;
            object.mtime_ns = nanoseconds(time);
        }
        _ => {}
    }
    Ok(())
}

pub(crate) fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(0)
}

/// An entity tag as headers carry it. Some stores leave the quotes out in listings.
pub(crate) fn etag(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.starts_with('"') || text.starts_with("W/") {
        text.to_owned()
    } else {
        format!("\"{text}\"")
    }
}

/// Undoes `encoding-type=url`: as in forms, a `+` is a space.
fn decode(key: &mut Bytes) {
    if !key.iter().any(|b| matches!(b, b'%' | b'+')) {
        return;
    }
    // Percent-encoded text is ASCII; a store that sends more has broken its word, not our memory.
    let text = String::from_utf8_lossy(key).replace('+', " ");
    *key = percent_decode_str(&text).collect::<Vec<u8>>().into();
}

/// Reads an error document; whatever is not one gives an empty code.
pub(crate) fn fault(document: &[u8]) -> Fault {
    let mut fault = Fault::default();
    let read = walk(document, |path, text| {
        match path {
            [Tag::Error, Tag::Code] => fault.code = std::mem::take(text),
            [Tag::Error, Tag::Message] => fault.message = std::mem::take(text),
            [Tag::Error, Tag::Region] => fault.region = Some(std::mem::take(text)),
            _ => {}
        }
        Ok(())
    });
    match read {
        Ok(Some(Tag::Error)) => fault,
        _ => Fault::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix></Prefix>
<NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken>
<KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
<Contents><Key>a+b%2Bc//%C3%A9%01</Key><LastModified>2009-10-12T17:50:30.123Z</LastModified>
<ETag>&quot;fba9dede5f27731c9771645a39863328&quot;</ETag><Size>434234</Size><StorageClass>STANDARD</StorageClass></Contents>
<Contents><Size>7</Size><Key> </Key><ETag>x-1</ETag><Owner><ID>i</ID></Owner><LastModified>1970-01-01T00:00:01Z</LastModified></Contents>
<CommonPrefixes><Prefix>%25/</Prefix></CommonPrefixes></ListBucketResult>"#;

    #[test]
    fn reads_a_listing_with_encoded_keys() {
        let page = listing(LISTING.as_bytes()).unwrap();
        assert_eq!(page.objects.len(), 2);
        let first = &page.objects[0];
        assert_eq!(first.key, "a b+c//é\u{1}".as_bytes());
        assert_eq!(
            first.fingerprint.etag,
            "\"fba9dede5f27731c9771645a39863328\""
        );
        assert_eq!(
            (first.fingerprint.size, first.fingerprint.mtime_ns),
            (434_234, 0)
        );
        assert_eq!(first.mtime_ns, 1_255_369_830_123_000_000);
        let second = &page.objects[1];
        assert_eq!(
            (second.key.as_ref(), second.fingerprint.size),
            (&b" "[..], 7)
        );
        assert_eq!(second.fingerprint.etag, "\"x-1\"");
        assert_eq!(page.prefixes, ["%/"]);
        assert!(page.next.unwrap().starts_with("1ueG"));
    }

    #[test]
    fn keys_are_raw_where_the_store_does_not_encode() {
        let document = LISTING.replace("<EncodingType>url</EncodingType>", "");
        let page = listing(document.as_bytes()).unwrap();
        assert_eq!(page.objects[0].key, "a+b%2Bc//%C3%A9%01");
    }

    #[test]
    fn reads_errors_and_refuses_other_answers() {
        let text = "<Error><Code>PermanentRedirect</Code><Message>use &lt;it&gt;</Message><Region>eu-west-1</Region></Error>";
        let fault = fault(text.as_bytes());
        assert_eq!(
            (fault.code.as_str(), fault.message.as_str()),
            ("PermanentRedirect", "use <it>")
        );
        assert_eq!(fault.region.as_deref(), Some("eu-west-1"));
        assert_eq!(super::fault(b"<html>502</html>"), Fault::default());
        assert_eq!(super::fault(b"no xml <"), Fault::default());
        assert!(matches!(
            listing(text.as_bytes()),
            Err(BadAnswer::NoListing)
        ));
        let cut = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
        assert!(matches!(listing(cut.as_bytes()), Err(BadAnswer::NoToken)));
        let size =
            "<ListBucketResult><Contents><Key>a</Key><Size>x</Size></Contents></ListBucketResult>";
        assert!(matches!(
            listing(size.as_bytes()),
            Err(BadAnswer::Value(..))
        ));
    }
}
