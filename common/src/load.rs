//! What balancers measured: the load signal, from every node to the leader and on to autoscaling and `skein balance`.
//!
//! Invariant: a report holds what happened in its interval (counts) and what is the case at its end (gauges). A port or
//! an instance that a report does not name had nothing in that interval: zero, not unknown. Unknown is a node without a
//! report. Sums over nodes are exact, quantiles of sums too, because latencies travel as counts of buckets.
//! Deliberately not here: counting (`agent/core`, `balance`), keeping (`master`, `load`).

mod latencies;

use std::{collections::BTreeMap, ops::AddAssign, time::Duration};

pub use self::latencies::{BUCKETS, Latencies, bucket_of, bucket_start};
use crate::{InstanceId, NodeId, ServiceId, Timestamp};

/// What the balancer of one node did since its last report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadReport {
    pub at: Timestamp,
    /// Since the report before.
    pub interval: Duration,
    /// In order of service and port; without those that had nothing.
    pub ports: Vec<PortLoad>,
}

/// One port of one service on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortLoad {
    pub service: ServiceId,
    pub container_port: u16,
    pub published: Option<u16>,
    pub front: FrontLoad,
    /// By instance; without those that had nothing.
    pub instances: Vec<InstanceLoad>,
}

/// What belongs to no instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrontLoad {
    /// Requests that wait for an instance now.
    pub waiting: u32,
    /// Requests that got no instance: none came in time, or too many waited.
    pub refused: u64,
    /// Clients that connected.
    pub connections: u64,
    /// Clients that are connected now.
    pub connected: u32,
}

/// What one node had with one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceLoad {
    pub instance: InstanceId,
    /// Requests under way now; in mode tcp connections.
    pub in_flight: u32,
    /// It gets no requests at the moment.
    pub out: Option<Out>,
    pub counts: Counts,
}

/// What happened in an interval.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Tries sent its way, also those that did not reach it.
    pub tries: u64,
    /// Tries of requests that had failed elsewhere.
    pub retries: u64,
    pub endings: Endings,
    /// From clients and to clients: bodies of HTTP requests and answers, all bytes of connections.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// It was put out for a while.
    pub ejections: u64,
    /// From the choice of the instance to the head of its answer (mode tcp: to the connection); of answers only.
    pub latencies: Latencies,
}

/// How tries ended; in mode tcp a connection is `ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Endings {
    /// Status below 400.
    pub ok: u64,
    /// 4xx.
    pub client_errors: u64,
    /// 5xx.
    pub server_errors: u64,
    /// No connection.
    pub unreachable: u64,
    /// No answer in time.
    pub late: u64,
    /// The connection ended before the answer.
    pub broken: u64,
    /// The client went away before the answer.
    pub abandoned: u64,
}

/// Why an instance gets no requests from a node, and for how long from the report on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Out {
    pub cause: OutCause,
    /// Zero = until a check finds it well.
    pub remaining: Duration,
}

/// What it was put out for: the last of the failures in a row, or the active check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutCause {
    ServerErrors,
    Unreachable,
    Late,
    Broken,
    Check,
}

/// One service over all nodes and its ports, from reports of a window.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServiceLoad {
    /// Nodes whose reports are in it; none = nothing is known.
    pub nodes: u32,
    /// Time that the counts are of: the mean over nodes.
    pub window: Duration,
    /// Gauges are sums of the newest reports.
    pub front: FrontLoad,
    pub instances: BTreeMap<InstanceId, InstanceSum>,
}

/// One instance over all nodes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InstanceSum {
    pub in_flight: u32,
    pub counts: Counts,
    /// The nodes that send it nothing at the moment.
    pub out: BTreeMap<NodeId, Out>,
}

impl Counts {
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// What was counted after `earlier`, which these counts include.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let (ends, before) = (&self.endings, &earlier.endings);
        Self {
            tries: self.tries.saturating_sub(earlier.tries),
            retries: self.retries.saturating_sub(earlier.retries),
            endings: Endings {
                ok: ends.ok.saturating_sub(before.ok),
                client_errors: ends.client_errors.saturating_sub(before.client_errors),
                server_errors: ends.server_errors.saturating_sub(before.server_errors),
                unreachable: ends.unreachable.saturating_sub(before.unreachable),
                late: ends.late.saturating_sub(before.late),
                broken: ends.broken.saturating_sub(before.broken),
                abandoned: ends.abandoned.saturating_sub(before.abandoned),
            },
            bytes_in: self.bytes_in.saturating_sub(earlier.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(earlier.bytes_out),
            ejections: self.ejections.saturating_sub(earlier.ejections),
            latencies: self.latencies.since(&earlier.latencies),
        }
    }
}

impl Endings {
    /// Failures that are the instance's: what a client would have seen as an error of the service.
    #[must_use]
    pub const fn failures(&self) -> u64 {
        let unanswered = self.unreachable.saturating_add(self.late).saturating_add(self.broken);
        self.server_errors.saturating_add(unanswered)
    }
}

impl FrontLoad {
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

impl InstanceLoad {
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.in_flight == 0 && self.out.is_none() && self.counts.is_zero()
    }
}

/// What peers tell may be anything.
const fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

impl AddAssign<&Self> for Counts {
    fn add_assign(&mut self, other: &Self) {
        add(&mut self.tries, other.tries);
        add(&mut self.retries, other.retries);
        self.endings += other.endings;
        add(&mut self.bytes_in, other.bytes_in);
        add(&mut self.bytes_out, other.bytes_out);
        add(&mut self.ejections, other.ejections);
        self.latencies.merge(&other.latencies);
    }
}

impl AddAssign for Endings {
    fn add_assign(&mut self, other: Self) {
        add(&mut self.ok, other.ok);
        add(&mut self.client_errors, other.client_errors);
        add(&mut self.server_errors, other.server_errors);
        add(&mut self.unreachable, other.unreachable);
        add(&mut self.late, other.late);
        add(&mut self.broken, other.broken);
        add(&mut self.abandoned, other.abandoned);
    }
}

impl ServiceLoad {
    /// From the reports of each node, oldest first. A node without any is not known; one that does not name the service
    /// had nothing of it.
    pub fn sum<'a, R>(
        service: ServiceId,
        port: Option<u16>,
        nodes: impl IntoIterator<Item = (NodeId, R)>,
    ) -> Self
    where
        R: IntoIterator<Item = &'a LoadReport>,
    {
        let mut sum = Self::default();
        let mut time = Duration::ZERO;
        for (node, reports) in nodes {
            let mut newest = None;
            for report in reports {
                newest = Some(report);
                time = time.saturating_add(report.interval);
                for load in report.ports_of(service, port) {
                    sum.add_counts(load);
                }
            }
            let Some(newest) = newest else { continue };
            sum.nodes += 1;
            for load in newest.ports_of(service, port) {
                sum.add_gauges(node, load);
            }
        }
        sum.window = time.checked_div(sum.nodes).unwrap_or_default();
        sum
    }

    fn add_counts(&mut self, load: &PortLoad) {
        add(&mut self.front.refused, load.front.refused);
        add(&mut self.front.connections, load.front.connections);
        for instance in &load.instances {
            self.instances.entry(instance.instance).or_default().counts += &instance.counts;
        }
    }

    fn add_gauges(&mut self, node: NodeId, load: &PortLoad) {
        self.front.waiting = self.front.waiting.saturating_add(load.front.waiting);
        self.front.connected = self.front.connected.saturating_add(load.front.connected);
        for instance in &load.instances {
            let sum = self.instances.entry(instance.instance).or_default();
            sum.in_flight = sum.in_flight.saturating_add(instance.in_flight);
            sum.out.extend(instance.out.map(|out| (node, out)));
        }
    }

    /// All instances together.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.instances.values().for_each(|sum| counts += &sum.counts);
        counts
    }

    /// Requests of clients a second, those that were refused or are waiting included: what is asked of the service,
    /// not what it manages. Zero before anything is known.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let counts = self.counts();
        let asked = counts.tries.saturating_sub(counts.retries).saturating_add(self.front.refused);
        self.per_second(asked.saturating_add(self.front.waiting.into()))
    }

    /// A count of the window, a second.
    #[must_use]
    pub fn per_second(&self, count: u64) -> f64 {
        if self.window.is_zero() { 0.0 } else { count as f64 / self.window.as_secs_f64() }
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.instances.values().map(|sum| u64::from(sum.in_flight)).sum()
    }
}

impl LoadReport {
    fn ports_of(&self, service: ServiceId, port: Option<u16>) -> impl Iterator<Item = &PortLoad> {
        self.ports.iter().filter(move |load| {
            load.service == service && port.is_none_or(|container_port| load.container_port == container_port)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(seconds: u64, tries: u64, retries: u64, in_flight: u32, waiting: u32) -> LoadReport {
        let counts = Counts { tries, retries, ..Counts::default() };
        let instance = InstanceLoad { instance: InstanceId::from_random(1), in_flight, out: None, counts };
        LoadReport {
            at: Timestamp::from_unix_ms(seconds * 1_000),
            interval: Duration::from_secs(seconds),
            ports: vec![PortLoad {
                service: ServiceId::from_random(1),
                container_port: 80,
                published: None,
                front: FrontLoad { waiting, refused: 5, ..FrontLoad::default() },
                instances: vec![instance],
            }],
        }
    }

    #[test]
    fn nodes_add_up_and_gauges_are_of_now() {
        let (one, two, idle) = (report(2, 100, 10, 7, 9), report(2, 60, 0, 1, 2), LoadReport::default());
        let node = NodeId::from_random;
        let service = ServiceId::from_random(1);
        let nodes = vec![
            (node(1), vec![&one, &two]),
            (node(2), vec![&two, &two]),
            (node(3), vec![]),
            (node(4), vec![&idle]),
        ];
        let sum = ServiceLoad::sum(service, None, nodes.clone());
        assert_eq!((sum.nodes, sum.window), (3, Duration::from_secs(8) / 3));
        assert_eq!((sum.in_flight(), sum.front.waiting, sum.front.refused), (2, 4, 20));
        let asked = f64::from(100 - 10 + 3 * 60 + 20 + 4);
        assert!((sum.rate() - asked / sum.window.as_secs_f64()).abs() < 1e-9);
        assert_eq!(ServiceLoad::sum(service, Some(81), nodes).counts(), Counts::default());
        let nobody = ServiceLoad::sum(service, None, Vec::<(NodeId, Vec<&LoadReport>)>::new());
        assert_eq!((nobody.nodes, nobody.rate().to_bits()), (0, 0));
    }
}
