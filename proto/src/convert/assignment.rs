//! What a leader tells an agent.

use skein_common::{
    InstanceId,
    assignment::{Assignment, AssignmentContent, AssignmentUpdate},
    instance::PortBinding,
    service::{Generation, ResourceRequirements},
};

use super::{InvalidMessage, id, required};
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
            },
            restart,
            ports: wire.ports.into_iter().map(PortBinding::try_from).collect::<Result<_, _>>()?,
            attempt: wire.attempt.max(1),
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
