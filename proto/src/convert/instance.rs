//! Phases, wishes and observations.

use skein_common::{
    InstanceId, Timestamp,
    instance::{Desired, InstanceReport, News, Observed, Phase, PortBinding, Progress, Readiness, Restarts},
    service::Protocol,
};

use super::{InvalidMessage, id, port, required, timestamp_from_wire, timestamp_to_wire};
use crate::v1;

impl From<Phase> for v1::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Pending => Self::Pending,
            Phase::Assigned => Self::Assigned,
            Phase::Pulling => Self::Pulling,
            Phase::Creating => Self::Creating,
            Phase::Starting => Self::Starting,
            Phase::Running => Self::Running,
            Phase::Ready => Self::Ready,
            Phase::Draining => Self::Draining,
            Phase::Stopping => Self::Stopping,
            Phase::Stopped => Self::Stopped,
            Phase::Failed => Self::Failed,
            Phase::Rejected => Self::Rejected,
        }
    }
}

impl TryFrom<v1::Phase> for Phase {
    type Error = InvalidMessage;

    fn try_from(wire: v1::Phase) -> Result<Self, InvalidMessage> {
        Ok(match wire {
            v1::Phase::Unspecified => return Err(InvalidMessage::Missing { field: "phase" }),
            v1::Phase::Pending => Self::Pending,
            v1::Phase::Assigned => Self::Assigned,
            v1::Phase::Pulling => Self::Pulling,
            v1::Phase::Creating => Self::Creating,
            v1::Phase::Starting => Self::Starting,
            v1::Phase::Running => Self::Running,
            v1::Phase::Ready => Self::Ready,
            v1::Phase::Draining => Self::Draining,
            v1::Phase::Stopping => Self::Stopping,
            v1::Phase::Stopped => Self::Stopped,
            v1::Phase::Failed => Self::Failed,
            v1::Phase::Rejected => Self::Rejected,
        })
    }
}

impl From<Desired> for v1::Desired {
    fn from(desired: Desired) -> Self {
        match desired {
            Desired::Run => Self::Run,
            Desired::Stop => Self::Stop,
            Desired::Remove => Self::Remove,
        }
    }
}

impl TryFrom<v1::Desired> for Desired {
    type Error = InvalidMessage;

    fn try_from(wire: v1::Desired) -> Result<Self, InvalidMessage> {
        Ok(match wire {
            v1::Desired::Unspecified => return Err(InvalidMessage::Missing { field: "desired" }),
            v1::Desired::Run => Self::Run,
            v1::Desired::Stop => Self::Stop,
            v1::Desired::Remove => Self::Remove,
        })
    }
}

impl From<&Observed> for v1::Observed {
    fn from(observed: &Observed) -> Self {
        Self {
            attempt: observed.progress.attempt,
            phase: v1::Phase::from(observed.progress.phase).into(),
            at: Some(timestamp_to_wire(observed.at)),
            container_id: observed.container_id.clone(),
            exit_code: observed.exit_code,
            message: observed.message.clone(),
            readiness: observed.readiness.0,
            restarts: restarts_to_wire(&observed.restarts),
        }
    }
}

impl TryFrom<v1::Observed> for Observed {
    type Error = InvalidMessage;

    fn try_from(wire: v1::Observed) -> Result<Self, InvalidMessage> {
        let phase = v1::Phase::try_from(wire.phase).map_err(|e| InvalidMessage::invalid("phase", e))?;
        if wire.attempt == 0 {
            return Err(InvalidMessage::Missing { field: "attempt" });
        }
        Ok(Self {
            progress: Progress { attempt: wire.attempt, phase: phase.try_into()? },
            at: timestamp_from_wire("at", required("at", wire.at)?)?,
            container_id: wire.container_id,
            exit_code: wire.exit_code,
            message: wire.message,
            readiness: Readiness(wire.readiness),
            restarts: wire.restarts.map(Restarts::try_from).transpose()?.unwrap_or_default(),
        })
    }
}

impl v1::Observed {
    /// May receive traffic.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase() == v1::Phase::Ready && Readiness(self.readiness).is_serving()
    }
}

/// Absent when nothing was restarted, as nearly always.
pub(super) fn restarts_to_wire(restarts: &Restarts) -> Option<v1::Restarts> {
    (*restarts != Restarts::default()).then(|| v1::Restarts {
        total: restarts.total,
        streak: restarts.streak,
        in_window: restarts.in_window,
        recent: restarts.recent.iter().copied().map(timestamp_to_wire).collect(),
        not_before: Some(timestamp_to_wire(restarts.not_before)),
    })
}

impl TryFrom<v1::Restarts> for Restarts {
    type Error = InvalidMessage;

    fn try_from(wire: v1::Restarts) -> Result<Self, InvalidMessage> {
        let recent = wire.recent.into_iter().take(Self::KEPT);
        Ok(Self {
            total: wire.total,
            streak: wire.streak,
            in_window: wire.in_window,
            recent: recent.map(|at| timestamp_from_wire("restarts.recent", at)).collect::<Result<_, _>>()?,
            not_before: match wire.not_before {
                Some(at) => timestamp_from_wire("restarts.not_before", at)?,
                None => Timestamp::default(),
            },
        })
    }
}

impl From<&InstanceReport> for v1::InstanceReport {
    fn from(report: &InstanceReport) -> Self {
        Self {
            instance_id: report.instance.to_string(),
            news: Some(match &report.news {
                News::Observed(observed) => v1::instance_report::News::Observed(observed.into()),
                News::Gone => v1::instance_report::News::Gone(v1::Gone {}),
            }),
        }
    }
}

impl TryFrom<v1::InstanceReport> for InstanceReport {
    type Error = InvalidMessage;

    fn try_from(wire: v1::InstanceReport) -> Result<Self, InvalidMessage> {
        let instance: InstanceId = id("instance_id", &wire.instance_id)?;
        let news = match required("news", wire.news)? {
            v1::instance_report::News::Observed(observed) => News::Observed(observed.try_into()?),
            v1::instance_report::News::Gone(_) => News::Gone,
        };
        Ok(Self { instance, news })
    }
}

impl From<&PortBinding> for v1::PortBinding {
    fn from(binding: &PortBinding) -> Self {
        Self {
            container_port: binding.container_port.into(),
            host_port: binding.host_port.into(),
            protocol: v1::Protocol::from(binding.protocol).into(),
        }
    }
}

impl TryFrom<v1::PortBinding> for PortBinding {
    type Error = InvalidMessage;

    fn try_from(wire: v1::PortBinding) -> Result<Self, InvalidMessage> {
        let protocol =
            v1::Protocol::try_from(wire.protocol).map_err(|e| InvalidMessage::invalid("protocol", e))?;
        Ok(Self {
            container_port: port("container_port", wire.container_port)?,
            host_port: port("host_port", wire.host_port)?,
            protocol: Protocol::from(protocol),
        })
    }
}
