//! Whether a master that lets a caller wait lives. Asked only while somebody waits: a connection that
//! nobody uses costs next to nothing, however many there are.

use forebay_proto::{
    convert::status,
    v1::{HelloRequest, raft_client::RaftClient},
};
use forebay_types::Code;
use std::{future::Future, pin::pin, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};
use tonic::{Status, transport::Channel};

/// A call may take so long before somebody asks …
const PATIENCE: Duration = Duration::from_millis(300);
/// … and the answer to that so long: together as long as the other masters need to elect. Who is left
/// for being slow is found again by the hints of the others.
const ANSWER: Duration = Duration::from_millis(500);

/// The pulse of one master; clones share what was found.
#[derive(Clone, Debug)]
pub(crate) struct Pulse {
    channel: Channel,
    /// When it was asked last, and whether it answered in time. Locked while it is being asked: one
    /// question serves all who wait.
    asked: Arc<tokio::sync::Mutex<Option<(Instant, bool)>>>,
}

impl Pulse {
    /// Of the master at the other end.
    pub(crate) fn new(channel: Channel) -> Pulse {
        Pulse {
            channel,
            asked: Arc::default(),
        }
    }

    /// The answer to a call, or `Unavailable` when the master gives no sign of life.
    pub(crate) async fn during<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let mut call = pin!(call);
        if let Ok(answer) = timeout(PATIENCE, &mut call).await {
            return answer;
        }
        tokio::select! {
            answer = &mut call => answer,
            () = self.lost() => Err(status(Code::Unavailable, "the master does not answer")),
        }
    }

    /// Resolves when the master gives no sign of life.
    pub(crate) async fn lost(&self) {
        while self.beats().await {
            tokio::time::sleep(PATIENCE).await;
        }
    }

    /// Whether it answers now.
    pub(crate) async fn beats(&self) -> bool {
        let begun = Instant::now();
        let mut asked = self.asked.lock().await;
        if let Some((at, beats)) = *asked
            && at >= begun
        {
            return beats;
        }
        let at = Instant::now();
        let mut master = RaftClient::new(self.channel.clone());
        // Also a refusal is a sign of life; a broken connection tells the call itself.
        let beats = timeout(ANSWER, master.hello(HelloRequest {})).await.is_ok();
        *asked = Some((at, beats));
        beats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::connect;
    use forebay_proto::convert::code_of;
    use forebay_types::Address;
    use futures::future::{join, pending};

    #[tokio::test]
    async fn who_waits_for_a_master_that_hangs_is_told_and_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.sock");
        // Connections are made, and nobody ever reads from them.
        let _stopped = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let pulse = Pulse::new(connect(&Address::Unix(path)));
        let answer = pulse.during(async { Ok(7) }).await;
        assert_eq!(answer.unwrap(), 7);
        assert!(pulse.asked.lock().await.is_none(), "nobody waited");
        let begun = Instant::now();
        let wait = || pulse.during(pending::<Result<(), Status>>());
        let (one, other) = join(wait(), wait()).await;
        for answer in [one, other] {
            assert_eq!(code_of(&answer.unwrap_err()), Code::Unavailable);
        }
        let took = begun.elapsed();
        assert!(took >= PATIENCE + ANSWER);
        let asked = pulse.asked.lock().await.unwrap();
        assert!(!asked.1 && asked.0 < begun + took, "asked for both");
    }
}
