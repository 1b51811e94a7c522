//! When an instance that is to stop may be stopped: after every balancer has let go of it.
//!
//! Invariant: an instance is held back only while it may still get or answer requests, and never longer than its limits:
//! balancers that do not answer are waited for [`SILENT_LIMIT`], requests under way for the service's drain timeout. What
//! is released stays released. Nothing of it is replicated: a new leader asks the balancers again.
//! Deliberately not here: telling balancers and agents (`sessions`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use skein_common::{
    InstanceId, NodeId, Timestamp,
    instance::{Desired, Instance, Phase},
    node::Liveness,
};

use crate::ClusterState;

/// A balancer that does not say that it has heard is not waited for any longer.
pub const SILENT_LIMIT: Duration = Duration::from_secs(5);

/// Whether balancers may be sending it requests although it is to stop.
#[must_use]
pub fn is_leaving(instance: &Instance) -> bool {
    instance.desired > Desired::Run
        && instance.observed.progress.phase == Phase::Ready
        && !instance.ports.is_empty()
        && !instance.lost
}

/// How long its requests may take to end.
#[must_use]
pub fn limit(state: &ClusterState, instance: &Instance) -> Duration {
    // The service as it is now; without one there is nothing to wait for.
    let service = state.service(instance.service);
    service.map_or(Duration::ZERO, |service| service.spec.balance.timeouts.drain)
}

/// Whose word is waited for.
#[must_use]
pub fn balancers(state: &ClusterState) -> Vec<NodeId> {
    let nodes = state.nodes();
    let waited = nodes.filter(|node| node.description.balances && node.liveness != Liveness::Down);
    waited.map(|node| node.id).collect()
}

/// Instances on their way out, and what balancers said.
#[derive(Debug, Default)]
pub struct Drains {
    leaving: BTreeMap<InstanceId, Leaving>,
    balancers: BTreeMap<NodeId, Balancer>,
}

#[derive(Debug)]
struct Leaving {
    /// From this entry of the book of endpoints on it is none.
    number: u64,
    since: Timestamp,
    limit: Duration,
    is_released: bool,
}

#[derive(Debug, Default)]
struct Balancer {
    /// It goes by this entry of the book.
    number: u64,
    /// No endpoints any more, and still answering its requests.
    busy: BTreeSet<InstanceId>,
}

/// What became possible.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Released {
    pub instances: Vec<InstanceId>,
    /// When time alone will release more.
    pub next: Option<Timestamp>,
}

impl Drains {
    /// The instance as it is now; `number` is the entry of the book that knows this, `limit` what its requests may take.
    pub fn look(&mut self, instance: &Instance, number: u64, limit: Duration, now: Timestamp) {
        if is_leaving(instance) {
            let leaving = Leaving { number, since: now, limit, is_released: false };
            self.leaving.entry(instance.id).or_insert(leaving);
        } else {
            self.leaving.remove(&instance.id);
        }
    }

    /// It is no more.
    pub fn forget(&mut self, instance: InstanceId) {
        self.leaving.remove(&instance);
    }

    /// The balancer of this node goes by this entry, and still has requests with these instances.
    pub fn heard(&mut self, node: NodeId, number: u64, busy: BTreeSet<InstanceId>) {
        self.balancers.insert(node, Balancer { number, busy });
    }

    /// The balancer's session ended: it is asked anew when it comes back.
    pub fn lost(&mut self, node: NodeId) {
        self.balancers.remove(&node);
    }

    /// Whether its agent may be told to stop it.
    #[must_use]
    pub fn may_stop(&self, instance: &Instance) -> bool {
        !is_leaving(instance) || self.leaving.get(&instance.id).is_some_and(|leaving| leaving.is_released)
    }

    /// Something is held back.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.leaving.values().any(|leaving| !leaving.is_released)
    }

    /// Releases what no balancer of `nodes` (those that are not down) holds any more.
    pub fn release(&mut self, now: Timestamp, nodes: &[NodeId]) -> Released {
        let mut released = Released::default();
        for (instance, leaving) in self.leaving.iter_mut().filter(|(_, leaving)| !leaving.is_released) {
            match wait(*instance, leaving, &self.balancers, now, nodes) {
                None => {
                    leaving.is_released = true;
                    released.instances.push(*instance);
                }
                Some(until) => {
                    released.next = Some(released.next.map_or(until, |next: Timestamp| next.min(until)));
                }
            }
        }
        released
    }
}

/// Until when at most it is held back; `None` = no longer.
fn wait(
    instance: InstanceId,
    leaving: &Leaving,
    balancers: &BTreeMap<NodeId, Balancer>,
    now: Timestamp,
    nodes: &[NodeId],
) -> Option<Timestamp> {
    let mut nodes = nodes.iter().map(|node| balancers.get(node));
    let is_unheard = nodes.clone().any(|said| said.is_none_or(|said| said.number < leaving.number));
    let is_busy = nodes.any(|said| said.is_some_and(|said| said.busy.contains(&instance)));
    let limits = [(is_unheard, SILENT_LIMIT), (is_busy, leaving.limit)];
    let until = limits.iter().filter(|(is_so, _)| *is_so).map(|(_, limit)| leaving.since + *limit).max();
    until.filter(|until| *until > now)
}

#[cfg(test)]
mod tests {
    use skein_common::service::Publish;

    use super::*;
    use crate::testing::{Cluster, publishing, replicated};

    const LIMIT: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_ms(1_000_000 + seconds * 1_000)
    }

    fn leaving() -> (Instance, [NodeId; 2]) {
        let mut cluster = Cluster::new(2);
        let web = cluster.create(publishing(replicated("web", 1), 80, Publish::Ingress { port: Some(80) }));
        cluster.settle();
        let nodes = [cluster.node("n1"), cluster.node("n2")];
        let mut instance = (*cluster.live(web)[0]).clone();
        assert!(Drains::default().may_stop(&instance), "nobody holds back what is to run");
        instance.desired = Desired::Stop;
        (instance, nodes)
    }

    #[test]
    fn it_stops_when_every_balancer_has_let_go() {
        let (instance, nodes) = leaving();
        let mut drains = Drains::default();
        assert!(!drains.may_stop(&instance), "also when nobody has looked at it yet");
        drains.heard(nodes[0], 6, BTreeSet::new());
        drains.look(&instance, 7, LIMIT, at(0));
        let held = |next| Released { instances: Vec::new(), next: Some(at(next)) };
        assert_eq!(drains.release(at(0), &nodes), held(5), "none has heard of it");
        drains.heard(nodes[0], 7, BTreeSet::new());
        assert_eq!(drains.release(at(1), &nodes), held(5), "one has not");
        drains.heard(nodes[1], 8, BTreeSet::from([instance.id]));
        assert_eq!(drains.release(at(1), &nodes), held(30), "one still answers");
        assert!(!drains.may_stop(&instance));
        drains.heard(nodes[1], 8, BTreeSet::new());
        let released = Released { instances: vec![instance.id], next: None };
        assert_eq!(drains.release(at(1), &nodes), released);
        assert!(drains.may_stop(&instance));
        drains.look(&instance, 9, LIMIT, at(2));
        assert_eq!(drains.release(at(2), &nodes), Released::default(), "once is enough");
        assert!(drains.may_stop(&instance));
    }

    #[test]
    fn nobody_is_waited_for_without_end() {
        let (instance, nodes) = leaving();
        for (said, until) in [(None, 5), (Some(6), 5), (Some(7), 30)] {
            let mut drains = Drains::default();
            if let Some(number) = said {
                drains.heard(nodes[0], number, BTreeSet::from([instance.id]));
            }
            drains.look(&instance, 7, LIMIT, at(0));
            let until = if said.is_some() { 30 } else { until };
            assert_eq!(drains.release(at(until - 1), &nodes[..1]).instances, [], "{said:?}");
            assert_eq!(drains.release(at(until), &nodes[..1]).instances, [instance.id], "{said:?}");
        }
        let mut drains = Drains::default();
        drains.look(&instance, 7, LIMIT, at(0));
        assert_eq!(drains.release(at(0), &[]).instances, [instance.id], "without balancers at once");
    }

    #[test]
    fn a_balancer_that_comes_back_is_asked_again() {
        let (instance, nodes) = leaving();
        let mut drains = Drains::default();
        drains.heard(nodes[0], 9, BTreeSet::new());
        drains.lost(nodes[0]);
        drains.look(&instance, 7, LIMIT, at(0));
        assert_eq!(drains.release(at(0), &nodes[..1]).instances, []);
        drains.heard(nodes[0], 9, BTreeSet::new());
        assert_eq!(drains.release(at(0), &nodes[..1]).instances, [instance.id]);
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let (mut instance, nodes) = leaving();
        let mut drains = Drains::default();
        drains.look(&instance, 7, LIMIT, at(0));
        instance.observed.progress.phase = Phase::Stopped;
        drains.look(&instance, 7, LIMIT, at(0));
        assert!(drains.may_stop(&instance));
        assert_eq!(drains.release(at(99), &nodes), Released::default());
    }
}
