//! The cluster port's service: what other masters ask of this one.
//!
//! Invariant: a caller of another cluster, or one that means another master, gets nothing but a
//! refusal that says so; a message that cannot be read ends its call or stream with a status, and
//! the process goes on. Nothing is forwarded twice.
//! Deliberately not here: the calling side (`network.rs`, `store/`).

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use openraft::{async_runtime::watch::WatchReceiver as _, raft::AppendEntriesRequest};
use prost::bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use skein_proto::v1::{
    self,
    raft_service_server::{RaftService, RaftServiceServer},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::MetadataMap,
    transport::{Server, server::TcpIncoming},
};

use super::{
    MemberNode, Proposal, TypeConfig,
    codec::{self, Append, Appended, AskVote, DecodeError, Kind, SnapshotDone, Transfer, Transferred, Voted},
    identity::Formation,
    network::peers::{
        FORMATION_KEY, KEEPALIVE_EVERY, KEEPALIVE_TIMEOUT, MAX_MESSAGE_BYTES, MEMBER_KEY, TARGET_KEY,
    },
};
use crate::{
    gather::Gathered,
    store::{Attempt, Change, Committed, MembershipError, Store},
};

mod receive;

/// Serves [`RaftService`] for a store.
#[derive(Debug, Clone)]
pub struct RaftServer {
    store: Store,
    /// Snapshots being received: the leader's, and one of a leader that is just being replaced.
    receiving: Arc<Semaphore>,
    received: Arc<AtomicU64>,
}

impl RaftServer {
    /// The service for the cluster port's router.
    #[must_use]
    pub fn service(store: Store) -> RaftServiceServer<Self> {
        let server = Self { store, receiving: Arc::new(Semaphore::new(2)), received: Arc::default() };
        RaftServiceServer::new(server)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Serves the cluster port until `stop`; then lets calls end, as those of a stopped store do.
    pub async fn serve(
        store: Store,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .initial_stream_window_size(Some(4 << 20))
            .initial_connection_window_size(Some(8 << 20))
            .serve_with_incoming_shutdown(
                Self::service(store),
                // Without it every small message waits for the acknowledgement of the one before.
                TcpIncoming::from(listener).with_nodelay(Some(true)).map_ok(Gathered::new),
                stop.cancelled_owned(),
            )
            .await
    }

    /// Whether the caller may talk to this master; answers its number.
    fn admit(&self, metadata: &MetadataMap) -> Result<u64, Status> {
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok());
        let number = |key| text(key).and_then(|value| value.parse::<u64>().ok());
        let identity = &self.store.0.identity;
        let (Some(formation), Some(member), Some(target)) =
            (text(FORMATION_KEY).and_then(Formation::parse), number(MEMBER_KEY), number(TARGET_KEY))
        else {
            return Err(Status::invalid_argument(
                "the call does not say which master of which cluster makes it",
            ));
        };
        if target != identity.id() {
            return Err(Status::failed_precondition(format!(
                "this is master {}, not the one that was meant: check the cluster addresses",
                identity.name()
            )));
        }
        match identity.admit(formation) {
            Ok(true) => Ok(member),
            Ok(false) => Err(Status::failed_precondition(format!(
                "master {} belongs to another cluster than the caller: check the cluster addresses",
                identity.name()
            ))),
            Err(error) => Err(Status::internal(format!("the identity could not be saved: {error}"))),
        }
    }

    /// A candidate that was removed is told so by the leader, who knows the members best.
    fn refuse_removed(&self, candidate: u64) -> Result<(), Status> {
        let metrics = self.store.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.current_leader == Some(metrics.id);
        if leads && metrics.committed_membership_config.get_node(&candidate).is_none() {
            return Err(Status::permission_denied("this master has been removed from the cluster"));
        }
        Ok(())
    }

    fn fatal(&self, fatal: &openraft::errors::Fatal<TypeConfig>) -> Status {
        self.store.0.check(fatal);
        Status::unavailable(format!("this master is stopping: {fatal}"))
    }

    async fn answer_vote(&self, request: Request<Bytes>, pre_vote: bool) -> Result<Bytes, Status> {
        let candidate = self.admit(request.metadata())?;
        self.refuse_removed(candidate)?;
        let ask: AskVote = decode(Kind::Vote, request.get_ref())?;
        let raft = &self.store.0.raft;
        let voted = if pre_vote { raft.pre_vote(ask.into()).await } else { raft.vote(ask.into()).await };
        let voted = voted.map_err(|error| match error.into_fatal() {
            Some(fatal) => self.fatal(&fatal),
            None => Status::internal("the vote failed"),
        })?;
        encode(Kind::Voted, &Voted::from(voted))
    }
}

fn encode<T: Serialize>(kind: Kind, value: &T) -> Result<Bytes, Status> {
    codec::encode(kind, value).map(Into::into).map_err(|error| Status::internal(error.to_string()))
}

fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, Status> {
    codec::decode(kind, bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

type Appends = Pin<Box<dyn Stream<Item = Result<v1::AppendEntriesResponse, Status>> + Send>>;

#[tonic::async_trait]
impl RaftService for RaftServer {
    type AppendEntriesStream = Appends;

    async fn append_entries(
        &self,
        request: Request<Streaming<v1::AppendEntriesRequest>>,
    ) -> Result<Response<Appends>, Status> {
        self.admit(request.metadata())?;
        let refused = Arc::new(Mutex::new(None));
        let requests =
            Requests { wire: request.into_inner(), refused: refused.clone(), store: self.store.clone() };
        let requests = stream::unfold(requests, |mut requests| async move {
            requests.next().await.map(|request| (request, requests))
        });
        let server = self.clone();
        let answers = self.store.0.raft.stream_append(requests).map(move |answer| match answer {
            Ok(result) => {
                let payload = encode(Kind::Appended, &Appended::from(result))?;
                Ok(v1::AppendEntriesResponse { payload })
            }
            Err(fatal) => Err(server.fatal(&fatal)),
        });
        let end =
            stream::once(
                async move { refused.lock().unwrap_or_else(PoisonError::into_inner).take().map(Err) },
            );
        Ok(Response::new(Box::pin(answers.chain(end.filter_map(std::future::ready)))))
    }

    async fn vote(&self, request: Request<v1::VoteRequest>) -> Result<Response<v1::VoteResponse>, Status> {
        let payload = self.answer_vote(request.map(|request| request.payload), false).await?;
        Ok(Response::new(v1::VoteResponse { payload }))
    }

    async fn pre_vote(
        &self,
        request: Request<v1::PreVoteRequest>,
    ) -> Result<Response<v1::PreVoteResponse>, Status> {
        let payload = self.answer_vote(request.map(|request| request.payload), true).await?;
        Ok(Response::new(v1::PreVoteResponse { payload }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<v1::InstallSnapshotRequest>>,
    ) -> Result<Response<v1::InstallSnapshotResponse>, Status> {
        self.admit(request.metadata())?;
        let vote = self.receive(request.into_inner()).await?;
        let payload = encode(Kind::SnapshotDone, &SnapshotDone { vote: vote.into() })?;
        Ok(Response::new(v1::InstallSnapshotResponse { payload }))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        self.admit(request.metadata())?;
        let transfer: Transfer = decode(Kind::Transfer, &request.get_ref().payload)?;
        let answer = self.store.0.raft.handle_transfer_leader(transfer.into()).await;
        let answer = answer.map_err(|fatal| self.fatal(&fatal))?;
        let payload = encode(Kind::Transferred, &Transferred::from(answer))?;
        Ok(Response::new(v1::TransferLeaderResponse { payload }))
    }

    async fn propose(
        &self,
        request: Request<v1::ProposeRequest>,
    ) -> Result<Response<v1::ProposeResponse>, Status> {
        use v1::propose_response as answer;
        self.admit(request.metadata())?;
        let proposal = Proposal::from_peer(request.into_inner().command)
            .map_err(|error| Status::failed_precondition(format!("no command this build knows: {error}")))?;
        let result = match self.store.0.propose_here(proposal).await {
            Attempt::Committed(Committed { revision, outcome }) => {
                let outcome = encode(Kind::Outcome, &outcome)?;
                answer::Result::Committed(answer::Committed { revision: revision.0, outcome })
            }
            Attempt::NotProposed { leader } => {
                answer::Result::NotProposed(answer::NotProposed { leader: leader.unwrap_or(0) })
            }
            Attempt::Unknown { reason } => answer::Result::Unknown(answer::Unknown { reason }),
        };
        Ok(Response::new(v1::ProposeResponse { result: Some(result) }))
    }

    async fn read_index(
        &self,
        request: Request<v1::ReadIndexRequest>,
    ) -> Result<Response<v1::ReadIndexResponse>, Status> {
        self.admit(request.metadata())?;
        Ok(Response::new(v1::ReadIndexResponse { index: self.store.0.read_index_here().await }))
    }

    async fn change_members(
        &self,
        request: Request<v1::ChangeMembersRequest>,
    ) -> Result<Response<v1::ChangeMembersResponse>, Status> {
        self.admit(request.metadata())?;
        let change = change(request.into_inner())?;
        let mut answer = v1::ChangeMembersResponse::default();
        match self.store.0.change_here(change).await {
            Ok(()) => {}
            Err(MembershipError::NoLeader) => answer.not_leader = true,
            Err(MembershipError::Refused(refusal)) => answer.refusal = refusal,
            Err(MembershipError::Unknown(reason)) => return Err(Status::unknown(reason)),
        }
        Ok(Response::new(answer))
    }
}

fn change(request: v1::ChangeMembersRequest) -> Result<Change, Status> {
    use v1::change_members_request::{Add, Change as Wire};
    match request.change {
        Some(Wire::Add(Add { name, api_address, cluster_address })) => {
            Ok(Change::Add(MemberNode { name, api_address, cluster_address }))
        }
        Some(Wire::Remove(name)) => Ok(Change::Remove(name)),
        Some(Wire::Lead(to)) => Ok(Change::Lead(Some(to).filter(|to| !to.is_empty()))),
        None => Err(Status::invalid_argument("change is missing")),
    }
}

/// A leader's requests as they arrive.
struct Requests {
    wire: Streaming<v1::AppendEntriesRequest>,
    /// Why the stream was ended from here.
    refused: Arc<Mutex<Option<Status>>>,
    store: Store,
}

impl Requests {
    async fn next(&mut self) -> Option<AppendEntriesRequest<TypeConfig>> {
        // A broken transport ends the stream like a finished one: the leader opens another.
        let message = self.wire.message().await.ok()??;
        self.store.0.last_heard.now();
        match self.read(&message.payload) {
            Ok(request) => Some(request),
            Err(status) => {
                tracing::warn!(reason = status.message(), "entries from a peer refused");
                *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
                None
            }
        }
    }

    fn read(&self, payload: &[u8]) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
        let append: Append = decode(Kind::Append, payload)?;
        self.check_memory(&append)?;
        append.try_into().map_err(|error: DecodeError| Status::invalid_argument(error.to_string()))
    }

    /// A leader says what this member has acknowledged to it. One that does not have it has
    /// forgotten: it must not vote, because what it forgot may have been committed by its word.
    fn check_memory(&self, append: &Append) -> Result<(), Status> {
        let (term, next) = self.store.0.log.standing();
        let known = next.max(self.store.changed().borrow().0 + 1);
        if append.vote.term < term || append.acknowledged <= known {
            return Ok(());
        }
        let reason = format!(
            "this master has acknowledged the log up to {} but has it only up to {}: its data folder was emptied or \
             replaced by an old copy. Remove it from the cluster (`skein cluster remove`), delete its data folder and \
             add it again under a new name",
            append.acknowledged - 1,
            known.saturating_sub(1)
        );
        self.store.0.fatal.call(&reason);
        Err(Status::data_loss(reason))
    }
}
