//! Repeated requests get their first answer again.
//!
//! Invariant: what is remembered depends on applied commands and their times only.

use std::time::Duration;

use super::Answer;
use crate::{
    command::{Outcome, Rejection, RequestKey},
    state::{ClusterState, RecordedRequest},
};

/// How long an answer is remembered, in applied time.
pub const KEEP_REQUESTS: Duration = Duration::from_secs(600);
/// Answers remembered at most; the oldest go first.
pub const MAX_REQUESTS: usize = 10_000;

pub(super) fn evict(state: &mut ClusterState) {
    let bound = state.time - KEEP_REQUESTS;
    while state.index.requests_by_time.get_min().is_some_and(|(at, _)| *at < bound) {
        state.drop_oldest_request();
    }
}

/// The first answer, when this request was seen before.
pub(super) fn answered(state: &ClusterState, key: Option<&RequestKey>) -> Option<Answer> {
    let key = key?;
    let recorded = state.requests.get(&key.id)?;
    Some(if recorded.fingerprint == key.fingerprint {
        recorded.outcome.clone()
    } else {
        Err(Rejection::RequestIdReused { id: key.id.clone() })
    })
}

pub(super) fn record(
    state: &mut ClusterState,
    key: Option<&RequestKey>,
    outcome: &Result<Outcome, Rejection>,
) {
    let Some(key) = key else { return };
    let recorded = RecordedRequest {
        fingerprint: key.fingerprint,
        outcome: outcome.clone(),
        revision: state.revision,
        at: state.time,
    };
    state.put_request(key.id.clone(), recorded);
    if state.requests.len() > MAX_REQUESTS {
        state.drop_oldest_request();
    }
}
