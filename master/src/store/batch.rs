//! Commands of concurrent callers, proposed together.
//!
//! Invariant: commands are proposed in the order in which they came. One that comes while nothing is
//! under way is proposed at once; what comes while a batch is under way is the next batch: no timer,
//! so a single caller waits for nobody, and many share one append, one message to each follower and
//! one fdatasync on each disk. A caller that has gone proposes nothing any more.
//! Deliberately not here: what a caller makes of the answer (`propose.rs`).

use std::time::Duration;

use futures_util::StreamExt as _;
use openraft::{
    errors::{ClientWriteError, Fatal, RaftError},
    raft::WriteResponse,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{Leadership, propose::lost};
use crate::raft::{Proposal, Raft, TypeConfig};

/// Commands in a batch, at most.
const BATCH_COMMANDS: usize = 1024;
/// A batch with this much is full: about one message to a follower.
const BATCH_BYTES: usize = 2 << 20;

pub(super) type Written =
    Result<WriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

/// A caller and its command.
struct Waiting {
    proposal: Proposal,
    answer: oneshot::Sender<Written>,
}

/// The callers' end.
pub(super) struct Batches(mpsc::UnboundedSender<Waiting>);

impl Batches {
    /// `None` when the outcome will not be known: quorum lost, or stopping.
    pub async fn write(&self, proposal: Proposal) -> Option<Written> {
        let (answer, written) = oneshot::channel();
        self.0.send(Waiting { proposal, answer }).ok()?;
        written.await.ok()
    }
}

/// Takes commands from callers to consensus.
pub(super) struct Batcher {
    pub raft: Raft,
    pub id: u64,
    pub leadership: watch::Receiver<Leadership>,
    pub lease: Duration,
    // Bounded by `PROPOSALS_IN_FLIGHT` here and on the masters that forward.
    waiting: mpsc::UnboundedReceiver<Waiting>,
}

impl Batcher {
    pub fn new(
        raft: Raft,
        id: u64,
        leadership: watch::Receiver<Leadership>,
        lease: Duration,
    ) -> (Self, Batches) {
        let (sender, waiting) = mpsc::unbounded_channel();
        (Self { raft, id, leadership, lease, waiting }, Batches(sender))
    }

    /// Until `stop`, when consensus is about to end.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.serve() => {}
        }
    }

    async fn serve(&mut self) {
        while let Some(first) = self.waiting.recv().await {
            let (proposals, callers) = self.batch(first);
            if callers.is_empty() {
                continue;
            }
            tokio::select! {
                () = write(&self.raft, proposals, callers) => {}
                // Those behind it need not wait until it is decided: they are told who leads now.
                () = lost(self.leadership.clone(), self.id, self.lease) => {}
            }
        }
    }

    /// What waits now, without those who have given up.
    fn batch(&mut self, first: Waiting) -> (Vec<Proposal>, Vec<oneshot::Sender<Written>>) {
        let (mut proposals, mut callers) = (Vec::new(), Vec::new());
        let (mut next, mut bytes) = (Some(first), 0);
        while let Some(Waiting { proposal, answer }) = next {
            if !answer.is_closed() {
                bytes += proposal.bytes().len();
                proposals.push(proposal);
                callers.push(answer);
            }
            let full = bytes >= BATCH_BYTES || callers.len() == BATCH_COMMANDS;
            next = if full { None } else { self.waiting.try_recv().ok() };
        }
        (proposals, callers)
    }
}

async fn write(raft: &Raft, proposals: Vec<Proposal>, callers: Vec<oneshot::Sender<Written>>) {
    let answers = match raft.client_write_many(proposals).await {
        Ok(answers) => answers,
        Err(fatal) => return refuse(callers, &fatal),
    };
    // All are told together, so that the connections they write to are written to once.
    let answers: Vec<_> = answers.collect().await;
    for (caller, answer) in callers.into_iter().zip(answers) {
        let written = match answer {
            Ok(written) => written.map_err(RaftError::APIError),
            Err(fatal) => Err(RaftError::Fatal(fatal)),
        };
        // A caller that has gone needs no answer.
        let _ = caller.send(written);
    }
}

fn refuse(callers: impl IntoIterator<Item = oneshot::Sender<Written>>, fatal: &Fatal<TypeConfig>) {
    for caller in callers {
        let _ = caller.send(Err(RaftError::Fatal(fatal.clone())));
    }
}
