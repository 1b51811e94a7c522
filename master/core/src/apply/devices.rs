//! Whether the devices of a placement are there, are what was asked for, and are free.
//!
//! Invariant: whole numbers only; what is asked for and what is free are looked up in the state,
//! so an old plan cannot give a device away twice.

use std::collections::BTreeMap;

use skein_common::{
    node::Node,
    placement::{DeviceShare, GenericRequest, WHOLE_MILLIS},
};

use crate::state::ClusterState;

pub(super) fn suit(
    state: &ClusterState,
    node: &Node,
    requests: &[GenericRequest],
    shares: &[DeviceShare],
) -> bool {
    if requests.is_empty() {
        return shares.is_empty();
    }
    let wanted: usize = requests.iter().map(|request| usize::from(request.count)).sum();
    wanted == shares.len()
        && requests.iter().all(|request| is_met(node, request, shares))
        && are_free(state, node, shares)
}

/// Exactly the devices asked for, each once and of an accepted model.
fn is_met(node: &Node, request: &GenericRequest, shares: &[DeviceShare]) -> bool {
    let mut given: Vec<_> = shares.iter().filter(|share| share.name == request.name).collect();
    given.sort_unstable();
    let count = given.len();
    given.dedup_by_key(|share| share.device);
    let suits = |share: &DeviceShare| {
        share.millis == request.millis
            && model(node, &share.name, share.device).is_some_and(|model| request.accepts(model))
    };
    count == usize::from(request.count) && given.len() == count && given.into_iter().all(suits)
}

/// Devices of one name are numbered through, in the order of the description.
fn model<'a>(node: &'a Node, name: &str, device: u16) -> Option<&'a str> {
    let mut first = 0u32;
    for resource in node.description.generic.iter().filter(|resource| resource.name == name) {
        first += u32::from(resource.count);
        if u32::from(device) < first {
            return Some(&resource.model);
        }
    }
    None
}

fn are_free(state: &ClusterState, node: &Node, shares: &[DeviceShare]) -> bool {
    let mut used: BTreeMap<(&str, u16), u32> = BTreeMap::new();
    let there = state.instances_on(node.id).filter(|instance| instance.occupies().is_some());
    let taken = there.flat_map(|instance| &instance.devices);
    for share in taken.chain(shares) {
        *used.entry((share.name.as_str(), share.device)).or_default() += u32::from(share.millis);
    }
    shares.iter().all(|share| {
        used.get(&(share.name.as_str(), share.device)).is_none_or(|used| *used <= u32::from(WHOLE_MILLIS))
    })
}
