//! Errors to `tonic::Status`: the one map, with google.rpc details.
//!
//! Invariant: whatever a caller can run into is a [`CallError`], and each has one code and one
//! stable reason (`ErrorInfo.reason`, domain `skein.io`); clients branch on those, never on text.
//! Deliberately not here: logging. An error that a caller is told is not logged as well.

use std::{collections::HashMap, time::Duration};

use skein_common::{Revision, Violations};
use skein_master_core::Rejection;
use skein_proto::InvalidMessage;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::{
    exec::ExecError,
    store::{Compacted, MembershipError, ProposeError, ReadError},
};

/// `ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "skein.io";
/// About an election: what a caller without a leader should wait.
const ELECTION_WAIT: Duration = Duration::from_millis(500);
/// For a limit that others must give back first.
const CONGESTION_WAIT: Duration = Duration::from_secs(2);

/// An error travels in headers, and clients refuse more than 16 KiB of those: the details, ...
const MAX_DETAIL_BYTES: usize = 6 * 1024;
/// ... and the message and each text in them.
const MAX_TEXT_BYTES: usize = 1024;

/// Why a call or a session fails.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error("invalid: {0}")]
    Invalid(#[from] Violations),
    #[error("malformed message: {0}")]
    Malformed(#[from] InvalidMessage),
    #[error("{0}; start over without after_revision")]
    Compacted(#[from] Compacted),
    #[error("the reader fell too far behind; resume after revision {resume}")]
    SlowConsumer { resume: Revision },
    #[error("revision {asked} does not exist, the newest is {newest}; start over without after_revision")]
    FutureRevision { asked: Revision, newest: Revision },
    #[error("the write is committed, but this master has not applied revision {revision} yet")]
    NotYetVisible { revision: Revision },
    #[error("no leader is known")]
    NoLeader,
    #[error("{what} are limited to {limit} on one master")]
    TooMany { what: &'static str, limit: usize },
    #[error("{0}")]
    Session(#[from] SessionError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error("this master is stopping")]
    Stopping,
    /// The leader's answer, handed on.
    #[error("{0}")]
    Forwarded(Status),
}

/// Why a session or a log stream of an agent is refused or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error("the first message must be a Hello, within {within:?}")]
    NoHello { within: Duration },
    #[error("a Hello is only the first message of a session")]
    SecondHello,
    #[error("message without content")]
    Empty,
    #[error("this master speaks protocol {ours}, the agent {theirs}")]
    OtherProtocol { ours: u32, theirs: u32 },
    #[error("the node belongs to cluster {theirs}, this is {ours}")]
    OtherCluster { ours: String, theirs: String },
    #[error("incarnation {theirs} is older than {known}: another agent with this node id has started since")]
    OldIncarnation { theirs: u64, known: u64 },
    #[error("the agent has obeyed term {theirs}, this leader has {ours}")]
    OldTerm { theirs: u64, ours: u64 },
    #[error("a newer session of this node took over")]
    Replaced,
    #[error("the node was removed from the cluster; it may register again")]
    NodeRemoved,
    #[error("nothing heard for {silence:?}")]
    Silent { silence: Duration },
    #[error("the agent does not read")]
    NotReading,
    #[error("the node's assignments take {bytes} bytes, more than the limit of {limit}")]
    Oversized { bytes: usize, limit: usize },
    #[error("no log stream {id:?} has been asked for")]
    UnknownLogStream { id: String },
    #[error("no command {id:?} has been asked for")]
    UnknownExecStream { id: String },
}

/// What a stream of a peer that broke off means: a message that cannot be read is the peer's fault
/// and it is told; with everything else (`None`) the peer is gone.
#[must_use]
pub fn end_of_stream(status: Status) -> Option<CallError> {
    match status.code() {
        // tonic's word for bytes that are no such message.
        Code::Internal => {
            let reason = status.message().to_owned();
            Some(InvalidMessage::Invalid { field: "message", reason }.into())
        }
        // tonic's words for a message that is too long.
        Code::OutOfRange | Code::ResourceExhausted => Some(CallError::Forwarded(status)),
        _ => None,
    }
}

/// At most this many bytes of a text.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Code, reason and details of one error.
struct Verdict {
    code: Code,
    reason: &'static str,
    metadata: HashMap<String, String>,
    retry_after: Option<Duration>,
    violations: Vec<FieldViolation>,
}

impl Verdict {
    fn new(code: Code, reason: &'static str) -> Self {
        Self { code, reason, metadata: HashMap::new(), retry_after: None, violations: Vec::new() }
    }

    fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// All violations, as far as the headers of an answer hold them; then how many more there are.
    fn violations(mut self, found: &[skein_common::FieldViolation]) -> Self {
        let mut bytes = 0;
        for (position, one) in found.iter().enumerate() {
            let (field, description) =
                (cut(&one.field, MAX_TEXT_BYTES), cut(&one.description, MAX_TEXT_BYTES));
            bytes += field.len() + description.len();
            if bytes > MAX_DETAIL_BYTES {
                let more = format!("and {} more", found.len() - position);
                self.violations.push(FieldViolation::new("...", more));
                break;
            }
            self.violations.push(FieldViolation::new(field, description));
        }
        self
    }

    fn into_status(self, message: String) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason, DOMAIN, self.metadata);
        if let Some(wait) = self.retry_after {
            details.set_retry_info(Some(wait));
        }
        if !self.violations.is_empty() {
            details.set_bad_request(self.violations);
        }
        Status::with_error_details(self.code, cut(&message, MAX_TEXT_BYTES), details)
    }
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        let verdict = match &error {
            CallError::Forwarded(status) => return status.clone(),
            CallError::Rejected(rejection) => rejected(rejection),
            CallError::Propose(error) => not_proposed(error),
            CallError::Read(error) => not_read(error),
            CallError::Membership(error) => not_a_member(error),
            CallError::Invalid(violations) => {
                Verdict::new(Code::InvalidArgument, "INVALID_FIELDS").violations(&violations.0)
            }
            CallError::Malformed(_) => Verdict::new(Code::InvalidArgument, "MALFORMED_MESSAGE"),
            CallError::Compacted(compacted) => {
                Verdict::new(Code::OutOfRange, "COMPACTED").with("oldest_revision", compacted.oldest)
            }
            CallError::FutureRevision { newest, .. } => {
                Verdict::new(Code::OutOfRange, "FUTURE_REVISION").with("newest_revision", newest)
            }
            CallError::SlowConsumer { resume } => {
                Verdict::new(Code::Aborted, "SLOW_CONSUMER").with("resume_revision", resume)
            }
            CallError::NotYetVisible { revision } => outcome_unknown().with("revision", revision),
            CallError::NoLeader => no_leader(),
            CallError::TooMany { limit, .. } => Verdict::new(Code::ResourceExhausted, "LIMIT_REACHED")
                .with("limit", limit)
                .retry_after(CONGESTION_WAIT),
            CallError::Session(error) => session(error),
            CallError::Exec(error) => not_run(error),
            CallError::Stopping => {
                Verdict::new(Code::Unavailable, "STOPPING").retry_after(Duration::from_millis(100))
            }
        };
        verdict.into_status(error.to_string())
    }
}

fn no_leader() -> Verdict {
    Verdict::new(Code::Unavailable, "NO_LEADER").retry_after(ELECTION_WAIT)
}

fn outcome_unknown() -> Verdict {
    Verdict::new(Code::Unknown, "OUTCOME_UNKNOWN").retry_after(ELECTION_WAIT)
}

fn rejected(rejection: &Rejection) -> Verdict {
    match rejection {
        Rejection::NotFound { kind, id } => {
            Verdict::new(Code::NotFound, "NOT_FOUND").with("kind", kind).with("id", id)
        }
        Rejection::AlreadyExists { kind, name } => {
            Verdict::new(Code::AlreadyExists, "ALREADY_EXISTS").with("kind", kind).with("name", name)
        }
        Rejection::StaleEtag { kind, current } => {
            Verdict::new(Code::Aborted, "STALE_ETAG").with("kind", kind).with("etag", current)
        }
        Rejection::RequestIdReused { id } => Verdict::new(Code::InvalidArgument, "REQUEST_ID_REUSED")
            .with("request_id", id)
            .violations(&[skein_common::FieldViolation {
                field: "request_id".to_owned(),
                description: "was used with another body; take a new one for a new write".to_owned(),
            }]),
        Rejection::FailedPrecondition { .. } => Verdict::new(Code::FailedPrecondition, "FAILED_PRECONDITION"),
        Rejection::Invalid { violations } => {
            Verdict::new(Code::InvalidArgument, "INVALID_FIELDS").violations(violations)
        }
    }
}

fn not_proposed(error: &ProposeError) -> Verdict {
    match error {
        ProposeError::NoLeader { .. } => no_leader(),
        ProposeError::OutcomeUnknown { .. } => outcome_unknown(),
        ProposeError::TooLarge { bytes } => {
            Verdict::new(Code::ResourceExhausted, "TOO_LARGE").with("bytes", bytes)
        }
        ProposeError::Encoding(_) => Verdict::new(Code::Internal, "INTERNAL"),
    }
}

fn not_read(error: &ReadError) -> Verdict {
    match error {
        ReadError::NoLeader { .. } => no_leader(),
        ReadError::Lagging { .. } => Verdict::new(Code::Unavailable, "LAGGING").retry_after(ELECTION_WAIT),
    }
}

fn not_a_member(error: &MembershipError) -> Verdict {
    match error {
        MembershipError::NoLeader => no_leader(),
        MembershipError::Refused(_) => Verdict::new(Code::FailedPrecondition, "FAILED_PRECONDITION"),
        MembershipError::Unknown(_) => outcome_unknown(),
    }
}

fn not_run(error: &ExecError) -> Verdict {
    let (code, reason) = match error {
        ExecError::NotRunning { .. } | ExecError::NoneRunning { .. } => {
            (Code::FailedPrecondition, "NOT_RUNNING")
        }
        ExecError::Unreachable { .. } => (Code::Unavailable, "NODE_UNREACHABLE"),
        ExecError::Refused(_) => (Code::FailedPrecondition, "EXEC_REFUSED"),
        ExecError::Lost { .. } => (Code::Unavailable, "EXEC_LOST"),
    };
    Verdict::new(code, reason)
}

fn session(error: &SessionError) -> Verdict {
    let (code, reason) = match error {
        SessionError::NoHello { .. } => (Code::InvalidArgument, "NO_HELLO"),
        SessionError::SecondHello | SessionError::Empty => (Code::InvalidArgument, "MALFORMED_MESSAGE"),
        SessionError::OtherProtocol { .. } => (Code::FailedPrecondition, "OTHER_PROTOCOL"),
        SessionError::OtherCluster { .. } => (Code::FailedPrecondition, "OTHER_CLUSTER"),
        SessionError::OldIncarnation { .. } => (Code::FailedPrecondition, "OLD_INCARNATION"),
        SessionError::OldTerm { .. } => (Code::Unavailable, "OLD_TERM"),
        SessionError::Replaced => (Code::Aborted, "SESSION_REPLACED"),
        SessionError::NodeRemoved => (Code::NotFound, "NODE_REMOVED"),
        SessionError::Silent { .. } => (Code::DeadlineExceeded, "SILENT"),
        SessionError::NotReading => (Code::Aborted, "SLOW_CONSUMER"),
        SessionError::Oversized { .. } => (Code::ResourceExhausted, "OVERSIZED"),
        SessionError::UnknownLogStream { .. } | SessionError::UnknownExecStream { .. } => {
            (Code::NotFound, "NOT_FOUND")
        }
    };
    Verdict::new(code, reason)
}

#[cfg(test)]
mod tests {
    use skein_master_core::command::ObjectKind;

    use super::*;

    fn violations() -> Violations {
        let mut found = Violations::default();
        found.add("spec.name", "is required");
        found
    }

    #[test]
    fn every_error_has_its_code_and_reason() {
        let (kind, id) = (ObjectKind::Service, "web".to_owned());
        let unknown = || "the quorum took too long".to_owned();
        for (error, code, reason) in [
            (Rejection::NotFound { kind, id: id.clone() }.into(), Code::NotFound, "NOT_FOUND"),
            (
                Rejection::AlreadyExists { kind, name: id.clone() }.into(),
                Code::AlreadyExists,
                "ALREADY_EXISTS",
            ),
            (Rejection::StaleEtag { kind, current: Revision(7) }.into(), Code::Aborted, "STALE_ETAG"),
            (Rejection::RequestIdReused { id }.into(), Code::InvalidArgument, "REQUEST_ID_REUSED"),
            (
                Rejection::FailedPrecondition { message: unknown() }.into(),
                Code::FailedPrecondition,
                "FAILED_PRECONDITION",
            ),
            (
                Rejection::Invalid { violations: violations().0 }.into(),
                Code::InvalidArgument,
                "INVALID_FIELDS",
            ),
            (violations().into(), Code::InvalidArgument, "INVALID_FIELDS"),
            (ProposeError::NoLeader { leader: None }.into(), Code::Unavailable, "NO_LEADER"),
            (ProposeError::OutcomeUnknown { reason: unknown() }.into(), Code::Unknown, "OUTCOME_UNKNOWN"),
            (ProposeError::TooLarge { bytes: 1 }.into(), Code::ResourceExhausted, "TOO_LARGE"),
            (ReadError::NoLeader { leader: None }.into(), Code::Unavailable, "NO_LEADER"),
            (ReadError::Lagging { applied: Revision(1), index: 2 }.into(), Code::Unavailable, "LAGGING"),
            (MembershipError::NoLeader.into(), Code::Unavailable, "NO_LEADER"),
            (MembershipError::Refused(unknown()).into(), Code::FailedPrecondition, "FAILED_PRECONDITION"),
            (MembershipError::Unknown(unknown()).into(), Code::Unknown, "OUTCOME_UNKNOWN"),
            (InvalidMessage::Missing { field: "node_id" }.into(), Code::InvalidArgument, "MALFORMED_MESSAGE"),
            (Compacted { oldest: Revision(9) }.into(), Code::OutOfRange, "COMPACTED"),
            (CallError::SlowConsumer { resume: Revision(9) }, Code::Aborted, "SLOW_CONSUMER"),
            (CallError::NotYetVisible { revision: Revision(9) }, Code::Unknown, "OUTCOME_UNKNOWN"),
            (CallError::NoLeader, Code::Unavailable, "NO_LEADER"),
            (CallError::TooMany { what: "watches", limit: 1 }, Code::ResourceExhausted, "LIMIT_REACHED"),
            (CallError::Stopping, Code::Unavailable, "STOPPING"),
            (SessionError::Replaced.into(), Code::Aborted, "SESSION_REPLACED"),
            (SessionError::NodeRemoved.into(), Code::NotFound, "NODE_REMOVED"),
            (SessionError::NotReading.into(), Code::Aborted, "SLOW_CONSUMER"),
        ] as [(CallError, Code, &str); 25]
        {
            let message = error.to_string();
            let status = Status::from(error);
            let info = status.get_details_error_info().expect(reason);
            assert_eq!((status.code(), info.reason.as_str(), info.domain.as_str()), (code, reason, DOMAIN));
            assert_eq!(status.message(), message);
            let retry = status.get_details_retry_info().is_some();
            let temporary = matches!(code, Code::Unavailable | Code::Unknown) || reason == "LIMIT_REACHED";
            assert_eq!(retry, temporary, "{reason}");
        }
    }

    #[test]
    fn details_say_what_to_do_next() {
        let status = Status::from(CallError::from(violations()));
        let named = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!((named[0].field.as_str(), named[0].description.as_str()), ("spec.name", "is required"));
        let of = |error: CallError| Status::from(error).get_details_error_info().unwrap().metadata;
        let stale = Rejection::StaleEtag { kind: ObjectKind::Node, current: Revision(7) };
        assert_eq!(of(stale.into())["etag"], "7");
        assert_eq!(of(CallError::SlowConsumer { resume: Revision(9) })["resume_revision"], "9");
        assert_eq!(of(Compacted { oldest: Revision(3) }.into())["oldest_revision"], "3");
    }

    #[test]
    fn an_error_fits_into_headers_whatever_it_says() {
        let mut found = Violations::default();
        for number in 0..10_000 {
            found.add(format!("spec.container.mounts[{number}].target"), "ü".repeat(1000));
        }
        let status = Status::from(CallError::from(found));
        assert!(status.details().len() + status.message().len() < 9 * 1024, "{}", status.details().len());
        let named = status.get_details_bad_request().unwrap().field_violations;
        let last = named.last().unwrap();
        assert_eq!(last.description, format!("and {} more", 10_000 - (named.len() - 1)));
    }

    #[test]
    fn a_stream_that_broke_off_is_told_apart_from_one_that_cannot_be_read() {
        assert!(end_of_stream(Status::cancelled("gone")).is_none());
        assert!(end_of_stream(Status::unknown("connection reset")).is_none());
        let undecodable = end_of_stream(Status::internal("failed to decode")).unwrap();
        assert_eq!(Status::from(undecodable).code(), Code::InvalidArgument);
        let oversized = end_of_stream(Status::out_of_range("too long")).unwrap();
        assert_eq!(Status::from(oversized).code(), Code::OutOfRange);
    }
}
