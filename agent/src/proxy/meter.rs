//! What the balancer of this node measures, for the masters and for `/metrics`.
//!
//! Invariant: a report holds everything since the one before, also of ports and endpoints that have gone meanwhile.
//! Reading delays no request: counters are atomics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use skein_common::{
    InstanceId, ServiceId, Timestamp,
    load::{Counts, FrontLoad, LoadReport, Out, PortLoad},
};

use super::front::Front;

/// A port of the container may be published more than once.
pub(crate) type Key = (ServiceId, u16, Option<u16>);

/// Ports that are no more and were not reported; without masters nobody asks.
const GONE_MAX: usize = 256;

/// Shared by the balancer, the session and `/metrics`.
#[derive(Debug)]
pub struct LoadMeter(Mutex<Metered>);

#[derive(Debug)]
struct Metered {
    fronts: BTreeMap<Key, Arc<Front>>,
    gone: Vec<(Key, Arc<Front>)>,
    reported: Instant,
}

/// One port of one service, since this node serves it.
#[derive(Debug, Clone)]
pub struct MeasuredPort {
    /// Of the service.
    pub name: String,
    pub container_port: u16,
    pub published: Option<u16>,
    pub front: FrontLoad,
    pub instances: Vec<MeasuredInstance>,
}

/// One endpoint, since it is one.
#[derive(Debug, Clone)]
pub struct MeasuredInstance {
    pub instance: InstanceId,
    pub in_flight: u32,
    pub out: Option<Out>,
    pub counts: Counts,
    pub latency_sum: Duration,
}

impl LoadMeter {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Metered { fronts: BTreeMap::new(), gone: Vec::new(), reported: Instant::now() }))
    }

    fn lock(&self) -> MutexGuard<'_, Metered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these ports are served.
    pub(crate) fn serve(&self, fronts: BTreeMap<Key, Arc<Front>>) {
        let mut metered = self.lock();
        let before = std::mem::replace(&mut metered.fronts, fronts);
        let (mut gone, is_new) = (Vec::new(), |key: &Key, front: &Arc<Front>| {
            metered.fronts.get(key).is_none_or(|now| !Arc::ptr_eq(now, front))
        });
        gone.extend(before.into_iter().filter(|(key, front)| is_new(key, front)));
        metered.gone.append(&mut gone);
        let surplus = metered.gone.len().saturating_sub(GONE_MAX);
        metered.gone.drain(..surplus);
    }

    /// Everything that is served, since it is served.
    #[must_use]
    pub fn read(&self) -> Vec<MeasuredPort> {
        let fronts: Vec<(Key, Arc<Front>)> =
            self.lock().fronts.iter().map(|(key, front)| (*key, Arc::clone(front))).collect();
        let measured = fronts.into_iter().map(|((_, container_port, published), front)| MeasuredPort {
            name: front.name.clone(),
            container_port,
            published,
            front: front.load(),
            instances: front.measured(),
        });
        measured.collect()
    }

    /// What happened since the report before; for one who reports.
    pub fn report(&self, at: Timestamp) -> LoadReport {
        let mut metered = self.lock();
        let now = Instant::now();
        let interval = now.duration_since(std::mem::replace(&mut metered.reported, now));
        let gone = std::mem::take(&mut metered.gone);
        let served = metered.fronts.iter().map(|(key, front)| (*key, front));
        let mut ports: Vec<PortLoad> =
            served.chain(gone.iter().map(|(key, front)| (*key, front))).filter_map(port).collect();
        ports.sort_by_key(|load| (load.service, load.container_port, load.published));
        LoadReport { at, interval, ports }
    }
}

/// `None` = it had nothing.
fn port(((service, container_port, published), front): (Key, &Arc<Front>)) -> Option<PortLoad> {
    let (front, instances) = front.news();
    let is_idle = front.is_zero() && instances.is_empty();
    (!is_idle).then_some(PortLoad { service, container_port, published, front, instances })
}
