//! Conversions between wire and vocabulary. Those from the wire check.

use crate::v1;
use forebay_types as types;
use forebay_types::{Address, Code, ContentVersion, FileId, FileKind, Ino, MountId};
use tonic::{Request, Status, metadata::MetadataValue};

/// Name of the metadata entry that carries the number of a [`Code`].
pub const CODE_KEY: &str = "forebay-code";

/// Name of the metadata entry that carries the leader's address beside [`Code::NotLeader`].
pub const LEADER_KEY: &str = "forebay-leader";

/// A gRPC status that carries `code`, so that the other side gets exactly it back.
pub fn status(code: Code, message: impl Into<String>) -> Status {
    let grpc = match code {
        Code::NotFound => tonic::Code::NotFound,
        Code::AlreadyExists => tonic::Code::AlreadyExists,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::NoSpace | Code::QuotaExceeded => tonic::Code::ResourceExhausted,
        Code::Busy | Code::Stale => tonic::Code::Aborted,
        Code::Timeout => tonic::Code::DeadlineExceeded,
        Code::NotLeader | Code::Unavailable => tonic::Code::Unavailable,
        Code::Unsupported => tonic::Code::Unimplemented,
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::Corrupt => tonic::Code::DataLoss,
        Code::Internal => tonic::Code::Internal,
        Code::NotEmpty
        | Code::NotDirectory
        | Code::IsDirectory
        | Code::ReadOnly
        | Code::CrossMount => tonic::Code::FailedPrecondition,
    };
    let mut status = Status::new(grpc, message);
    status
        .metadata_mut()
        .insert(CODE_KEY, MetadataValue::from(u32::from(code as u8)));
    status
}

/// The code of a status, whoever made it.
pub fn code_of(status: &Status) -> Code {
    let own = status
        .metadata()
        .get(CODE_KEY)
        .and_then(|v| v.to_str().ok());
    if let Some(number) = own.and_then(|v| v.parse().ok()) {
        return Code::from_number(number);
    }
    match status.code() {
        tonic::Code::NotFound => Code::NotFound,
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Code::Timeout,
        tonic::Code::Unavailable | tonic::Code::Unknown => Code::Unavailable,
        tonic::Code::Unimplemented => Code::Unsupported,
        tonic::Code::InvalidArgument => Code::InvalidArgument,
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Code::PermissionDenied,
        tonic::Code::ResourceExhausted => Code::NoSpace,
        _ => Code::Internal,
    }
}

/// In the request of a question that any voter may answer.
const ANY_VOTER_KEY: &str = "forebay-any-voter";

/// A question that any voter may answer, if it can do so from its own state.
pub fn to_any_voter<T>(question: T) -> Request<T> {
    let mut request = Request::new(question);
    let yes = MetadataValue::from_static("1");
    request.metadata_mut().insert(ANY_VOTER_KEY, yes);
    request
}

/// Whether any voter may answer.
pub fn wants_any_voter<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key(ANY_VOTER_KEY)
}

/// Where the leader is, if the master that refused the call knew.
pub fn leader_of(status: &Status) -> Option<Address> {
    status
        .metadata()
        .get(LEADER_KEY)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn invalid(what: &str) -> Status {
    status(
        Code::InvalidArgument,
        format!("request lacks or garbles {what}"),
    )
}

impl From<types::Attr> for v1::Attr {
    fn from(a: types::Attr) -> v1::Attr {
        v1::Attr {
            ino: a.ino.0,
            directory: a.kind == FileKind::Directory,
            size: a.size,
            mtime_ns: a.mtime_ns,
            mode: u32::from(a.mode),
            uid: a.uid,
            gid: a.gid,
            version: a.version.0,
        }
    }
}

impl From<v1::Attr> for types::Attr {
    fn from(a: v1::Attr) -> types::Attr {
        types::Attr {
            ino: Ino(a.ino),
            kind: if a.directory {
                FileKind::Directory
            } else {
                FileKind::File
            },
            size: a.size,
            mtime_ns: a.mtime_ns,
            mode: (a.mode & 0o7777) as u16,
            uid: a.uid,
            gid: a.gid,
            version: ContentVersion(a.version),
        }
    }
}

impl From<types::FileRef> for v1::FileRef {
    fn from(f: types::FileRef) -> v1::FileRef {
        v1::FileRef {
            ino: f.id.ino.0,
            version: f.id.version.0,
            mount: f.mount.0,
            key: f.key,
            fingerprint: Some(v1::Fingerprint {
                size: f.fingerprint.size,
                mtime_ns: f.fingerprint.mtime_ns,
                etag: f.fingerprint.etag,
            }),
        }
    }
}

impl TryFrom<v1::FileRef> for types::FileRef {
    type Error = Status;
    fn try_from(f: v1::FileRef) -> Result<types::FileRef, Status> {
        let fp = f.fingerprint.ok_or_else(|| invalid("fingerprint"))?;
        Ok(types::FileRef {
            id: FileId {
                ino: Ino(f.ino),
                version: ContentVersion(f.version),
            },
            mount: MountId(f.mount),
            key: f.key,
            fingerprint: types::Fingerprint {
                size: fp.size,
                mtime_ns: fp.mtime_ns,
                etag: fp.etag,
            },
        })
    }
}

impl From<FileId> for v1::FileId {
    fn from(id: FileId) -> v1::FileId {
        v1::FileId {
            ino: id.ino.0,
            version: id.version.0,
        }
    }
}

impl From<v1::FileId> for FileId {
    fn from(id: v1::FileId) -> FileId {
        FileId {
            ino: Ino(id.ino),
            version: ContentVersion(id.version),
        }
    }
}

/// The same failure within a stream of answers.
pub fn refusal(status: &Status) -> v1::Refusal {
    v1::Refusal {
        code: u32::from(code_of(status) as u8),
        message: status.message().to_owned(),
    }
}

impl From<v1::Refusal> for Status {
    fn from(refusal: v1::Refusal) -> Status {
        let number = u8::try_from(refusal.code).unwrap_or_default();
        status(Code::from_number(number), refusal.message)
    }
}

/// A mount's row and its specification.
pub fn mount_to_wire(id: MountId, spec: &types::MountSpec) -> v1::Mount {
    v1::Mount {
        id: id.0,
        path: spec.path.clone(),
        uri: spec.uri.clone(),
        options: spec.options.clone(),
        sync: spec.sync.to_string(),
        credentials: spec
            .credentials
            .clone()
            .map(|sealed| sealed.0)
            .unwrap_or_default(),
    }
}

/// Back from [`mount_to_wire`].
pub fn mount_from_wire(m: v1::Mount) -> Result<(MountId, types::MountSpec), Status> {
    let sync = m.sync.parse().map_err(|_| invalid("sync policy"))?;
    let spec = types::MountSpec {
        path: m.path,
        uri: m.uri,
        options: m.options,
        sync,
        credentials: Some(types::Sealed(m.credentials)).filter(|sealed| !sealed.0.is_empty()),
    };
    Ok((MountId(m.id), spec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for code in Code::ALL {
            let status = status(*code, "x");
            assert_eq!(code_of(&status), *code);
            let back = Status::from(refusal(&status));
            assert_eq!((code_of(&back), back.message()), (*code, "x"));
        }
        assert_eq!(code_of(&Status::unavailable("x")), Code::Unavailable);
    }

    #[test]
    fn the_leader_is_told_beside_the_code() {
        let mut refused = status(Code::NotLeader, "x");
        assert_eq!(leader_of(&refused), None);
        let address = MetadataValue::from_static("10.0.0.2:9000");
        refused.metadata_mut().insert(LEADER_KEY, address);
        assert_eq!(leader_of(&refused), "10.0.0.2:9000".parse().ok());
    }
}
