//! Reading for the API: how fresh, and by which name.
//!
//! Invariant: an object that exists is found by id or by name, and an id wins. A miss in the local
//! state is believed only after a linearizable look, so a master that lags never says NOT_FOUND
//! about what another master has acknowledged.

use std::sync::Arc;

use skein_common::{Violations, instance::Instance, node::Node};
use skein_master_core::{ClusterState, Rejection, command::ObjectKind, state::Service};
use skein_proto::v1::Consistency;

use crate::{status::CallError, store::Store};

/// The state that a read with this consistency may use.
pub async fn state(store: &Store, consistency: i32) -> Result<Arc<ClusterState>, CallError> {
    match Consistency::try_from(consistency) {
        Ok(Consistency::Unspecified | Consistency::Linearizable) => {
            store.linearize().await?;
            Ok(store.snapshot())
        }
        Ok(Consistency::Stale) => Ok(store.snapshot()),
        Err(unknown) => {
            let mut found = Violations::default();
            found.add("consistency", format!("{unknown}: use CONSISTENCY_LINEARIZABLE or CONSISTENCY_STALE"));
            Err(found.into())
        }
    }
}

/// Finds something in the local state, or, before giving up, in a linearizable one.
pub async fn find<T>(
    store: &Store,
    look: impl Fn(&ClusterState) -> Result<T, Rejection>,
) -> Result<T, CallError> {
    if let Ok(found) = look(&store.snapshot()) {
        return Ok(found);
    }
    store.linearize().await?;
    Ok(look(&store.snapshot())?)
}

/// The service with this id or name.
pub fn service(state: &ClusterState, reference: &str) -> Result<Arc<Service>, Rejection> {
    let by_id = reference.parse().ok().and_then(|id| state.service(id));
    by_id
        .or_else(|| state.service_by_name(reference))
        .cloned()
        .ok_or_else(|| missing(ObjectKind::Service, reference))
}

/// The node with this id or name.
pub fn node(state: &ClusterState, reference: &str) -> Result<Arc<Node>, Rejection> {
    let by_id = reference.parse().ok().and_then(|id| state.node(id));
    by_id
        .or_else(|| state.node_by_name(reference))
        .cloned()
        .ok_or_else(|| missing(ObjectKind::Node, reference))
}

/// The instance with this id.
pub fn instance(state: &ClusterState, reference: &str) -> Result<Arc<Instance>, Rejection> {
    let by_id = reference.parse().ok().and_then(|id| state.instance(id));
    by_id.cloned().ok_or_else(|| missing(ObjectKind::Instance, reference))
}

/// `look` applied to a filter; an empty one is none.
pub fn filter<T>(
    reference: &str,
    look: impl FnOnce(&str) -> Result<T, Rejection>,
) -> Result<Option<T>, Rejection> {
    if reference.is_empty() { Ok(None) } else { look(reference).map(Some) }
}

fn missing(kind: ObjectKind, reference: &str) -> Rejection {
    Rejection::NotFound { kind, id: reference.to_owned() }
}
