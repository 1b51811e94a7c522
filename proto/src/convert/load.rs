//! What balancers measured.

use std::time::Duration;

use skein_common::load::{
    Counts, Endings, FrontLoad, InstanceLoad, Latencies, LoadReport, Out, OutCause, PortLoad,
};

use super::{
    InvalidMessage, duration_from_wire, duration_to_wire, id, port, required, timestamp_from_wire,
    timestamp_to_wire,
};
use crate::v1;

impl From<&LoadReport> for v1::LoadReport {
    fn from(report: &LoadReport) -> Self {
        Self {
            at: Some(timestamp_to_wire(report.at)),
            interval: Some(duration_to_wire(report.interval)),
            ports: report.ports.iter().map(v1::PortLoad::from).collect(),
        }
    }
}

impl TryFrom<v1::LoadReport> for LoadReport {
    type Error = InvalidMessage;

    fn try_from(wire: v1::LoadReport) -> Result<Self, InvalidMessage> {
        let interval = required("load.interval", wire.interval)?;
        Ok(Self {
            at: timestamp_from_wire("load.at", required("load.at", wire.at)?)?,
            interval: duration_from_wire("load.interval", interval)?,
            ports: wire.ports.into_iter().map(PortLoad::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&PortLoad> for v1::PortLoad {
    fn from(load: &PortLoad) -> Self {
        Self {
            service_id: load.service.to_string(),
            container_port: load.container_port.into(),
            published_port: load.published.unwrap_or(0).into(),
            front: Some((&load.front).into()),
            instances: load.instances.iter().map(v1::InstanceLoad::from).collect(),
        }
    }
}

impl TryFrom<v1::PortLoad> for PortLoad {
    type Error = InvalidMessage;

    fn try_from(wire: v1::PortLoad) -> Result<Self, InvalidMessage> {
        let published = port("load.published_port", wire.published_port)?;
        let front = wire.front.unwrap_or_default();
        Ok(Self {
            service: id("load.service_id", &wire.service_id)?,
            container_port: port("load.container_port", wire.container_port)?,
            published: (published > 0).then_some(published),
            front: FrontLoad {
                waiting: front.waiting,
                refused: front.refused,
                connections: front.connections,
                connected: front.connected,
            },
            instances: wire.instances.into_iter().map(InstanceLoad::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&FrontLoad> for v1::FrontLoad {
    fn from(front: &FrontLoad) -> Self {
        Self {
            waiting: front.waiting,
            refused: front.refused,
            connections: front.connections,
            connected: front.connected,
        }
    }
}

impl From<&InstanceLoad> for v1::InstanceLoad {
    fn from(load: &InstanceLoad) -> Self {
        Self {
            instance_id: load.instance.to_string(),
            in_flight: load.in_flight,
            out: load.out.as_ref().map(v1::InstanceOut::from),
            counts: Some((&load.counts).into()),
        }
    }
}

impl TryFrom<v1::InstanceLoad> for InstanceLoad {
    type Error = InvalidMessage;

    fn try_from(wire: v1::InstanceLoad) -> Result<Self, InvalidMessage> {
        Ok(Self {
            instance: id("load.instance_id", &wire.instance_id)?,
            in_flight: wire.in_flight,
            out: wire.out.map(Out::try_from).transpose()?,
            counts: wire.counts.unwrap_or_default().into(),
        })
    }
}

impl From<&Counts> for v1::LoadCounts {
    fn from(counts: &Counts) -> Self {
        let Endings { ok, client_errors, server_errors, unreachable, late, broken, abandoned } =
            counts.endings;
        let (buckets, each) = counts
            .latencies
            .counts()
            .map(|(bucket, count)| (u32::try_from(bucket).unwrap_or(u32::MAX), count))
            .unzip();
        Self {
            tries: counts.tries,
            retries: counts.retries,
            ok,
            client_errors,
            server_errors,
            unreachable,
            late,
            broken,
            abandoned,
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            ejections: counts.ejections,
            latencies: Some(v1::Latencies { buckets, counts: each }),
        }
    }
}

impl From<v1::LoadCounts> for Counts {
    fn from(wire: v1::LoadCounts) -> Self {
        let latencies = wire.latencies.unwrap_or_default();
        let buckets =
            latencies.buckets.into_iter().map(|bucket| usize::try_from(bucket).unwrap_or(usize::MAX));
        Self {
            tries: wire.tries,
            retries: wire.retries,
            endings: Endings {
                ok: wire.ok,
                client_errors: wire.client_errors,
                server_errors: wire.server_errors,
                unreachable: wire.unreachable,
                late: wire.late,
                broken: wire.broken,
                abandoned: wire.abandoned,
            },
            bytes_in: wire.bytes_in,
            bytes_out: wire.bytes_out,
            ejections: wire.ejections,
            latencies: Latencies::from_counts(buckets.zip(latencies.counts)),
        }
    }
}

impl From<&Out> for v1::InstanceOut {
    fn from(out: &Out) -> Self {
        let cause = match out.cause {
            OutCause::ServerErrors => v1::OutCause::ServerErrors,
            OutCause::Unreachable => v1::OutCause::Unreachable,
            OutCause::Late => v1::OutCause::Late,
            OutCause::Broken => v1::OutCause::Broken,
            OutCause::Check => v1::OutCause::Check,
        };
        Self {
            cause: cause.into(),
            remaining: (!out.remaining.is_zero()).then(|| duration_to_wire(out.remaining)),
        }
    }
}

impl TryFrom<v1::InstanceOut> for Out {
    type Error = InvalidMessage;

    fn try_from(wire: v1::InstanceOut) -> Result<Self, InvalidMessage> {
        let unknown = || InvalidMessage::invalid("load.out.cause", format!("{} is unknown", wire.cause));
        let cause = match v1::OutCause::try_from(wire.cause).map_err(|_| unknown())? {
            v1::OutCause::Unspecified => return Err(unknown()),
            v1::OutCause::ServerErrors => OutCause::ServerErrors,
            v1::OutCause::Unreachable => OutCause::Unreachable,
            v1::OutCause::Late => OutCause::Late,
            v1::OutCause::Broken => OutCause::Broken,
            v1::OutCause::Check => OutCause::Check,
        };
        let remaining =
            wire.remaining.map(|wire| duration_from_wire("load.out.remaining", wire)).transpose()?;
        Ok(Self { cause, remaining: remaining.unwrap_or(Duration::ZERO) })
    }
}
