//! Host ports: which are used on each address, and which one an instance gets.
//!
//! Nodes with one address share its ports, so the book is kept by address. Dynamic ports are
//! probed from a start that follows from the instance's id: a replacement begins elsewhere, so a
//! port that something foreign holds is not tried twice in a row.
//!
//! Invariant: a port is handed out once per address and protocol.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use skein_common::{
    InstanceId,
    instance::PortBinding,
    service::{PortSpec, Protocol, Publish},
};

use crate::state::ClusterState;

/// Below the ephemeral range of Linux (32768–60999), above what services usually listen on.
pub const DYNAMIC_PORTS: RangeInclusive<u16> = 20_000..=32_000;
const DYNAMIC_COUNT: u16 = *DYNAMIC_PORTS.end() - *DYNAMIC_PORTS.start() + 1;

#[derive(Clone)]
pub(super) struct PortBook<'a> {
    state: &'a ClusterState,
    /// Handed out in this pass.
    taken: BTreeMap<&'a str, BTreeSet<(Protocol, u16)>>,
}

impl<'a> PortBook<'a> {
    pub(super) fn new(state: &'a ClusterState) -> Self {
        Self { state, taken: BTreeMap::new() }
    }

    pub(super) fn in_use(&self, address: &str, protocol: Protocol, port: u16) -> bool {
        self.state.host_port_in_use(address, protocol, port)
            || self.taken.get(address).is_some_and(|taken| taken.contains(&(protocol, port)))
    }

    /// Whether the dynamic ports among these can all be handed out.
    pub(super) fn has_dynamic(&self, address: &str, wanted: &[PortSpec]) -> bool {
        let used = self.state.host_port_count(address) + self.taken.get(address).map_or(0, BTreeSet::len);
        // Nearly always true, and cheap: even if all that is used were in the range.
        used + wanted.len() <= usize::from(DYNAMIC_COUNT)
            || [Protocol::Tcp, Protocol::Udp].into_iter().all(|protocol| {
                let needed =
                    wanted.iter().filter(|port| port.protocol == protocol && is_dynamic(port)).count();
                let free = DYNAMIC_PORTS.filter(|port| !self.in_use(address, protocol, *port));
                needed == 0 || free.take(needed).count() == needed
            })
    }

    /// Takes a port for each spec; nothing, when one of them has none.
    pub(super) fn take(
        &mut self,
        address: &'a str,
        instance: InstanceId,
        wanted: &[PortSpec],
    ) -> Option<Vec<PortBinding>> {
        let mut bindings: Vec<PortBinding> = Vec::with_capacity(wanted.len());
        // Fixed ports first, or a dynamic one could take theirs.
        for spec in
            wanted.iter().filter(|spec| !is_dynamic(spec)).chain(wanted.iter().filter(|s| is_dynamic(s)))
        {
            let free = |port: u16| {
                let mine = bindings.iter().any(|b| b.protocol == spec.protocol && b.host_port == port);
                !mine && !self.in_use(address, spec.protocol, port)
            };
            let host_port = match spec.publish {
                Publish::Host { port } => Some(port).filter(|port| free(*port)),
                Publish::Ingress { .. } => probes(instance).find(|port| free(*port)),
            }?;
            bindings.push(PortBinding {
                container_port: spec.container_port,
                host_port,
                protocol: spec.protocol,
            });
        }
        if !bindings.is_empty() {
            self.taken.entry(address).or_default().extend(bindings.iter().map(|b| (b.protocol, b.host_port)));
        }
        Some(bindings)
    }
}

fn is_dynamic(spec: &PortSpec) -> bool {
    matches!(spec.publish, Publish::Ingress { .. })
}

/// Every dynamic port once, from a start that follows from the id.
fn probes(instance: InstanceId) -> impl Iterator<Item = u16> {
    let offset = u16::try_from(instance.get() % u64::from(DYNAMIC_COUNT)).unwrap_or(0);
    let start = *DYNAMIC_PORTS.start() + offset;
    (start..=*DYNAMIC_PORTS.end()).chain(*DYNAMIC_PORTS.start()..start)
}

#[cfg(test)]
mod tests;
