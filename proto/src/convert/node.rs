//! Nodes as agents describe them and users steer them.

use skein_common::{
    node::{Availability, Liveness, NodeDescription, Platform},
    placement::GenericResource,
};

use super::InvalidMessage;
use crate::v1;

/// Longest node name; it is part of log prefixes and instance names.
const MAX_NAME: usize = 63;

impl From<Availability> for v1::Availability {
    fn from(availability: Availability) -> Self {
        match availability {
            Availability::Active => Self::Active,
            Availability::Paused => Self::Paused,
            Availability::Drained => Self::Drained,
        }
    }
}

/// `None` for unspecified: unchanged.
impl From<v1::Availability> for Option<Availability> {
    fn from(wire: v1::Availability) -> Self {
        match wire {
            v1::Availability::Unspecified => None,
            v1::Availability::Active => Some(Availability::Active),
            v1::Availability::Paused => Some(Availability::Paused),
            v1::Availability::Drained => Some(Availability::Drained),
        }
    }
}

impl From<Liveness> for v1::Liveness {
    fn from(liveness: Liveness) -> Self {
        match liveness {
            Liveness::Ready => Self::Ready,
            Liveness::Unknown => Self::Unknown,
            Liveness::Down => Self::Down,
        }
    }
}

impl From<&NodeDescription> for v1::NodeDescription {
    fn from(description: &NodeDescription) -> Self {
        Self {
            name: description.name.clone(),
            address: description.address.clone(),
            labels: description.labels.clone().into_iter().collect(),
            capacity: Some(description.capacity.into()),
            reserved: Some(description.reserved.into()),
            os: description.platform.os.clone(),
            arch: description.platform.arch.clone(),
            agent_version: description.agent_version.clone(),
            runtime_version: description.runtime_version.clone(),
            generic: description.generic.iter().map(v1::GenericResource::from).collect(),
            balances: description.balances,
            pids: description.pids,
        }
    }
}

impl TryFrom<v1::NodeDescription> for NodeDescription {
    type Error = InvalidMessage;

    fn try_from(wire: v1::NodeDescription) -> Result<Self, InvalidMessage> {
        let named = !wire.name.is_empty()
            && wire.name.len() <= MAX_NAME
            && wire.name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if !named {
            let reason = format!("{:?} is not a name: 1 to {MAX_NAME} of a-z A-Z 0-9 _ . -", wire.name);
            return Err(InvalidMessage::Invalid { field: "description.name", reason });
        }
        if wire.address.is_empty() {
            return Err(InvalidMessage::Missing { field: "description.address" });
        }
        Ok(Self {
            name: wire.name,
            address: wire.address,
            labels: wire.labels.into_iter().collect(),
            capacity: wire.capacity.unwrap_or_default().into(),
            reserved: wire.reserved.unwrap_or_default().into(),
            platform: Platform { os: wire.os, arch: wire.arch },
            agent_version: wire.agent_version,
            runtime_version: wire.runtime_version,
            generic: wire.generic.into_iter().map(GenericResource::try_from).collect::<Result<_, _>>()?,
            balances: wire.balances,
            pids: wire.pids,
        })
    }
}
