//! Samples of what is used. A NaN or negative figure of a peer is refused at this door.

use skein_common::usage::{HostUsage, InstanceUsage};

use super::{InvalidMessage, id, required, timestamp_from_wire, timestamp_to_wire};
use crate::v1;

impl From<&HostUsage> for v1::HostUsage {
    fn from(usage: &HostUsage) -> Self {
        Self {
            at: Some(timestamp_to_wire(usage.at)),
            cpu_millis: usage.cpu_millis,
            cpu_total_millis: usage.cpu_total_millis,
            memory_bytes: usage.memory_bytes,
            memory_total_bytes: usage.memory_total_bytes,
            load_one: usage.load_one,
            disk_bytes: usage.disk_bytes,
            disk_total_bytes: usage.disk_total_bytes,
            network_receive_rate: usage.network_receive_rate,
            network_transmit_rate: usage.network_transmit_rate,
        }
    }
}

impl TryFrom<v1::HostUsage> for HostUsage {
    type Error = InvalidMessage;

    fn try_from(wire: v1::HostUsage) -> Result<Self, InvalidMessage> {
        if !wire.load_one.is_finite() || wire.load_one < 0.0 {
            return Err(InvalidMessage::invalid("host.load_one", "must be a finite number of at least 0"));
        }
        Ok(Self {
            at: timestamp_from_wire("host.at", required("host.at", wire.at)?)?,
            cpu_millis: wire.cpu_millis,
            cpu_total_millis: wire.cpu_total_millis,
            memory_bytes: wire.memory_bytes,
            memory_total_bytes: wire.memory_total_bytes,
            load_one: wire.load_one,
            disk_bytes: wire.disk_bytes,
            disk_total_bytes: wire.disk_total_bytes,
            network_receive_rate: wire.network_receive_rate,
            network_transmit_rate: wire.network_transmit_rate,
        })
    }
}

impl From<&InstanceUsage> for v1::InstanceUsage {
    fn from(usage: &InstanceUsage) -> Self {
        Self {
            instance_id: usage.instance.to_string(),
            at: Some(timestamp_to_wire(usage.at)),
            cpu_millis: usage.cpu_millis,
            memory_bytes: usage.memory_bytes,
            network_receive_rate: usage.network_receive_rate,
            network_transmit_rate: usage.network_transmit_rate,
        }
    }
}

impl TryFrom<v1::InstanceUsage> for InstanceUsage {
    type Error = InvalidMessage;

    fn try_from(wire: v1::InstanceUsage) -> Result<Self, InvalidMessage> {
        Ok(Self {
            instance: id("instances.instance_id", &wire.instance_id)?,
            at: timestamp_from_wire("instances.at", required("instances.at", wire.at)?)?,
            cpu_millis: wire.cpu_millis,
            memory_bytes: wire.memory_bytes,
            network_receive_rate: wire.network_receive_rate,
            network_transmit_rate: wire.network_transmit_rate,
        })
    }
}
