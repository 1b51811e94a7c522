//! What balancers measured lately: the reports of each node, in the leader's memory.
//!
//! Invariant: nothing here outlives leadership or goes through the log. A node without a session has no reports: absence
//! says "unknown", never "zero". Reports are measured in their own time, so clocks that differ change nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use skein_common::{
    NodeId, ServiceId,
    load::{LoadReport, ServiceLoad},
};

/// How far back can be asked for.
pub const KEEP: Duration = Duration::from_secs(60);
/// Of one node, whatever it sends.
const REPORTS_MAX: usize = 128;

/// The last minute of each node.
#[derive(Debug, Default)]
pub struct LoadStore(Mutex<HashMap<NodeId, Reports>>);

/// Oldest first.
type Reports = VecDeque<Arc<LoadReport>>;

impl LoadStore {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Reports>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what one heartbeat brought.
    pub fn record(&self, node: NodeId, report: LoadReport) {
        let mut nodes = self.lock();
        let reports = nodes.entry(node).or_default();
        reports.push_back(Arc::new(report));
        let kept = within(reports, KEEP).count().min(REPORTS_MAX);
        reports.drain(..reports.len() - kept);
    }

    /// The node's session ended.
    pub fn forget(&self, node: NodeId) {
        self.lock().remove(&node);
    }

    /// What the last `window` (at least one report, at most [`KEEP`]) says of a service, of all its ports or of one.
    #[must_use]
    pub fn service(&self, service: ServiceId, port: Option<u16>, window: Duration) -> ServiceLoad {
        let nodes = self.recent(window);
        let nodes = nodes.iter().map(|(node, reports)| (*node, reports.iter().map(AsRef::as_ref)));
        ServiceLoad::sum(service, port, nodes)
    }

    /// The same, each node for itself.
    #[must_use]
    pub fn by_node(
        &self,
        service: ServiceId,
        port: Option<u16>,
        window: Duration,
    ) -> Vec<(NodeId, ServiceLoad)> {
        let one = |(node, reports): (NodeId, Vec<Arc<LoadReport>>)| {
            let reports = reports.iter().map(AsRef::as_ref);
            (node, ServiceLoad::sum(service, port, [(node, reports)]))
        };
        self.recent(window).into_iter().map(one).collect()
    }

    /// The reports of the last `window` of each node, oldest first; by node.
    #[must_use]
    pub fn recent(&self, window: Duration) -> Vec<(NodeId, Vec<Arc<LoadReport>>)> {
        let nodes = self.lock();
        let mut recent: Vec<_> = nodes
            .iter()
            .map(|(node, reports)| {
                let mut recent: Vec<_> = within(reports, window).cloned().collect();
                recent.reverse();
                (*node, recent)
            })
            .collect();
        drop(nodes);
        recent.sort_unstable_by_key(|(node, _)| *node);
        recent
    }
}

/// Newest first, until they cover the window.
fn within(reports: &Reports, window: Duration) -> impl Iterator<Item = &Arc<LoadReport>> {
    let mut covered = Duration::ZERO;
    reports.iter().rev().take_while(move |report| {
        let is_wanted = covered.is_zero() || covered < window;
        covered = covered.saturating_add(report.interval.max(Duration::from_millis(1)));
        is_wanted
    })
}

#[cfg(test)]
mod tests {
    use skein_common::load::{FrontLoad, PortLoad};

    use super::*;

    fn report(seconds: u64, refused: u64) -> LoadReport {
        let front = FrontLoad { refused, ..FrontLoad::default() };
        let port = PortLoad {
            service: ServiceId::from_random(1),
            container_port: 80,
            published: None,
            front,
            instances: Vec::new(),
        };
        LoadReport { interval: Duration::from_secs(seconds), ports: vec![port], ..LoadReport::default() }
    }

    #[test]
    fn a_window_is_of_reports_and_a_minute_is_kept() {
        let (store, node) = (LoadStore::default(), NodeId::from_random(1));
        let refused = |window| {
            store.service(ServiceId::from_random(1), None, Duration::from_secs(window)).front.refused
        };
        assert_eq!(refused(60), 0);
        for seconds in [30, 2, 2, 40] {
            store.record(node, report(seconds, seconds));
        }
        assert_eq!(
            [0, 40, 41, 43, 60].map(refused),
            [40, 40, 42, 44, 74],
            "whole reports until it is covered"
        );
        store.record(node, report(59, 59));
        assert_eq!(refused(60), 99, "what a minute does not need is gone");
        for _ in 0..1_000 {
            store.record(node, report(0, 1));
        }
        assert_eq!(store.lock()[&node].len(), REPORTS_MAX);
        store.forget(node);
        assert_eq!(store.service(ServiceId::from_random(1), None, KEEP).nodes, 0);
    }
}
