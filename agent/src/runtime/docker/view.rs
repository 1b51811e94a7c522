//! A container as the engine shows it, in our terms.
//!
//! Invariant: pure. A container that is not the owner's, or whose labels are no identity,
//! gives `None`: nobody acts on it.

use std::net::IpAddr;

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status, Health as EngineHealth,
    HealthStatusEnum, NetworkSettings,
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
        address: container.network_settings.and_then(address),
        identity: labels::read(&labels)?,
        status: status(container.state.unwrap_or_default(), created_at),
    })
}

/// The first there is; a container that does not run has none.
fn address(settings: NetworkSettings) -> Option<IpAddr> {
    let mut networks = settings.networks.unwrap_or_default().into_values();
    networks.find_map(|network| network.ip_address?.parse().ok())
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

#[cfg(test)]
mod tests {
    use bollard::models::HealthcheckResult;

    use super::*;

    const AT: &str = "1970-01-01T00:00:05Z";
    const NEVER: &str = "0001-01-01T00:00:00Z";
    const MADE: Timestamp = Timestamp::from_unix_ms(1);

    fn state(status: Status) -> ContainerState {
        ContainerState {
            status: Some(status),
            started_at: Some(AT.to_owned()),
            finished_at: Some(NEVER.to_owned()),
            exit_code: Some(0),
            ..ContainerState::default()
        }
    }

    fn exited(exit_code: i64, finished_at: Timestamp, message: &str) -> ContainerStatus {
        ContainerStatus::Exited { exit_code, oom_killed: false, finished_at, message: message.to_owned() }
    }

    #[test]
    fn every_state_means_one_thing() {
        let at = Timestamp::from_unix_ms(5000);
        let running = |started_at| ContainerStatus::Running { health: Health::Unchecked, started_at };
        let failed = ContainerState {
            error: Some("no such file".to_owned()),
            exit_code: Some(127),
            ..state(Status::CREATED)
        };
        let ended =
            ContainerState { finished_at: Some(AT.to_owned()), exit_code: Some(3), ..state(Status::EXITED) };
        let late = ContainerState { started_at: None, ..state(Status::RUNNING) };
        for (given, expected) in [
            (state(Status::CREATED), ContainerStatus::Created),
            (failed, exited(127, MADE, "no such file")),
            (state(Status::RUNNING), running(at)),
            (late, running(MADE)),
            (state(Status::PAUSED), running(at)),
            (ended, exited(3, at, "")),
            (state(Status::DEAD), exited(0, MADE, "")),
            (ContainerState::default(), exited(UNKNOWN_EXIT_CODE, MADE, "")),
        ] {
            assert_eq!(status(given, MADE), expected);
        }
    }

    #[test]
    fn the_last_check_says_why_it_is_ill() {
        let result = |output: &str| HealthcheckResult {
            output: Some(output.to_owned()),
            ..HealthcheckResult::default()
        };
        let engine = |status| EngineHealth {
            status: Some(status),
            failing_streak: Some(1),
            log: Some(vec![result("fine"), result(" refused\n")]),
        };
        for (given, expected) in [
            (None, Health::Unchecked),
            (Some(engine(HealthStatusEnum::NONE)), Health::Unchecked),
            (Some(engine(HealthStatusEnum::STARTING)), Health::Starting),
            (Some(engine(HealthStatusEnum::HEALTHY)), Health::Healthy),
            (Some(engine(HealthStatusEnum::UNHEALTHY)), Health::Unhealthy { output: "refused".to_owned() }),
        ] {
            assert_eq!(health(given), expected);
        }
    }
}
