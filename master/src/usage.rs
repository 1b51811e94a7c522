//! What nodes and instances use: the newest sample of each, in the leader's memory.
//!
//! Invariant: nothing here outlives leadership or goes through the log. A node without a session has
//! no samples: absence says "unknown", never "zero".

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use skein_common::{
    InstanceId, NodeId, ServiceId,
    usage::{HostUsage, InstanceUsage},
};
use skein_master_core::ClusterState;
use skein_proto::v1;

/// A sample this much older than its node's newest belongs to an instance that ended.
const KEEP: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct NodeSamples {
    host: Option<HostUsage>,
    instances: BTreeMap<InstanceId, InstanceUsage>,
}

/// The newest samples.
#[derive(Debug, Default)]
pub struct UsageStore(Mutex<HashMap<NodeId, NodeSamples>>);

impl UsageStore {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, NodeSamples>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what one heartbeat brought.
    pub fn record(&self, node: NodeId, host: Option<HostUsage>, instances: Vec<InstanceUsage>) {
        let mut nodes = self.lock();
        let samples = nodes.entry(node).or_default();
        samples.host = host.or(samples.host);
        let Some(newest) = instances.iter().map(|usage| usage.at).max() else { return };
        samples.instances.extend(instances.into_iter().map(|usage| (usage.instance, usage)));
        samples.instances.retain(|_, usage| newest.since(usage.at) < KEEP);
    }

    /// The node's session ended.
    pub fn forget(&self, node: NodeId) {
        self.lock().remove(&node);
    }

    /// How busy each node is, in thousandths of the scarcer of CPU and memory.
    #[must_use]
    pub fn measured(&self) -> BTreeMap<NodeId, u16> {
        let permille = |part: u64, whole: u64| {
            let value = u128::from(part) * 1_000 / u128::from(whole.max(1));
            u16::try_from(value.min(1_000)).unwrap_or(1_000)
        };
        let nodes = self.lock();
        let sampled = nodes.iter().filter_map(|(node, samples)| Some((*node, samples.host?)));
        sampled
            .map(|(node, host)| {
                let cpu = permille(host.cpu_millis, host.cpu_total_millis);
                (node, cpu.max(permille(host.memory_bytes, host.memory_total_bytes)))
            })
            .collect()
    }

    /// The newest sample of every node that has one, in the order of ids.
    #[must_use]
    pub fn nodes(&self, state: &ClusterState) -> Vec<v1::NodeUsage> {
        let nodes = self.lock();
        let sampled = state.nodes().filter_map(|node| {
            let usage = nodes.get(&node.id)?.host?;
            Some(v1::NodeUsage {
                node_id: node.id.to_string(),
                node_name: node.description.name.clone(),
                usage: Some((&usage).into()),
            })
        });
        sampled.collect()
    }

    /// The newest sample of every running instance that has one, of all services or of one.
    #[must_use]
    pub fn instances(&self, state: &ClusterState, service: Option<ServiceId>) -> Vec<v1::InstanceUsage> {
        let nodes = self.lock();
        let sampled = nodes.values().flat_map(|samples| samples.instances.values()).filter(|usage| {
            state.instance(usage.instance).is_some_and(|instance| {
                instance.observed.progress.phase.is_running()
                    && service.is_none_or(|service| instance.service == service)
            })
        });
        let mut usage: Vec<&InstanceUsage> = sampled.collect();
        usage.sort_unstable_by_key(|usage| usage.instance);
        usage.into_iter().map(v1::InstanceUsage::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use skein_common::Timestamp;

    use super::*;

    fn usage(instance: u64, at: u64) -> InstanceUsage {
        InstanceUsage {
            instance: InstanceId::from_random(instance),
            at: Timestamp::from_unix_ms(at),
            cpu_millis: 1,
            memory_bytes: 1,
            network_receive_rate: 0,
            network_transmit_rate: 0,
        }
    }

    #[test]
    fn old_samples_go_and_absent_ones_change_nothing() {
        let (store, node) = (UsageStore::default(), NodeId::from_random(1));
        let host = HostUsage { cpu_millis: 7, ..HostUsage::default() };
        store.record(node, Some(host), vec![usage(1, 0), usage(2, 50_000)]);
        store.record(node, None, Vec::new());
        assert_eq!(store.lock()[&node].host, Some(host));
        assert_eq!(store.lock()[&node].instances.len(), 2);
        store.record(node, None, vec![usage(2, 61_000)]);
        assert_eq!(store.lock()[&node].instances.len(), 1);
        store.forget(node);
        assert!(store.lock().is_empty());
    }
}
