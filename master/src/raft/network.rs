//! What openraft says to the other masters, as gRPC calls.
//!
//! Invariant: an unreachable peer costs a connection attempt per back-off, never a busy loop:
//! openraft sleeps *inside* the request stream, so the first request is taken before anything is
//! sent, and every transport error is `Unreachable`, the kind that makes it back off. Whatever a
//! peer answers is checked; nothing of it can panic.
//! Deliberately not here: the answering side (`server.rs`), connections (`peers.rs`).

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use openraft::{
    OptionalSend, RaftNetworkFactory,
    base::{BoxFuture, BoxStream},
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption},
    raft::{
        AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use prost::bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use skein_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use self::peers::{InvalidAddress, Lane, Peer, Peers, Reason};
use super::{
    MemberNode, TypeConfig, Vote,
    codec::{
        self, Append, Appended, AskVote, Kind, SnapshotBegin, SnapshotDone, Transfer, Transferred, Voted,
    },
    snapshot::SnapshotFile,
};

pub mod peers;

/// A peer that answers no request for this long, though the connection lives, is given up on.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A snapshot's chunk that the peer does not take for this long ends the transfer.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);
/// From the last chunk to "installed".
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);
const CHUNK_BYTES: usize = 256 << 10;

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// Makes openraft's clients.
#[derive(Debug, Clone)]
pub struct Network {
    peers: Peers,
}

impl Network {
    #[must_use]
    pub const fn new(peers: Peers) -> Self {
        Self { peers }
    }

    fn connection(&self, target: u64, node: &MemberNode, lane: Lane) -> Connection {
        Connection { peer: self.peers.get(target, node), lane, acknowledged: Arc::default() }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &MemberNode) -> Connection {
        self.connection(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &MemberNode) -> Connection {
        self.connection(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &MemberNode) -> Connection {
        self.connection(target, node, Lane::Snapshot)
    }
}

/// openraft's client for one peer.
#[derive(Debug)]
pub struct Connection {
    peer: Result<Peer, InvalidAddress>,
    lane: Lane,
    /// One past the last entry the peer has acknowledged. openraft keeps a connection for a whole
    /// leadership, whatever happens to its streams.
    acknowledged: Arc<AtomicU64>,
}

fn unreachable(reason: impl ToString) -> Unreachable<TypeConfig> {
    Unreachable::from_string(reason)
}

fn encode<T: Serialize>(kind: Kind, value: &T) -> Result<Bytes, Unreachable<TypeConfig>> {
    codec::encode(kind, value).map(Into::into).map_err(unreachable)
}

fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, Unreachable<TypeConfig>> {
    codec::decode(kind, bytes).map_err(unreachable)
}

impl Connection {
    fn peer(&self) -> Result<&Peer, Unreachable<TypeConfig>> {
        self.peer.as_ref().map_err(unreachable)
    }

    /// One call with a deadline; the peer's answer, or why there is none.
    async fn call<R>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<tonic::Response<R>, Status>>,
    ) -> Result<R, Unreachable<TypeConfig>> {
        let answer = match tokio::time::timeout(deadline, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        };
        let peer = self.peer()?;
        peer.observe(answer.as_ref().map(|_| ()));
        answer.map(tonic::Response::into_inner).map_err(|status| unreachable(Reason(&status)))
    }
}

type Answers<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

impl NetStreamAppend<TypeConfig> for Connection {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Answers<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft's back-off happens in here: before the connection, or it never happens.
            let Some(first) = input.next().await else {
                return Ok(Box::pin(stream::empty()) as Answers<'s>);
            };
            let peer = self.peer()?.clone();
            let sent = Arc::new(AtomicU64::new(0));
            let counter = sent.clone();
            let (lane, acknowledged) = (self.lane, self.acknowledged.clone());
            let requests = stream::once(async { first }).chain(input).filter_map(move |request| {
                counter.fetch_add(1, Ordering::Relaxed);
                let mut append = Append::from(&request);
                append.acknowledged = match lane {
                    // openraft puts there what the peer has acknowledged.
                    Lane::Control => append.previous.map_or(0, |previous| previous.index + 1),
                    Lane::Log | Lane::Snapshot => acknowledged.load(Ordering::Relaxed),
                };
                let message = codec::encode(Kind::Append, &append);
                std::future::ready(
                    message.ok().map(|payload| v1::AppendEntriesRequest { payload: payload.into() }),
                )
            });
            let mut client = peer.client(self.lane);
            // The peer answers the call at once, so this waits for the connection only.
            let answers =
                self.call(option.hard_ttl().max(ANSWER_TIMEOUT), client.append_entries(requests)).await?;
            let acknowledged = self.acknowledged.clone();
            let state = Some(AnswerStream { answers, sent, received: 0, acknowledged, peer });
            Ok(Box::pin(stream::unfold(state, |state| async move {
                let mut state = state?;
                match state.next().await.transpose()? {
                    Ok(answer) => Some((Ok(answer), Some(state))),
                    Err(error) => Some((Err(error.into()), None)),
                }
            })) as Answers<'s>)
        })
    }
}

struct AnswerStream {
    answers: Streaming<v1::AppendEntriesResponse>,
    /// Requests given to the transport.
    sent: Arc<AtomicU64>,
    received: u64,
    acknowledged: Arc<AtomicU64>,
    peer: Peer,
}

impl AnswerStream {
    async fn next(&mut self) -> Result<Option<StreamAppendResult<TypeConfig>>, Unreachable<TypeConfig>> {
        let mut overdue = false;
        let message = loop {
            match tokio::time::timeout(ANSWER_TIMEOUT, self.answers.message()).await {
                Ok(message) => break message,
                // A request may be much younger than this wait: give it one more.
                Err(_) if overdue => break Err(Status::deadline_exceeded("requests are not answered")),
                Err(_) => overdue = self.sent.load(Ordering::Relaxed) > self.received,
            }
        };
        self.peer.observe(message.as_ref().map(|_| ()));
        let Some(message) = message.map_err(|status| unreachable(Reason(&status)))? else {
            return Ok(None);
        };
        self.received += 1;
        let appended = decode::<Appended>(Kind::Appended, &message.payload)?;
        if let Appended::Matching(Some(matching)) = appended {
            self.acknowledged.fetch_max(matching.index + 1, Ordering::Relaxed);
        }
        Ok(Some(appended.into()))
    }
}

impl NetVote<TypeConfig> for Connection {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let payload = encode(Kind::Vote, &AskVote::from(request))?;
        let mut client = self.peer()?.client(Lane::Control);
        let answer = self.call(option.soft_ttl(), client.vote(v1::VoteRequest { payload })).await?;
        Ok(decode::<Voted>(Kind::Voted, &answer.payload)?.into())
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let payload = encode(Kind::Vote, &AskVote::from(request))?;
        let mut client = self.peer()?.client(Lane::Control);
        let answer = self.call(option.soft_ttl(), client.pre_vote(v1::PreVoteRequest { payload })).await?;
        Ok(decode::<Voted>(Kind::Voted, &answer.payload)?.into())
    }
}

impl NetTransferLeader<TypeConfig> for Connection {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let payload = encode(Kind::Transfer, &Transfer::from(&request))?;
        let mut client = self.peer()?.client(Lane::Control);
        let call = client.transfer_leader(v1::TransferLeaderRequest { payload });
        let answer = self.call(option.soft_ttl(), call).await?;
        Ok(decode::<Transferred>(Kind::Transferred, &answer.payload)?.into())
    }
}

impl NetBackoff<TypeConfig> for Connection {
    fn backoff(&self) -> Option<Backoff> {
        // `Config::backoff`, which every sleep of openraft's obeys.
        None
    }
}

impl NetSnapshot<TypeConfig> for Connection {
    type SnapshotData = SnapshotFile;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let peer = self.peer()?.clone();
        let file = tokio::fs::File::open(&snapshot.snapshot.path).await.map_err(unreachable)?;
        let length = file.metadata().await.map_err(unreachable)?.len();
        let begin = SnapshotBegin { vote: vote.into(), coverage: (&snapshot.meta).into(), length };
        let begin = encode(Kind::SnapshotBegin, &begin)?;
        tracing::info!(master = peer.node.name, bytes = length, "sending a snapshot");
        let (chunks, outgoing) = mpsc::channel(4);
        let mut client = peer.client(Lane::Snapshot);
        let send = async {
            send_file(chunks, begin, file).await?;
            tokio::time::sleep(INSTALL_TIMEOUT).await;
            Err::<std::convert::Infallible, _>(Status::deadline_exceeded(
                "the snapshot is not installed in time",
            ))
        };
        let answer = tokio::select! {
            closed = cancel => return Err(closed.into()),
            answer = client.install_snapshot(Request::new(ReceiverStream::new(outgoing))) => answer,
            failed = send => failed.map(|never| match never {}),
        };
        peer.observe(answer.as_ref().map(|_| ()));
        let answer = answer.map_err(|status| unreachable(Reason(&status)))?;
        Ok(decode::<SnapshotDone>(Kind::SnapshotDone, &answer.get_ref().payload)?.into())
    }
}

async fn send_file(
    chunks: mpsc::Sender<v1::InstallSnapshotRequest>,
    begin: Bytes,
    mut file: tokio::fs::File,
) -> Result<(), Status> {
    use tokio::io::AsyncReadExt as _;
    use v1::install_snapshot_request::Part;
    let mut part = Part::Begin(begin);
    loop {
        let request = v1::InstallSnapshotRequest { part: Some(part) };
        match tokio::time::timeout(CHUNK_TIMEOUT, chunks.send(request)).await {
            Ok(Ok(())) => {}
            // The call has ended and says why.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return Err(Status::deadline_exceeded("the peer takes no more of the snapshot")),
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = file.read(&mut chunk).await.map_err(|error| Status::internal(error.to_string()))?;
        if read == 0 {
            return Ok(());
        }
        chunk.truncate(read);
        part = Part::Chunk(chunk.into());
    }
}
