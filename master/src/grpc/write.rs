//! Writing for the API: what a call wants, checked; one command; the object as it is then.
//!
//! Invariant: an answer is given only when this master has applied the command, so whoever reads
//! here next sees it. `validate_only` applies the very same command to a copy of the state: what it
//! promises is what would have happened.
//! Deliberately not here: which command a call becomes (`service.rs`, `node.rs`).

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use skein_common::{Revision, Violations, cluster::ClusterConfig, service::ServiceSpec};
use skein_master_core::{
    ClusterState, Command, CommandKind, Outcome,
    command::{Actor, RequestKey},
};
use skein_proto::v1;

use super::view::parse_etag;
use crate::{clock, raft::fnv1a, status::CallError, store::Store};

/// Longest `request_id`.
const MAX_REQUEST_ID: usize = 128;
/// A master that is that far behind its own leader is cut off.
const VISIBLE_WITHIN: Duration = Duration::from_secs(5);

/// Collects everything that is wrong with a request.
#[derive(Debug, Default)]
pub struct Checks {
    found: Violations,
}

impl Checks {
    /// The spec, when it is there and valid.
    pub fn spec(&mut self, wire: Option<v1::ServiceSpec>) -> Option<Arc<ServiceSpec>> {
        let Some(wire) = wire else {
            self.found.add("spec", "is required");
            return None;
        };
        match ServiceSpec::try_from(wire) {
            Ok(spec) => Some(Arc::new(spec)),
            Err(violations) => {
                self.found.0.extend(violations.0);
                None
            }
        }
    }

    /// The settings, when they are valid.
    pub fn config(&mut self, wire: v1::ClusterConfig) -> Option<Arc<ClusterConfig>> {
        let config = ClusterConfig::try_from(wire).map(Arc::new);
        config.map_err(|violations| self.found.0.extend(violations.0)).ok()
    }

    /// A reference to an object: an id or a name.
    pub fn reference(&mut self, field: &str, text: String) -> String {
        if text.is_empty() {
            self.found.add(field, "an id or a name is required");
        }
        text
    }

    /// A field that must be there.
    pub fn required<T>(&mut self, field: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.found.add(field, "is required");
        }
        value
    }

    pub fn add(&mut self, field: &str, description: impl Into<String>) {
        self.found.add(field, description);
    }

    pub fn etag(&mut self, text: &str) -> Option<Revision> {
        parse_etag(text, &mut self.found)
    }

    /// How the write is to be done. `body` is what the caller wants, without what this master
    /// chooses: a repeated `request_id` is recognised by it. Call it last.
    pub fn write(
        mut self,
        request_id: String,
        validate_only: bool,
        body: &impl Serialize,
    ) -> Result<Write, Violations> {
        if request_id.len() > MAX_REQUEST_ID {
            let length = request_id.len();
            self.found.add("request_id", format!("{length} bytes are more than {MAX_REQUEST_ID}"));
        }
        let request =
            (!request_id.is_empty()).then(|| RequestKey { id: request_id, fingerprint: fingerprint(body) });
        self.found.into_result(Write { request, validate_only })
    }
}

/// Of the domain values, not of the wire: maps have one order there, and defaults are filled in.
fn fingerprint(body: &impl Serialize) -> u64 {
    rmp_serde::to_vec_named(body).map_or(0, |bytes| fnv1a(&bytes))
}

/// How a write is to be done.
#[derive(Debug, Clone)]
pub struct Write {
    pub request: Option<RequestKey>,
    pub validate_only: bool,
}

/// What a write did (or would do, when it only validates).
#[derive(Debug, Clone)]
pub struct Written {
    pub outcome: Outcome,
    /// A state with the effect.
    pub state: Arc<ClusterState>,
    /// That of the command itself: of the first one when the request was a repeat.
    pub revision: Revision,
}

impl Write {
    /// The same write, when one call needs another command: a repeat takes the same turns, so each
    /// turn has an id of its own. The separator is no character people type.
    #[must_use]
    pub fn turn(&self, turn: u32) -> Self {
        let mut next = self.clone();
        if let Some(request) = next.request.as_mut().filter(|_| turn > 0) {
            request.id = format!("{}\u{1f}{turn}", request.id);
        }
        next
    }

    /// What this very request did when it was made before, while that is remembered.
    #[must_use]
    pub fn answered(&self, state: &ClusterState) -> Option<Outcome> {
        let request = self.request.as_ref()?;
        let recorded = state.request(&request.id)?;
        let same = recorded.fingerprint == request.fingerprint;
        recorded.outcome.clone().ok().filter(|_| same)
    }

    /// Proposes the command, or tries it on a copy.
    pub async fn run(&self, store: &Store, kind: CommandKind) -> Result<Written, CallError> {
        let command = Command { request: self.request.clone(), at: clock::now(), actor: Actor::User, kind };
        if self.validate_only {
            self.rehearse(store, &command).await
        } else {
            self.commit(store, command).await
        }
    }

    async fn rehearse(&self, store: &Store, command: &Command) -> Result<Written, CallError> {
        store.linearize().await?;
        let mut state = ClusterState::clone(&store.snapshot());
        let revision = Revision(state.revision().0 + 1);
        let outcome = state.apply(revision, command).outcome?;
        Ok(self.written(outcome, Arc::new(state), revision))
    }

    async fn commit(&self, store: &Store, command: Command) -> Result<Written, CallError> {
        let committed = store.propose(command).await?;
        let outcome = committed.outcome?;
        wait_applied(store, committed.revision).await?;
        Ok(self.written(outcome, store.snapshot(), committed.revision))
    }

    fn written(&self, outcome: Outcome, state: Arc<ClusterState>, revision: Revision) -> Written {
        let recorded = self.request.as_ref().and_then(|request| state.request(&request.id));
        let revision = recorded.map_or(revision, |recorded| recorded.revision);
        Written { outcome, state, revision }
    }
}

/// Waits until this master shows what was committed at `revision`.
async fn wait_applied(store: &Store, revision: Revision) -> Result<(), CallError> {
    let mut applied = store.changed();
    let reached = applied.wait_for(|now| *now >= revision);
    match tokio::time::timeout(VISIBLE_WITHIN, reached).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(CallError::NotYetVisible { revision }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_complaints_come_at_once() {
        let mut checks = Checks::default();
        checks.spec(None);
        checks.reference("service", String::new());
        checks.etag("tag");
        checks.required("replicas", None::<u32>);
        let violations = checks.write("x".repeat(129), false, &()).unwrap_err();
        let fields: Vec<_> = violations.0.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["spec", "service", "etag", "replicas", "request_id"]);
    }

    #[test]
    fn bodies_are_told_apart() {
        let of = |body: &(&str, u32)| {
            let write = Checks::default().write("r".to_owned(), false, body).unwrap();
            write.request.unwrap().fingerprint
        };
        assert_eq!(of(&("scale", 3)), of(&("scale", 3)));
        assert_ne!(of(&("scale", 3)), of(&("scale", 4)));
        assert_ne!(of(&("scale", 3)), of(&("delete", 3)));
    }

    #[test]
    fn each_turn_is_remembered_apart() {
        let write = Checks::default().write("r".to_owned(), false, &1).unwrap();
        assert_eq!(write.turn(0).request.unwrap().id, "r");
        assert_eq!(write.turn(1).request.unwrap().id, "r\u{1f}1");
    }
}
