//! Tells callers who reached the wrong master where the leader is.

use crate::leadership::Leadership;
use forebay_proto::convert::{CODE_KEY, LEADER_KEY};
use std::time::Duration;
use tonic::codegen::http::{HeaderValue, Response};

/// How long the answer is held back while nobody leads: an election is sooner over than a caller who
/// goes round among the masters finds out.
const ELECTION: Duration = Duration::from_millis(1_500);

/// Adds the leader's address to the refusal of a call that only the leader can answer.
pub(crate) async fn add<B>(mut response: Response<B>, leadership: &Leadership) -> Response<B> {
    let code = response.headers().get(CODE_KEY);
    let refused = code.is_some_and(|code| code.as_bytes() == NOT_LEADER);
    if refused
        && let Some(leader) = leadership.leader(ELECTION).await
        && let Ok(address) = HeaderValue::from_str(&leader.to_string())
    {
        response.headers_mut().insert(LEADER_KEY, address);
    }
    response
}

/// `Code::NotLeader` as it is written in the header.
const NOT_LEADER: &[u8] = b"10";

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::Code;

    #[test]
    fn the_refusal_is_known_by_its_number() {
        let refusal = forebay_proto::convert::status(Code::NotLeader, "x").into_http::<()>();
        assert_eq!(refusal.headers()[CODE_KEY].as_bytes(), NOT_LEADER);
    }
}
