//! What the instances of a group ask of a node, prepared for looking at many nodes.

use skein_common::{
    Resources,
    constraint::Constraint,
    placement::{EXCLUSIVE_LABEL, PlacementPolicy, Strategy},
    service::{PortSpec, ServiceSpec},
};

use super::{
    device::{Ask, Names},
    fleet::Room,
};

pub(super) struct Need<'a> {
    pub(super) reservation: Resources,
    pub(super) constraints: &'a [Constraint],
    pub(super) ports: &'a [PortSpec],
    pub(super) policy: &'a PlacementPolicy,
    pub(super) asks: Vec<Ask>,
    pub(super) strategy: Strategy,
    /// 0 = it does not say.
    pub(super) pids: u64,
}

impl<'a> Need<'a> {
    pub(super) fn of(spec: &'a ServiceSpec, default: Strategy, names: &mut Names) -> Self {
        Self {
            reservation: spec.resources.reservation,
            constraints: &spec.placement.constraints,
            ports: &spec.ports,
            policy: &spec.placement,
            asks: spec.placement.generic.iter().map(|request| names.ask(request)).collect(),
            strategy: spec.placement.strategy.unwrap_or(default),
            pids: spec.resources.pids.map_or(0, u64::from),
        }
    }

    /// Equal for needs that the same nodes pass, as far as filling up does not matter.
    pub(super) fn standing_key(&self) -> String {
        let mut key = String::new();
        for constraint in self.constraints {
            key.push_str(&constraint.to_string());
            key.push('\n');
        }
        for toleration in &self.policy.tolerations {
            key.push('~');
            key.push_str(toleration);
        }
        key
    }

    /// The value of the node's exclusive label, when it is not tolerated.
    pub(super) fn excluded_by<'n>(&self, room: &Room<'n>) -> Option<&'n str> {
        room.node.label(EXCLUSIVE_LABEL).filter(|value| !self.policy.tolerates(value))
    }
}
