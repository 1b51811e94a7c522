//! A container as the engine shows it, in our terms.
//!
//! Invariant: pure. A container that is not the owner's, or whose labels are no identity,
//! gives `None`: nobody acts on it.

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status, Health as EngineHealth,
    HealthStatusEnum,
};
use skein_common::Timestamp;

use super::{
    super::{ContainerStatus, ContainerView, Health, Owner},
    call_error::shortened,
    labels, rfc3339,
};

/// What the engine reports when its own record of the exit code is missing.
const UNKNOWN_EXIT_CODE: i64 = -1;

pub(super) fn view(owner: Owner, container: ContainerInspectResponse) -> Option<ContainerView> {
    let labels = container.config?.labels?;
    if !labels::belongs_to(&labels, owner) {
        return None;
    }
    let created_at = container.created.as_deref().and_then(rfc3339::parse).unwrap_or_default();
    Some(ContainerView {
        id: container.id?,
        identity: labels::read(&labels)?,
        status: status(container.state.unwrap_or_default(), created_at),
    })
}

fn status(state: ContainerState, created_at: Timestamp) -> ContainerStatus {
    let error = state.error.as_deref().unwrap_or_default();
    match state.status {
        Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING | Status::STOPPING) => {
            ContainerStatus::Running {
                health: health(state.health),
                started_at: time(state.started_at.as_deref()).unwrap_or(created_at),
            }
        }
        // A start that failed leaves it "created", with the reason.
        Some(Status::CREATED) if error.is_empty() => ContainerStatus::Created,
        _ => ContainerStatus::Exited {
            exit_code: state.exit_code.unwrap_or(UNKNOWN_EXIT_CODE),
            oom_killed: state.oom_killed.unwrap_or_default(),
            finished_at: time(state.finished_at.as_deref()).unwrap_or(created_at),
            message: shortened(error.to_owned()),
        },
    }
}

fn health(health: Option<EngineHealth>) -> Health {
    let Some(health) = health else { return Health::Unchecked };
    match health.status {
        Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy {
            output: health
                .log
                .and_then(|mut results| results.pop())
                .and_then(|last| last.output)
                .map(|output| shortened(output.trim().to_owned()))
                .unwrap_or_default(),
        },
        Some(HealthStatusEnum::EMPTY | HealthStatusEnum::NONE) | None => Health::Unchecked,
    }
}

fn time(text: Option<&str>) -> Option<Timestamp> {
    text.and_then(rfc3339::parse)
}
