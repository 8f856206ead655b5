//! From the wire to a change, and from its outcome back.

use super::metadata::bad_name;
use crate::error::{Error, Result};
use forebay_meta::{Access, Change, Reply, RequestId, SetAttr};
use forebay_proto::v1::{self, answer, call};
use forebay_types::{Code, Ino, Name, SessionId};

/// The change that a call asks for; every change has a request's id.
pub(super) fn change(
    request: Option<v1::RequestId>,
    what: call::What,
) -> Result<(Option<RequestId>, Change)> {
    let request = request.ok_or_else(|| {
        let text = "the change has no request id: open a session and number the changes";
        Error::new(Code::InvalidArgument, text)
    })?;
    let request = RequestId {
        session: SessionId(request.session),
        sequence: request.sequence,
        acknowledged: request.acknowledged,
    };
    let name = |bytes| Name::new(bytes).map_err(bad_name);
    let change = match what {
        call::What::Create(make) => Change::Create {
            parent: Ino(make.parent),
            access: access(&make),
            name: name(make.name)?,
        },
        call::What::Mkdir(make) => Change::Mkdir {
            parent: Ino(make.parent),
            access: access(&make),
            name: name(make.name)?,
        },
        call::What::Rename(rename) => Change::Rename {
            parent: Ino(rename.parent),
            name: name(rename.name)?,
            new_parent: Ino(rename.new_parent),
            new_name: name(rename.new_name)?,
            no_replace: rename.no_replace,
        },
        call::What::Remove(remove) => Change::Remove {
            parent: Ino(remove.parent),
            name: name(remove.name)?,
        },
        call::What::RemoveDir(remove) => Change::RemoveDir {
            parent: Ino(remove.parent),
            name: name(remove.name)?,
        },
        call::What::SetAttr(set) => Change::SetAttr {
            ino: Ino(set.ino),
            set: SetAttr {
                mode: set.mode.map(mode),
                uid: set.uid,
                gid: set.gid,
                mtime_ns: set.mtime_ns,
            },
        },
        call::What::Lookup(_)
        | call::What::GetAttr(_)
        | call::What::Resolve(_)
        | call::What::OpenFile(_) => {
            return Err(Error::new(Code::Internal, "a question is not a change"));
        }
    };
    Ok((Some(request), change))
}

/// The answer that tells a change's outcome.
pub(super) fn answer(reply: Reply) -> Result<answer::What> {
    match reply {
        Reply::Attr(attr) => Ok(answer::What::Attr(attr.into())),
        Reply::Done => Ok(answer::What::Done(v1::Done {})),
        Reply::Refused { code, reason } => Err(Error::new(code, reason)),
        _ => Err(Error::new(Code::Internal, "an outcome of another change")),
    }
}

fn access(make: &v1::MakeRequest) -> Access {
    Access {
        mode: mode(make.mode),
        uid: make.uid,
        gid: make.gid,
    }
}

fn mode(bits: u32) -> u16 {
    (bits & 0o7777) as u16
}
