//! Ways to get it wrong. Each is a lie in how the simulation executes what the node decides, so
//! that the code under test needs no switches; each must be found out.

/// A fault of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// A client is answered when its command is accepted, not when it is committed.
    AcknowledgeBeforeCommit,
    /// A batch is said to be on disk that a crash loses.
    SkipFsync,
    /// A batch is said to be on disk when its write begins.
    PersistTooEarly,
    /// A node that believes it leads answers reads without a round of messages.
    ReadWithoutRound,
    /// A read waits for its round, but not until its index is applied.
    ReadBeforeApply,
    /// The journal is cut up to what is applied, though it was not flushed.
    CutTooFar,
    /// Commands reach the journal without the identity of their request.
    ForgetSessions,
}

impl Mutation {
    /// All of them.
    pub(crate) const ALL: [Mutation; 7] = [
        Mutation::AcknowledgeBeforeCommit,
        Mutation::SkipFsync,
        Mutation::PersistTooEarly,
        Mutation::ReadWithoutRound,
        Mutation::ReadBeforeApply,
        Mutation::CutTooFar,
        Mutation::ForgetSessions,
    ];
}
