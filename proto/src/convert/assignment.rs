//! What a leader tells an agent.

use skein_common::{
    InstanceId,
    assignment::{Assignment, AssignmentContent, AssignmentUpdate, Known},
    instance::{PortBinding, Readiness, Restarts},
    placement::DeviceShare,
    service::{Generation, ResourceRequirements},
};

use super::{InvalidMessage, id, instance::restarts_to_wire, required};
use crate::v1;

impl From<&Assignment> for v1::Assignment {
    fn from(assignment: &Assignment) -> Self {
        Self {
            instance_id: assignment.instance.to_string(),
            service_id: assignment.service.to_string(),
            service_name: assignment.service_name.clone(),
            slot: assignment.slot,
            generation: assignment.generation.0,
            desired: v1::Desired::from(assignment.desired).into(),
            container: Some((&assignment.container).into()),
            limit: Some(assignment.resources.limit.into()),
            reservation: Some(assignment.resources.reservation.into()),
            restart: Some((&assignment.restart).into()),
            ports: assignment.ports.iter().map(v1::PortBinding::from).collect(),
            attempt: assignment.attempt,
            devices: assignment.devices.iter().map(v1::DeviceShare::from).collect(),
            pids: assignment.resources.pids,
            known: (assignment.known != Known::default()).then(|| (&assignment.known).into()),
        }
    }
}

impl TryFrom<v1::Assignment> for Assignment {
    type Error = InvalidMessage;

    fn try_from(wire: v1::Assignment) -> Result<Self, InvalidMessage> {
        let desired =
            v1::Desired::try_from(wire.desired).map_err(|e| InvalidMessage::invalid("desired", e))?;
        let container = required("container", wire.container)?
            .try_into()
            .map_err(|violations| InvalidMessage::invalid("container", violations))?;
        let restart = wire
            .restart
            .unwrap_or_default()
            .try_into()
            .map_err(|violations| InvalidMessage::invalid("restart", violations))?;
        Ok(Self {
            instance: id("instance_id", &wire.instance_id)?,
            service: id("service_id", &wire.service_id)?,
            service_name: wire.service_name,
            slot: wire.slot,
            generation: Generation(wire.generation),
            desired: desired.try_into()?,
            container,
            resources: ResourceRequirements {
                reservation: wire.reservation.unwrap_or_default().into(),
                limit: wire.limit.unwrap_or_default().into(),
                pids: wire.pids,
            },
            restart,
            ports: wire.ports.into_iter().map(PortBinding::try_from).collect::<Result<_, _>>()?,
            devices: wire.devices.into_iter().map(DeviceShare::try_from).collect::<Result<_, _>>()?,
            attempt: wire.attempt.max(1),
            known: wire.known.map(Known::try_from).transpose()?.unwrap_or_default(),
        })
    }
}

impl From<&Known> for v1::Known {
    fn from(known: &Known) -> Self {
        Self {
            was_ready: known.was_ready,
            readiness: known.readiness.0,
            restarts: restarts_to_wire(&known.restarts),
        }
    }
}

impl TryFrom<v1::Known> for Known {
    type Error = InvalidMessage;

    fn try_from(wire: v1::Known) -> Result<Self, InvalidMessage> {
        Ok(Self {
            was_ready: wire.was_ready,
            readiness: Readiness(wire.readiness),
            restarts: wire.restarts.map(Restarts::try_from).transpose()?.unwrap_or_default(),
        })
    }
}

impl From<&AssignmentUpdate> for v1::session_response::Message {
    fn from(update: &AssignmentUpdate) -> Self {
        let (term, generation) = (update.term, update.generation);
        match &update.content {
            AssignmentContent::Full(assignments) => Self::Set(v1::AssignmentSet {
                term,
                generation,
                assignments: assignments.iter().map(v1::Assignment::from).collect(),
            }),
            AssignmentContent::Delta { from, upserts, removals } => Self::Delta(v1::AssignmentDelta {
                term,
                generation,
                from_generation: *from,
                upserts: upserts.iter().map(v1::Assignment::from).collect(),
                removals: removals.iter().map(InstanceId::to_string).collect(),
            }),
        }
    }
}

fn assignments(wire: Vec<v1::Assignment>) -> Result<Vec<Assignment>, InvalidMessage> {
    wire.into_iter().map(Assignment::try_from).collect()
}

impl TryFrom<v1::AssignmentSet> for AssignmentUpdate {
    type Error = InvalidMessage;

    fn try_from(wire: v1::AssignmentSet) -> Result<Self, InvalidMessage> {
        let content = AssignmentContent::Full(assignments(wire.assignments)?);
        Ok(Self { term: wire.term, generation: wire.generation, content })
    }
}

impl TryFrom<v1::AssignmentDelta> for AssignmentUpdate {
    type Error = InvalidMessage;

    fn try_from(wire: v1::AssignmentDelta) -> Result<Self, InvalidMessage> {
        let content = AssignmentContent::Delta {
            from: wire.from_generation,
            upserts: assignments(wire.upserts)?,
            removals: wire.removals.iter().map(|text| id("removals", text)).collect::<Result<_, _>>()?,
        };
        Ok(Self { term: wire.term, generation: wire.generation, content })
    }
}
